"""Bodies of other protocols, for people who must not see patients' data: names are shown, values are not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.masking import body_lines, mask_text, visible
from tests.patient_texts import assert_absent

SECRETS = ["张伟", "440101199001011234", "13812345678", "M4711"]
XML = (
    '<?xml version="1.0" encoding="utf-8"?>\n<!-- 张伟 13812345678 -->\n'
    '<soap:Envelope xmlns:soap="http://x/张伟"><soap:Body a=\'13812345678\' b = "M4711">'
    "<Name>张伟</Name><Inner><![CDATA[<Request><IDNo>440101199001011234</IDNo></Request>]]></Inner><Empty/>M4711"
    "</soap:Body></soap:Envelope>"
)
JSON = {
    "resourceType": "Patient",
    "name": [{"text": "张伟"}],
    "13812345678": {"张伟": True},
    "telecom": [{"value": "13812345678", "rank": 1}],
    "birthDate": None,
    "identifier": 440101199001011234,
}


def masked(data: bytes) -> str:
    return "\n".join(line.text for line in body_lines(data, masked=True))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030"])
def test_only_names_are_shown_when_xml_is_masked(codec: str) -> None:
    shown = masked(XML.encode(codec))
    assert_absent(shown.encode(), SECRETS, "masked XML")
    assert '<soap:Envelope xmlns:soap="<5-16>">' in shown
    assert '<soap:Body a="<5-16>" b="<5-16>">' in shown
    assert "  <Name>\n   <1-4>\n  </Name>" in shown
    assert "<Inner>\n   <17-64>\n" in shown  # whatever stands in CDATA is one value
    assert "<Empty/>" in shown


def test_only_names_are_shown_when_json_is_masked() -> None:
    shown = masked(json.dumps(JSON, ensure_ascii=False).encode())
    assert_absent(shown.encode(), SECRETS, "masked JSON")
    tree = json.loads(shown)
    assert tree["resourceType"] == "<5-16>"
    assert tree["telecom"] == [{"value": "<5-16>", "rank": "<int>"}]
    assert tree["identifier"] == "<int>"
    assert tree["birthDate"] is None


@pytest.mark.parametrize(
    "data",
    [
        XML.replace("</Name>", "").replace("<Name>", "<").encode(),
        XML[:-40].encode() + b"<",
        XML.encode("utf-16"),
        b"<a " + "张伟".encode() + b"=1 13812345678>x</a>",
        "<张伟>x</张伟>".encode(),
        json.dumps(JSON, ensure_ascii=False).encode()[:-5],
        b"[" * 100_000 + b"]" * 100_000,
        "张伟 13812345678".encode(),
        b"\xff\xfe\x00" + "张伟".encode(),
        b"",
    ],
)
def test_nothing_is_shown_when_a_body_is_broken_or_of_no_known_form(data: bytes) -> None:
    assert_absent(masked(data).encode(), SECRETS, "the masked body")


@pytest.mark.parametrize("piece", ["<![CDATA[>", "<!-->", "<!--", "<?", '<a b="', "<a b='<", "</", "<a ", "&"])
def test_hostile_xml_is_given_up_when_it_would_be_looked_through_again_and_again(piece: str) -> None:
    masked(("<a>" + piece * 100_000).encode())  # the test's time-out is what fails


@given(st.text(min_size=1))
def test_length_is_told_in_five_classes_only(text: str) -> None:
    assert mask_text(text) in ("<1-4>", "<5-16>", "<17-64>", "<65-1000>", "<1000+>")


@given(st.text())
def test_every_character_can_be_seen_when_it_is_printed(text: str) -> None:
    assert visible(text).isprintable()
    assert "\x1b" not in visible(text + "\x1b[2J\u202e")
