"""Documents in the forms that hospitals write them, read to one tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from connectors.soap.forms import Form, Packing, read_form, tree_of, with_places, write_form
from connectors.soap.xml import BareText, Diffgram, HtmlPage, XmlError, XmlForbidden

MAX = 1_000_000


def read(form: Form, text: str, **how: object) -> etree._Element:
    return read_form(form, text, root="R", max_chars=MAX, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{"Code": 0, "Data": [{"科室": "内科"}, {"科室": "外科"}]}',
            "<R><Code>0</Code><Data><科室>内科</科室></Data><Data><科室>外科</科室></Data></R>",
        ),
        ("{Code:'0',科室:'内科',}", "<R><Code>0</Code><科室>内科</科室></R>"),
        ("{科室:\"内科\",号源:12.50,可约:true,备注:null}", "<R><科室>内科</科室><号源>12.5</号源><可约>true</可约><备注/></R>"),
        ('[{"a": 1}, {"a": 2}]', "<R><item><a>1</a></item><item><a>2</a></item></R>"),
        ('\ufeff {"1号": "x", "a b": "y", "": "z"}', "<R><_1号>x</_1号><a_b>y</a_b><_>z</_></R>"),
        ('{"a": [], "b": [[1], [2]]}', "<R><b><item>1</item></b><b><item>2</item></b></R>"),
        ('{"a": "x\\u0000y\\u000b"}', "<R><a>x_y_</a></R>"),
        ('{"a": "\\ud800"}', "<R><a>?</a></R>"),
        ("DEBUG 1 row\r\n{a: 1}\r\nOK", "<R><a>1</a></R>"),
        ("[1, 2] OK", "<R><item>1</item><item>2</item></R>"),
    ],
)  # fmt: skip
def test_json_becomes_elements_when_it_is_strict_or_what_hospitals_take_for_it(text: str, told: str) -> None:
    assert etree.tostring(read(Form.JSON, text), encoding="unicode") == told


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", XmlError),
        ("未知服务", BareText),
        ("<!DOCTYPE html><html></html>", HtmlPage),
        ("<Response/>", XmlError),
        ('{"a": ', XmlError),
        ("{a b: 1}", XmlError),
        ("[" * 100_000, XmlError),
        ("[" * 200 + "]" * 200, XmlForbidden),
        ('{"a": "' + "x" * MAX + '"}', XmlForbidden),
        ("{a: 0x" + "f" * 6000 + "}", XmlForbidden),
        ("未知服务{}", BareText),
        ("未知服务{0}", BareText),
        ("}未知服务{", BareText),
        ("未知服务[1]", BareText),
        ("x" + "{a:" * 200 + "1" + "}" * 200, BareText),
    ],
)
def test_json_is_told_apart_when_it_is_none(text: str, error: type[XmlError]) -> None:
    with pytest.raises(error):
        read(Form.JSON, text)


def test_several_roots_stand_under_one_when_the_reply_is_a_fragment() -> None:
    told = "<?xml version='1.0' encoding='GBK'?><result><returnCode>1</returnCode></result><Data><a>x</a></Data>"
    root = read(Form.XML, told, fragment=True)
    assert [child.tag for child in root] == ["result", "Data"]
    assert root.findtext("result/returnCode") == "1"
    with pytest.raises(BareText):
        read(Form.XML, "未知服务", fragment=True)
    with pytest.raises(XmlForbidden):
        read(Form.XML, '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', fragment=True)
    with pytest.raises(XmlError):
        read(Form.XML, "<a/></R><R>", fragment=True, packing=None)


TWO = "<result><returnCode>1</returnCode></result>{}<Data><a>x</a></Data>"


@pytest.mark.parametrize(
    "told",
    [
        "DEBUG 12 rows\r\n" + TWO.format(""),
        "调试 < 3:<?xml version='1.0' encoding='GBK'?>" + TWO.format("\r\n"),
        "<?xml version='1.0'?>" + TWO.format("<?xml version='1.0' encoding=\"GBK\"?>"),
    ],
    ids=["junk", "junk with a sign", "prologs"],
)
def test_fragment_begins_with_its_first_element_when_that_has_a_name(told: str) -> None:
    root = read(Form.XML, told, fragment="result")
    assert [child.tag for child in root] == ["result", "Data"]
    assert root.findtext("Data/a") == "x"


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("未知服务", BareText),
        ("<html><body/></html>", HtmlPage),
        ("<d:diffgram xmlns:d='urn:x'/>", Diffgram),
        ("<Data/>", XmlError),
        ("", XmlError),
        ("<!DOCTYPE r [<!ENTITY x 'y'>]><result>&x;</result>", XmlForbidden),
        ("<result/><!DOC<?xml version='1.0'?>TYPE r>", XmlError),
        ("<result/></R><R>", XmlError),
    ],
)
def test_fragment_is_told_apart_when_its_first_element_is_missing(told: str, error: type[XmlError]) -> None:
    with pytest.raises(error) as raised:
        read(Form.XML, told, fragment="result")
    assert type(raised.value) is error


def test_packed_string_becomes_rows_when_names_are_given() -> None:
    packing = Packing(fields="^", rows="!", row="Doctor", names=("id", "", "name"))
    root = read(Form.PACKED, "D1^x^李明!D2^y^王芳^more!!", packing=packing)
    assert etree.tostring(root, encoding="unicode") == (
        "<R><Doctor><id>D1</id><name>李明</name></Doctor><Doctor><id>D2</id><name>王芳</name></Doctor></R>"
    )


def test_packed_request_keeps_the_place_of_each_value() -> None:
    packing = Packing(fields="|", rows=";")
    assert write_form(Form.PACKED, {"a": "1", "b": "", "c": 3}, packing) == "1||3"
    assert write_form(Form.PACKED, [{"a": "1", "b": "2"}, {"a": "3", "b": None}], packing) == "1|2;3|"
    with pytest.raises(ValueError, match="separator"):
        write_form(Form.PACKED, {"a": "1|2"}, packing)


def test_packed_request_is_refused_when_a_value_has_parts() -> None:
    with pytest.raises(ValueError, match="no parts within parts"):
        write_form(Form.PACKED, {"a": "1", "b": {"c": "2"}}, Packing(fields="|"))


def test_absent_values_of_a_packed_request_are_empty_unless_they_say_otherwise() -> None:
    leaf, chosen = {"from": "a"}, {"variant": "a", "cases": {"1": {"value": "x"}}, "absent": "omit"}
    assert with_places({"a": leaf, "b": "fixed", "c": chosen, "d": {"join": {"x": "a"}, "via": "concat"}}) == {
        "a": {"absent": "empty", "from": "a"},
        "b": "fixed",
        "c": chosen,
        "d": {"absent": "empty", "join": {"x": "a"}, "via": "concat"},
    }
    assert with_places([{"each": "items", "tree": {"n": leaf}}]) == [
        {"each": "items", "tree": {"n": {"absent": "empty", "from": "a"}}}
    ]


def test_json_request_keeps_its_characters() -> None:
    assert write_form(Form.JSON, {"姓名": "张伟", "n": 1}, None) == '{"姓名": "张伟", "n": 1}'


@given(st.text(max_size=200))
def test_any_text_gives_a_tree_or_a_reason_when_it_comes_as_a_reply(text: str) -> None:
    for form, how in (
        (Form.XML, {}),
        (Form.XML, {"fragment": True}),
        (Form.XML, {"fragment": "a"}),
        (Form.JSON, {}),
        (Form.PACKED, {"packing": Packing(fields="|", rows=";", names=("a", "b"))}),
    ):
        try:
            root = read(form, text, **how)
        except XmlError:
            continue
        assert root.tag == "R"


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(_PLAIN)
def test_any_plain_data_becomes_a_tree_that_can_be_written(value: object) -> None:
    written = etree.tostring(tree_of(value, "R"), encoding="utf-8")
    assert etree.fromstring(written).tag == "R"
