"""Typed bodies: zeep builds them by the WSDL's types and reads them back; the bytes travel as all others do.

A request tree's names are the operation's arguments; what is nested in it are their parts. A reply becomes one tree, its names
without namespaces, as the types have them: what is nil is empty, a list repeats its name, an instant is ISO 8601.
"""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import msgspec
from lxml import etree

from connectors.soap.forms import tree_of
from connectors.soap.xml import MAX_DEPTH, XmlError, XmlForbidden

MAX_GROWTH = 10
"""What is referred to often, stands there as often: a department in each of its schedules."""


class TypedInvalid(ValueError):
    """The values do not fit the WSDL's types; `str()` names the place and quotes no value."""


class TypedOperation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a WSDL. `soap` is zeep's."""

    soap: Any

    def build(self, values: dict[str, Any]) -> etree._Element:
        """The envelope of a call. Raises TypedInvalid."""
        from zeep.exceptions import Error, ValidationError

        try:
            envelope: etree._Element = self.soap.create(**values).content
        except ValidationError as error:
            raise TypedInvalid(f"{'.'.join(map(str, error.path or ()))}: {error.message}".strip(": ")) from None
        except (Error, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            # zeep lets Python's own errors out where a value is of another kind than its type; their texts quote it.
            raise TypedInvalid(f"does not fit the WSDL ({type(error).__name__})") from None
        return envelope

    def read(self, envelope: etree._Element, root: str) -> etree._Element:
        """What an operation returned, as one tree. Raises XmlError."""
        from zeep.exceptions import Error
        from zeep.helpers import serialize_object

        _bound_references(envelope)
        try:
            value = serialize_object(self.soap.process_reply(envelope), dict)  # type: ignore[no-untyped-call]
        except (Error, TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
            raise XmlError(f"the reply is not of the WSDL's types ({type(error).__name__})") from None
        return tree_of(_plain(value), root)


def _bound_references(envelope: etree._Element) -> None:
    """Raises XmlForbidden where elements that refer to others (SOAP 1.1 section 5.4.1) are too many once those stand there.

    zeep puts them there one by one, and each may refer to more: thirty elements are a thousand million.
    """
    most = MAX_GROWTH * sum(1 for _ in envelope.iter("*"))
    sizes: dict[str, int] = {}
    named = {f"#{name}": element for element in envelope.iterfind("{*}Body/*[@id]") if (name := element.get("id"))}
    if not named:
        return

    def size(element: etree._Element, above: tuple[str, ...]) -> int:
        total = 0
        for part in element.iter("*"):
            total += 1
            name = part.get("href", "")
            if name in above:
                raise XmlForbidden("the reply's references go round in a circle")
            if name in named:
                if name not in sizes:
                    if len(above) == MAX_DEPTH:
                        raise XmlForbidden(f"the reply's references are deeper than {MAX_DEPTH}")
                    sizes[name] = size(named[name], (*above, name))
                total += sizes[name]
            if total > most:
                raise XmlForbidden(f"the reply's references make more than {MAX_GROWTH} times of it")
        return total

    for child in envelope.iterfind("{*}Body/*"):
        size(child, ())


def _plain(value: Any) -> Any:
    """Values as texts: a dict and a list stay what they are."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, etree._Element):  # xsd:any
        return {etree.QName(value).localname: value.text if len(value) == 0 else [_plain(child) for child in value]}
    return value
