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
from connectors.soap.xml import XmlError


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

        try:
            value = serialize_object(self.soap.process_reply(envelope), dict)  # type: ignore[no-untyped-call]
        except (Error, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            raise XmlError(f"the reply is not of the WSDL's types ({type(error).__name__})") from None
        return tree_of(_plain(value), root)


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
