"""The forms that a document has inside a call: XML, JSON as hospitals write it, and packed strings.

Whatever a reply's form is, it is read to one tree of elements, so that success rules and record maps know XPath alone.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any

import msgspec
import pyjson5
from lxml import etree

from connectors.soap.xml import (
    MAX_DEPTH,
    BareText,
    FormInvalid,
    XmlError,
    XmlForbidden,
    build_document,
    drop_prolog,
    parse,
    read_document,
    text_from,
    write_document,
)

MAX_ROWS = 100_000
# What may stand before a document and never inside one (XML 1.0 section 2.8): here documents stand one after the other.
_PROLOG_INSIDE = re.compile(r"<\?xml\s[^<>]{0,200}\?>")
# XML 1.0 (fifth edition) section 2.3, NameStartChar and NameChar, without the colon.
_STARTS = (
    "A-Z_a-z\xc0-\xd6\xd8-\xf6\xf8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c\u200d\u2070-\u218f\u2c00-\u2fef\u3001-\ud7ff"
    "\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NOT_IN_A_NAME = re.compile(f"[^{_STARTS}0-9.\xb7\u0300-\u036f\u203f\u2040-]")
_BEGINS_A_NAME = re.compile(f"[{_STARTS}]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


class Form(StrEnum):
    """How a document is written. TYPED is none: the values are the operation's own arguments, as the WSDL types them."""

    XML = "xml"
    JSON = "json"
    PACKED = "packed"
    TYPED = "typed"


class Packing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A packed string: rows between `rows` (none: it is one row), fields between `fields`.

    Read, each row becomes an element `row` with a child for each of `names`; one that is "" is passed over. Rows that are
    empty are none, and fields beyond the names are dropped.
    """

    fields: str
    rows: str = ""
    row: str = "Row"
    names: tuple[str, ...] = ()


def write_form(form: Form, tree: Any, packing: Packing | None) -> str:
    """The request's tree as text. Raises FormInvalid or another ValueError for a tree that the form cannot carry."""
    match form:
        case Form.XML:
            return write_document(build_document(tree))
        case Form.JSON:
            return json.dumps(tree, ensure_ascii=False, default=str)
        case Form.PACKED:
            if packing is None:
                raise ValueError("nothing says how it is packed")
            return _packed(tree, packing)
        case Form.TYPED:
            raise ValueError("typed values are no document")


def read_form(
    form: Form, text: str, *, root: str, packing: Packing | None = None, fragment: bool | str = False, max_chars: int
) -> etree._Element:
    """A reply's text as a tree under `root`. Raises BareText, HtmlPage, Diffgram, XmlForbidden or another XmlError.

    `fragment`: XML of several roots, each with a prolog or without; they stand under one of the name `root`. Where it names
    the first of them, junk before that is skipped.
    """
    if len(text) > max_chars:
        raise XmlForbidden(f"the document is longer than {max_chars} characters")
    match form:
        case Form.XML if fragment:
            return _fragment(text, root, max_chars, fragment if isinstance(fragment, str) else None)
        case Form.XML:
            return read_document(text, root=root, max_chars=max_chars)
        case Form.JSON:
            return _json(text, root)
        case Form.PACKED:
            if packing is None:
                raise XmlError("nothing says how the reply is packed")
            return _rows(text, root, packing)
        case Form.TYPED:
            return _fragment(text, root, max_chars)


def _fragment(text: str, root: str, max_chars: int, first: str | None = None) -> etree._Element:
    if first is not None:
        body = text_from(text, first, max_chars=max_chars)
    else:
        body = drop_prolog(text)
        if not body.startswith("<"):
            raise BareText(body.strip()) if body.strip() else XmlError("an empty reply")
    body = _PROLOG_INSIDE.sub("", body)
    return parse(f"<{root}>{body}</{root}>", max_chars=max_chars + 2 * len(root) + 5)


# --- JSON ---------------------------------------------------------------------------------------------------------


def _json(text: str, root: str) -> etree._Element:
    """JSON, or what hospitals take for it: names without quotes, single quotes, a comma at the end (JSON5 has them all)."""
    bare = text.strip(" \t\r\n\ufeff")
    if not bare:
        raise XmlError("an empty reply")
    if bare[0] not in "{[":
        if bare.startswith("<"):
            read_document(text, root=root)  # raises what an HTML page or a diffgram is
            raise XmlError("XML where JSON should be")
        return tree_of(_object_in(bare), root)
    try:
        return tree_of(_value(bare), root)
    except XmlForbidden:
        raise
    except XmlError:
        return tree_of(_value(bare[: bare.rfind("}" if bare[0] == "{" else "]") + 1]), root)


