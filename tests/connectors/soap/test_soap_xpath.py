"""XPath as the path language of profiles."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from connectors.soap.xpath import XPathLanguage
from mappings.context import MapContext
from mappings.sources import Run, first_text

ZONE = ZoneInfo("Asia/Shanghai")
CTX = MapContext(hospital_id="h", zone=ZONE, currency="CNY", now=dt.datetime(2026, 1, 5, tzinfo=ZONE))

ROOT = etree.fromstring("<Response><L><I k='1'><n> a </n></I><I k='2'><n/></I></L><D><n>x<b>y</b></n></D></Response>")


def _texts(path: str, node: etree._Element = ROOT) -> list[str | None]:
    language = XPathLanguage()
    return [language.text(found) for found in language.compile(path)(ROOT, node)]


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("/Response/L/I/n", ["a", None]),
        ("L/I[@k='2']/@k", ["2"]),
        ("/Response/L/I | /Response/D[n]", ["a", None, "xy"]),
        ("//n[normalize-space(.)='a']", ["a"]),
        ("L/I[position()=last()]/@k", ["2"]),
        ("*[local-name()='D']", ["xy"]),
        ("string(D/n)", ["xy"]),
        ("contains(D/n, 'y')", ["true"]),
        ("/Response/Missing", []),
        ("D/n/text()", ["x"]),
    ],
)
def test_path_gives_what_xpath_says(path: str, texts: list[str | None]) -> None:
    assert _texts(path) == texts


def test_relative_path_starts_at_the_node_and_absolute_at_the_document() -> None:
    item = ROOT[0][1]
    assert _texts("../I/@k", item) == ["1", "2"]
    assert _texts("/Response/D/n", item) == ["xy"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a[",
        "document('x')",
        "count(a)",
        "re:test(a, 'b')",
        "$x",
        "s:a",
        "a" * 501,
        "id('x')",
        "translate(a,'b','c')",
    ],
)
def test_path_is_refused_when_it_is_bad_or_too_powerful(path: str) -> None:
    with pytest.raises(ValueError, match=r"XPath|not allowed"):
        XPathLanguage().compile(path)


def test_function_name_in_a_literal_is_no_function() -> None:
    assert _texts("//n[not(.='count(a)')]/b") == ["y"]


# --- the first text below a node, without an XPath ----------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "名"])
_TEXTS = st.sampled_from(["", " ", "x", " y ", "\n"])


def _element(name: str, text: str, tail: str, children: list[etree._Element]) -> etree._Element:
    element = etree.Element(name)
    element.text, element.tail = text, tail
    element.extend(children)
    return element


_TREES: Any = st.recursive(
    st.builds(_element, _NAMES, _TEXTS, _TEXTS, st.just([])),
    lambda inner: st.builds(_element, _NAMES, _TEXTS, _TEXTS, st.lists(inner, max_size=4)),
    max_leaves=12,
)


@given(_TREES, st.lists(_NAMES, min_size=1, max_size=3))
def test_first_text_below_a_node_is_the_one_that_xpath_finds(root: etree._Element, steps: list[str]) -> None:
    language, path = XPathLanguage(), "/".join(steps)
    find = language.compile(path)
    assert hasattr(find, "first")
    read, run = first_text(find, language.text), Run(root, CTX)
    for node in [root, *root, *root]:  # one after the other, and again: a row must not outlive its node
        texts = (text for found in find(root, node) if (text := language.text(found)))
        assert read(run, node) == next(texts, None)
    assert read(run, "a text") is None


@pytest.mark.parametrize(
    "path", [".", "..", "../a", "/R/a", "//a", "a[1]", "@k", "a/@k", "text()", "a | b", "*", "a/text()"]
)
def test_other_paths_than_names_are_xpaths(path: str) -> None:
    assert not hasattr(XPathLanguage().compile(path), "first")


def test_comments_and_what_stands_before_elements_do_not_matter_to_the_first_text() -> None:
    root = etree.fromstring("<R><!-- a --><a/><a> <b/>x</a><a>y</a><b><![CDATA[ z ]]></b></R>")
    language, run = XPathLanguage(), Run(root, CTX)
    assert [first_text(language.compile(name), language.text)(run, root) for name in ("a", "b", "c")] == [
        "x",
        "z",
        None,
    ]
