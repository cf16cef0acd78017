"""Reading what hospitals send: bytes to text by rule, and nothing dangerous in the parser."""

from __future__ import annotations

import encodings
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.soap.xml import (
    MAX_DEPTH,
    BareText,
    Diffgram,
    HtmlPage,
    Undecodable,
    XmlError,
    XmlForbidden,
    build_document,
    decode,
    parse,
    read_document,
    write_document,
)

BOMB = '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><r>&b;</r>'


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/evil.dtd"><r/>',
        '<?xml version="1.0"?>\n<!-- x --><?pi y?><!doctype r><r/>',
        '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x;</r>',
        "<r>" + "<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH + "</r>",
        "<r>" + "a" * 1000 + "</r>",
    ],
    ids=["bomb", "external dtd", "doctype after prolog", "external entity", "too deep", "too long"],
)
def test_document_is_forbidden_when_it_is_dangerous(text: str) -> None:
    with pytest.raises(XmlForbidden):
        parse(text, max_chars=900)


@pytest.mark.parametrize(
    "text", ["", "<r>", "<r>&undefined;</r>", "plain", "<r>\x00</r>", "<?xml", "<!-- <r/>", "<a/><b/>"]
)
def test_document_is_refused_when_it_is_not_well_formed(text: str) -> None:
    with pytest.raises(XmlError) as raised:
        parse(text)
    assert "undefined" not in str(raised.value)


def test_document_is_read_when_it_is_as_deep_as_allowed() -> None:
    assert parse("<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH).tag == "a"


def test_prolog_is_dropped_when_it_declares_another_encoding() -> None:
    root = parse('\ufeff<?xml version="1.0" encoding="gb2312"?>\r\n<r>朱镕基</r>')
    assert root.text == "朱镕基"


@pytest.mark.parametrize(
    ("data", "http", "text", "fallback"),
    [
        ("<r>张</r>".encode(), None, "<r>张</r>", None),
        ("<r>张</r>".encode("gbk"), None, "<r>张</r>", "gb_as_utf8"),
        ('<?xml version="1.0" encoding="UTF-8"?><r>東</r>'.encode("gbk"), "utf-8", None, "gb_as_utf8"),
        ('<?xml version="1.0" encoding="gb2312"?><r>镕喆</r>'.encode("gb18030"), None, None, None),
        ("<r>张</r>".encode("gbk"), "GBK", "<r>张</r>", None),
        ("<r>张伟</r>".encode(), "gb2312", "<r>张伟</r>", "utf8_as_gb"),
        ('<?xml version="1.0" encoding="GBK"?><r>张</r>'.encode(), None, None, "utf8_as_gb"),
        (b"<r>ascii</r>", "gbk", "<r>ascii</r>", None),
        ("<r>张</r>".encode("utf-8-sig"), "gbk", "<r>张</r>", None),
        ("<r>张</r>".encode("utf-16"), None, "<r>张</r>", None),
        ("<r>張</r>".encode("big5"), "big5", "<r>張</r>", None),
        ("<r>张</r>".encode(), "no-such-charset", "<r>张</r>", None),
        ("<r>𠮷</r>".encode("gb18030"), "utf-8", "<r>𠮷</r>", "gb_as_utf8"),
    ],
)
def test_bytes_are_decoded_as_declared_or_by_the_rule(
    data: bytes, http: str | None, text: str | None, fallback: str | None
) -> None:
    decoded = decode(data, http)
    assert decoded.fallback == fallback
    assert "\ufffd" not in decoded.text
    if text is not None:
        assert decoded.text == text
    else:
        assert any(char in decoded.text for char in "東镕张")


@pytest.mark.parametrize(("data", "http"), [(b"\xff\xff\xff", None), (b"\x81", "gbk"), (b"\xff\xfe\xfa", "big5")])
def test_bytes_are_refused_when_they_are_text_in_no_charset(data: bytes, http: str | None) -> None:
    with pytest.raises(Undecodable):
        decode(data, http)


@given(st.text(alphabet="東張镕喆中文测试abc|^~\\<>&;0", max_size=40))
def test_gbk_text_survives_when_its_label_is_right(text: str) -> None:
    decoded = decode(text.encode("gbk"), "gbk")
    assert decoded.text == text or decoded.fallback == "utf8_as_gb"


@given(st.binary(max_size=200))
def test_reader_raises_nothing_else_when_bytes_are_arbitrary(data: bytes) -> None:
    try:
        read_document(decode(data).text, root="Response")
    except XmlError:
        return


@pytest.mark.parametrize(
    "text",
    [
        "<Response><a>1</a></Response>",
        'DEBUG 1^2\r\n<?xml version="1.0" encoding="GBK"?><Response><a>1</a></Response>trailing',
        '<?xml version="1.0" encoding="gb2312"?><Response><a>1</a></Response>',
    ],
)
def test_inner_document_is_found_when_junk_stands_around_it(text: str) -> None:
    assert read_document(text, root="Response").findtext("a") == "1"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("未知服务", BareText),
        ("<html><body>502</body></html>", HtmlPage),
        ("<!DOCTYPE html><html></html>", HtmlPage),
        ('<diffgr:diffgram xmlns:diffgr="urn:x"><NewDataSet/></diffgr:diffgram>', Diffgram),
        ("", XmlError),
        ("<Result/>", XmlError),
        ("<Responses/>", XmlError),
        ("<Response><a></Response>", XmlError),
        ("<!DOCTYPE Response [<!ENTITY a 'b'>]><Response>&a;</Response>", XmlForbidden),
    ],
)
def test_inner_document_has_its_own_error_when_it_is_something_else(text: str, error: type[XmlError]) -> None:
    with pytest.raises(XmlError) as raised:
        read_document(text, root="Response")
    assert raised.type is error
    assert "未知" not in str(raised.value)