def _object_in(text: str) -> Any:
    """The object in a text that begins with something else, and may go on after it. Raises BareText where there is none."""
    inside = text[text.find("{") : text.rfind("}") + 1]
    try:
        value = _value(inside)
    except XmlForbidden:
        raise
    except XmlError:
        value = None
    if not isinstance(value, dict) or not value:
        raise BareText(text)
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise XmlForbidden(f"the document is deeper than {MAX_DEPTH}") from None
    except ValueError:
        return _json5(text)


def _json5(text: str) -> Any:
    try:
        return pyjson5.decode(text, MAX_DEPTH)
    except pyjson5.Json5DecoderException:
        raise XmlError("not JSON, nor what passes for it") from None


def tree_of(value: Any, root: str) -> etree._Element:
    """Plain data as elements: a list repeats its name (`item` where it has none), null is an empty element.

    What XML cannot have in a name becomes `_`, and so do control characters in texts. Raises XmlForbidden.
    """
    element = etree.Element(root)
    _grow(element, value, 1)
    return element


def _grow(element: etree._Element, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise XmlForbidden(f"the document is deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for name, inner in value.items():
            _add(element, _name(str(name)), inner, depth)
    elif isinstance(value, list | tuple):
        for inner in value:
            _add(element, "item", inner, depth)
    elif isinstance(value, bool):
        element.text = "true" if value else "false"
    elif value is not None:
        try:
            text = str(value)
        except ValueError:  # JSON5 has hexadecimal numbers, which Python reads at any length and writes to 4300 digits
            raise XmlForbidden("a number of thousands of digits") from None
        element.text = _CONTROL.sub("_", text).encode("utf-8", "replace").decode()


def _add(parent: etree._Element, name: str, value: Any, depth: int) -> None:
    for one in value if isinstance(value, list | tuple) else (value,):
        _grow(etree.SubElement(parent, name), one, depth + 1)


def _name(text: str) -> str:
    name = _NOT_IN_A_NAME.sub("_", text[:200])
    return name if _BEGINS_A_NAME.match(name) else f"_{name}"


# --- packed strings -----------------------------------------------------------------------------------------------


def with_places(tree: Any) -> Any:
    """A packed request in which an absent value is empty, unless it says otherwise: those behind it keep their places."""
    if isinstance(tree, list):
        return [with_places(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if "join" in tree or "variant" in tree or isinstance(tree.get("from"), str | list):
        return {"absent": "empty"} | tree
    return {name: with_places(part) for name, part in tree.items()}


def _packed(tree: Any, packing: Packing) -> str:
    rows = tree if isinstance(tree, list) and tree and isinstance(tree[0], dict | list) else [tree]
    texts = []
    for row in rows:
        named = row if isinstance(row, dict) else dict(enumerate(row, 1))
        texts.append(packing.fields.join(_part(name, value, packing) for name, value in named.items()))
    return packing.rows.join(texts)


def _part(name: Any, value: Any, packing: Packing) -> str:
    if isinstance(value, dict | list):
        raise FormInvalid(f"{name}: a packed string has no parts within parts")
    text = "" if value is None else str(value)
    for mark in (packing.fields, packing.rows):
        if mark and mark in text:
            raise FormInvalid(f"{name}: the value has the separator {mark} in it, which a packed string cannot carry")
    return text


def _rows(text: str, root: str, packing: Packing) -> etree._Element:
    element = etree.Element(root)
    body = text.strip()
    rows = body.split(packing.rows, MAX_ROWS) if packing.rows else [body]
    if len(rows) > MAX_ROWS:
        raise XmlForbidden(f"a packed string of more than {MAX_ROWS} rows")
    for row in rows:
        if not row.strip():
            continue
        parent = etree.SubElement(element, packing.row)
        for name, value in zip(packing.names, row.split(packing.fields, len(packing.names)), strict=False):
            if name:
                etree.SubElement(parent, name).text = _CONTROL.sub("_", value.strip())
    return element
