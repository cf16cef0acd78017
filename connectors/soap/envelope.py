"""SOAP 1.1 and 1.2 envelopes around text arguments, written and read without a SOAP library.

Text-argument dialects hide an XML document in a string, so that a library's type system has nothing to hold on to, and
its escaping and charset rules stand in the way (SOAP 1.1 section 4, SOAP 1.2 part 1 section 5).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from lxml import etree

from connectors.soap.xml import HtmlPage, Sections, XmlError, is_html, parse

Secure = Callable[[etree._Element], None]
"""Adds to the envelope what the peer's security asks for."""

Vouch = Callable[[etree._Element], None]
"""Raises an XmlError for an envelope that is not the peer's."""

ENVELOPE_11 = "http://schemas.xmlsoap.org/soap/envelope/"
ENVELOPE_12 = "http://www.w3.org/2003/05/soap-envelope"


class SoapVersion(StrEnum):
    """The two versions in use; they differ in namespace, content type and the shape of a fault."""

    V11 = "1.1"
    V12 = "1.2"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known to write one call. Names are in Clark notation (`{namespace}local`) or bare.

    `arguments` are those that the operation takes, in its order, by their local names. `cdata`: their texts stand in CDATA.
    """

    operation: str
    arguments: dict[str, str]
    soap_action: str
    version: SoapVersion = SoapVersion.V11
    cdata: bool = False


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A SOAP fault. `code` is the last part of faultcode (1.1) or the outermost Value (1.2)."""

    code: str
    text: str

    @property
    def is_callers(self) -> bool:
        """Whether the peer blames the request: nothing was done (SOAP 1.1 section 4.4.1, 1.2 section 5.4.6)."""
        return self.code.split(".")[0] in ("Client", "Sender", "VersionMismatch", "MustUnderstand")


def write_envelope(
    call: Call,
    values: Mapping[str, Any],
    *,
    encoding: str = "utf-8",
    label: str | None = None,
    header: Sequence[etree._Element] = (),
    secure: Secure | None = None,
) -> bytes:
    """One envelope with the operation's arguments: texts, or mappings and lists of what stands inside them.

    `label`: what the prolog calls the encoding, where it is another name. `header`: what stands in the SOAP header; `secure` may
    add to it, when all else is written. Raises UnicodeEncodeError for a character that the encoding lacks: it is never written as
    a reference, because such peers do not resolve them inside their own string. Raises ValueError for a text that XML cannot
    carry.
    """
    namespace = ENVELOPE_12 if call.version is SoapVersion.V12 else ENVELOPE_11
    envelope = etree.Element(f"{{{namespace}}}Envelope", nsmap={"soap": namespace})
    body = etree.SubElement(envelope, f"{{{namespace}}}Body")
    operation = etree.QName(call.operation)
    names = {name: tag for name, tag in call.arguments.items() if name in values}
    # An argument without a namespace must not inherit one: only qualified ones may stand under a default namespace.
    prefix = None if all(tag.startswith("{") for tag in names.values()) else "m"
    nsmap: dict[str | None, str] | None = {prefix: operation.namespace} if operation.namespace else None
    wrapper = etree.SubElement(body, operation.text, nsmap=nsmap)  # type: ignore[arg-type]  # the stubs lack None
    sections = Sections()
    for name, tag in names.items():
        _put(wrapper, tag, sections.put(values[name]) if call.cdata else values[name])
    return write_whole(envelope, encoding=encoding, label=label, header=header, secure=secure, sections=sections)


def _put(parent: etree._Element, tag: str, value: Any) -> None:
    """A value as an element; what is inside it is in the same namespace."""
    if isinstance(value, list | tuple):
        for one in value:
            _put(parent, tag, one)
        return
    element = etree.SubElement(parent, tag)
    if isinstance(value, Mapping):
        before = tag.partition("}")[0] + "}" if tag.startswith("{") else ""
        for name, inner in value.items():
            _put(element, before + str(name), inner)
    elif isinstance(value, bool):
        element.text = "true" if value else "false"
    elif value is not None:
        element.text = str(value)