def test_tree_is_written_in_order_with_lists_attributes_and_escapes() -> None:
    tree = {"Request": {"@v": 1, "A": "a<&>", "B": None, "C": "", "D": [{"E": 1}, {"E": True}]}}
    assert write_document(build_document(tree)) == (
        '<Request v="1"><A>a&lt;&amp;&gt;</A><B/><C/><D><E>1</E></D><D><E>true</E></D></Request>'
    )


@pytest.mark.parametrize("tree", [{}, {"A": 1, "B": 2}, [], {"A": "\x01"}, {"A b": 1}])
def test_tree_is_refused_when_it_is_no_document(tree: object) -> None:
    with pytest.raises(ValueError, match=r"root|Invalid|XML"):
        build_document(tree)


def test_label_is_not_remembered_when_it_is_no_charset() -> None:
    decode("<r/>".encode("utf-16"), "utf-16")
    known: dict[str, object] = encodings._cache  # grows with each label that Python looks for
    before = len(known)
    for n in range(10):
        assert decode("<r>张</r>".encode(), f"x-nobody-{n}").charset == "utf-8"
    assert len(known) == before


@pytest.mark.parametrize("label", ["ISO-8859-1", "iso_8859-1:1987", "cp1252", "big5-hkscs", "us-ascii", "UTF-8"])
def test_label_is_known_by_its_other_names(label: str) -> None:
    assert decode(b"<r/>", label).charset != "utf-8" or label == "UTF-8"


def test_junk_is_refused_at_once_when_it_is_large() -> None:
    began_s = time.thread_time()
    with pytest.raises(XmlError):
        read_document("<" * 10_000_000, root="R")
    assert time.thread_time() - began_s < 0.6  # one that holds up the whole process takes more than a second


def test_document_is_read_when_each_row_declares_a_namespace() -> None:
    rows = '<ns1:row xmlns:ns1="urn:a" xmlns:ns2="urn:b"/>' * 1000
    assert len(parse(f'<r xmlns="urn:r">{rows}</r>')) == 1000
    deep = "".join(f'<a xmlns:n{n}="urn:{n}">' for n in range(40))
    with pytest.raises(XmlForbidden, match="namespaces"):
        parse(deep + "</a>" * 40)
