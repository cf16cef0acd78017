"""XPath as the path language of profiles."""

from __future__ import annotations

import pytest
from lxml import etree

from connectors.soap.xpath import XPathLanguage

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