def write_whole(
    envelope: etree._Element,
    *,
    encoding: str,
    label: str | None = None,
    header: Sequence[etree._Element] = (),
    secure: Secure | None = None,
    sections: Sections | None = None,
) -> bytes:
    """An envelope's bytes, with its header. Raises UnicodeEncodeError."""
    namespace = etree.QName(envelope).namespace
    if header:
        place = envelope.find(f"{{{namespace}}}Header")
        if place is None:
            place = etree.Element(f"{{{namespace}}}Header")
            envelope.insert(0, place)
        place.extend(header)
    if secure is not None:
        secure(envelope)
    written = etree.tostring(envelope, encoding="unicode")
    if sections is not None:
        written = sections.fill(written)
    return f'<?xml version="1.0" encoding="{label or encoding}"?>{written}'.encode(encoding)


def http_headers(call: Call, encoding: str = "utf-8") -> dict[str, str]:
    """The HTTP headers of a call: 1.1 has SOAPAction of its own, 1.2 a parameter of the media type (RFC 3902)."""
    if call.version is SoapVersion.V12:
        return {"Content-Type": f'application/soap+xml; charset={encoding}; action="{call.soap_action}"'}
    return {"Content-Type": f"text/xml; charset={encoding}", "SOAPAction": f'"{call.soap_action}"'}


def read_envelope(
    text: str, *, result: str | None = None, max_chars: int = 10_000_000, vouch: Vouch | None = None
) -> str | Fault:
    """The text that an operation returned, or the fault. `result` is the element that has it; else it is the first.

    Some servers return the document as elements instead of a string; it is given back as text, so that both are read by
    one path. Raises HtmlPage or another XmlError for anything that is not a SOAP envelope, or that `vouch` does not believe.
    """
    found = open_envelope(text, max_chars=max_chars, vouch=vouch)
    return found if isinstance(found, Fault) else _result_text(found.response, result)


class Opened(msgspec.Struct, frozen=True):
    """A SOAP envelope, and the first element of its body."""

    envelope: Any
    response: Any


def open_envelope(text: str, *, max_chars: int = 10_000_000, vouch: Vouch | None = None) -> Opened | Fault:
    """The answer in an envelope, or the fault. Raises HtmlPage or another XmlError."""
    if is_html(text):
        raise HtmlPage("an HTML page where a SOAP envelope should be")
    root = parse(text, max_chars=max_chars)
    if vouch is not None:
        vouch(root)
    for namespace in (ENVELOPE_11, ENVELOPE_12):
        if root.tag == f"{{{namespace}}}Envelope":
            body = root.find(f"{{{namespace}}}Body")
            if body is None or len(body) == 0:
                raise XmlError("a SOAP envelope with an empty body")
            fault = body.find(f"{{{namespace}}}Fault")
            return Opened(root, body[0]) if fault is None else _read_fault(fault, namespace)
    raise XmlError("not a SOAP envelope")


def plain_tree(response: etree._Element, root: str) -> etree._Element:
    """What an operation returned, as a tree without namespaces: of a single result its parts, as its types would have it."""
    tree = _bare(response[0] if len(response) == 1 else response)
    tree.tag = root
    return tree


def _result_text(response: etree._Element, name: str | None) -> str:
    result = response[0] if len(response) else response
    if name is not None:
        result = next((child for child in response if etree.QName(child).localname == name), result)
    if len(result) == 0:
        return result.text or ""
    return "".join(_without_namespaces(child) for child in result)


def _without_namespaces(element: etree._Element) -> str:
    """An element as the document of its own that it is: the service's namespace, which it inherits, is not its."""
    return etree.tostring(_bare(element), encoding="unicode")


def _bare(element: etree._Element) -> etree._Element:
    own = copy.deepcopy(element)
    own.tail = None
    for part in own.iter("*"):
        part.tag = etree.QName(part).localname
    etree.cleanup_namespaces(own)
    return own


def _read_fault(fault: etree._Element, namespace: str) -> Fault:
    if namespace == ENVELOPE_11:
        code, text = fault.findtext("faultcode"), fault.findtext("faultstring")
    else:
        values = [v.text or "" for v in fault.iterfind(f"{{{ENVELOPE_12}}}Code//{{{ENVELOPE_12}}}Value")]
        code, text = (values or [""])[0], fault.findtext(f"{{{ENVELOPE_12}}}Reason/{{{ENVELOPE_12}}}Text")
    return Fault(code=(code or "").strip().rpartition(":")[2], text=" ".join((text or "").split()))
