"""How one dialect speaks, without a socket: a call to the bytes of an HTTP request, the bytes of an answer to a tree."""

from __future__ import annotations

from lxml import etree

from connectors.soap.client import Sent
from connectors.soap.endpoint import Endpoint
from connectors.soap.envelope import (
    Fault,
    Secure,
    Vouch,
    http_headers,
    open_envelope,
    plain_tree,
    read_envelope,
    write_envelope,
    write_whole,
)
from connectors.soap.forms import Form
from connectors.soap.options import Connection, Transport
from connectors.soap.plain_http import as_http, unwrapped
from connectors.soap.verbs import Case
from connectors.soap.wire import Wire, Written
from connectors.soap.xml import XmlError
from mappings.context import MapContext


class Speech:
    """`secure` adds to a SOAP envelope what the peer's security asks for; with `vouch` only what it believes is read.

    `max_chars` bounds every document read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        wire: Wire,
        connection: Connection,
        *,
        max_chars: int,
        secure: Secure | None = None,
        vouch: Vouch | None = None,
    ) -> None:
        self._endpoint, self._wire, self._connection = endpoint, wire, connection
        self._max_chars, self._secure, self._vouch = max_chars, secure, vouch

    def write(self, case: Case, request: object, ctx: MapContext) -> Sent:
        """One call. Raises UnicodeEncodeError, TypedInvalid, ValueError where it cannot be carried, MappingError."""
        written = self._wire.write(case, request, ctx)
        encoding, label = self._connection.encoding, self._connection.label
        if self._connection.transport is not Transport.SOAP:
            return as_http(
                self._connection.transport, self._endpoint.address, case.operation, written.arguments, encoding
            )
        if self._connection.form is Form.TYPED:
            return self._typed(case.operation, written)
        call = self._endpoint.call_of(case.operation, self._wire.arguments)
        body = write_envelope(
            call, written.arguments, encoding=encoding, label=label, header=written.header, secure=self._secure
        )
        return Sent(method="POST", url=self._endpoint.address, body=body, headers=http_headers(call, label))

    def echo(self, case: Case, request: object, ctx: MapContext) -> etree._Element | None:
        """What is put into the reply's root, where the profile wants that. Raises ValueError, MappingError."""
        return self._wire.echo(case, request, ctx)

    def _typed(self, operation: str, written: Written) -> Sent:
        """A call whose arguments the WSDL types; without one they are written as they stand."""
        encoding, label, values = self._connection.encoding, self._connection.label, written.arguments
        call = self._endpoint.call_of(operation, tuple(values))
        typed = self._endpoint.typed_of(operation)
        if typed is None:
            body = write_envelope(
                call, values, encoding=encoding, label=label, header=written.header, secure=self._secure
            )
        else:
            envelope = typed.build(values)
            body = write_whole(envelope, encoding=encoding, label=label, header=written.header, secure=self._secure)
        return Sent(method="POST", url=self._endpoint.address, body=body, headers=http_headers(call, label))

    def open(self, text: str, operation: str) -> etree._Element | Fault:
        """The tree of an answer; some gateways send the document without an envelope. Raises XmlError."""
        wire, limit = self._wire, self._max_chars
        if self._connection.transport is not Transport.SOAP:
            return wire.read(unwrapped(text, limit), limit)
        if wire.reads_types:
            return self._open_typed(text, operation)
        try:
            argument = self._connection.reply_argument
            result = read_envelope(text, result=argument, max_chars=limit, vouch=self._vouch)
        except XmlError:
            if self._vouch is not None or "Envelope" in text[:2000] or text.lstrip().startswith("<!"):
                raise
            return wire.read(text, limit)
        return result if isinstance(result, Fault) else wire.read(result, limit)

    def _open_typed(self, text: str, operation: str) -> etree._Element | Fault:
        found = open_envelope(text, max_chars=self._max_chars, vouch=self._vouch)
        if isinstance(found, Fault):
            return found
        typed, root = self._endpoint.typed_of(operation), self._connection.reply_root
        tree = plain_tree(found.response, root) if typed is None else typed.read(found.envelope, root)
        return self._wire.opened(tree, self._max_chars)
