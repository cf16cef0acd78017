"""From a canonical request to the arguments of a call, and from the text of a reply to one tree: all by configuration.

    request -> tree -> document -> layers around it -> arguments        (out)
    text -> tree -> what is a document itself inside it, opened         (in)

In requests, layers, arguments and headers the names `operation`, `trade` and `secret.NAME` can be read beside those of the
request; in all but requests `document` too, what has been written so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from lxml import etree

from connectors.port import Capability
from connectors.soap.forms import Form, Packing, read_form, write_form
from connectors.soap.layers import DOCUMENT, Layer, Opening, made, with_names
from connectors.soap.options import Connection
from connectors.soap.seals import NoteFallback, SealError, Signing, ignore, secrets_in
from connectors.soap.verbs import Case
from connectors.soap.xml import XmlError, build_document
from connectors.soap.xpath import XPathLanguage
from mappings.context import MapContext
from mappings.engine import compile_request
from mappings.profile import Profile

_ONE_TEXT = ("from", "value", "join", "variant", "tree")


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One call, written: its arguments, which are texts unless they are typed, and the elements of its SOAP header."""

    arguments: dict[str, Any]
    header: list[Any] = []


class Wire:
    """How one dialect writes and reads. Raises ProfileError where the profile, or a secret that it names, is wrong."""

    def __init__(
        self, profile: Profile, connection: Connection, keys: Mapping[str, bytes], note_fallback: NoteFallback = ignore
    ) -> None:
        """`note_fallback` is told the charset of what was decrypted and is not in the one that its cipher names."""
        self._connection = connection
        self._language = XPathLanguage()
        place = "connection"
        trees = {"arguments": connection.named_arguments, "header": connection.header}
        trees |= {f"layers[{n}].tree": layer.tree for n, layer in enumerate(connection.layers)}
        self._secrets: dict[str, str | None] = {}
        for name, tree in trees.items():
            self._secrets |= secrets_in(profile, f"{place}.{name}", tree, keys)
        for name, verb in profile.verbs.items():
            native = verb.capability == Capability.NATIVE
            calls = {"request": verb.request, "call": verb.call, "then": verb.then} if native else {}
            self._secrets |= secrets_in(profile, f"verbs.{name}", calls, keys)
        for name, entry in connection.named_arguments.items():
            if isinstance(entry, dict) and not any(form in entry for form in _ONE_TEXT):
                profile.fail(
                    f"{place}.arguments.{name}",
                    "an argument carries one text: {from: document}, {value: ...}, {join: ...}",
                )
        self._arguments = compile_request(profile, f"{place}.arguments", connection.named_arguments)
        self._layers = [
            Layer(profile, f"{place}.layers[{n}]", layer, keys) for n, layer in enumerate(connection.layers)
        ]
        self._openings = [
            Opening(profile, f"{place}.opens[{n}]", one, keys, self._language, note_fallback)
            for n, one in enumerate(connection.opens)
        ]
        self._header = None
        if connection.header:
            self._header = compile_request(profile, f"{place}.header", connection.header)
        self._sign = None
        if connection.reply_sign is not None:
            self._sign = made(profile, f"{place}.reply_sign", Signing, connection.reply_sign, keys)

    @property
    def reads_types(self) -> bool:
        """Whether replies are read by the WSDL's types."""
        return self._connection.reply_form is Form.TYPED

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the arguments, in order."""
        return tuple(self._connection.named_arguments)

    def write(self, case: Case, request: Any, ctx: MapContext) -> Written:
        """The arguments of one call. Raises UnicodeEncodeError, ValueError where a form cannot carry it, MappingError."""
        connection = self._connection
        about = {"operation": case.operation, "trade": case.trade, **self._secrets}
        tree = case.request.write(request, with_names(ctx, about))
        if connection.form is Form.TYPED:
            arguments, whole = tree, with_names(ctx, about)
        else:
            text = connection.prolog + write_form(connection.form, tree, connection.packing)
            for layer in self._layers:
                text = layer.write(request, with_names(ctx, about | {DOCUMENT: text}), text)
            whole = with_names(ctx, about | {DOCUMENT: text})
            arguments = {name: str(value) for name, value in self._arguments.write(request, whole).items()}
        header = []
        if self._header is not None:
            header = [build_document({name: part}) for name, part in self._header.write(request, whole).items()]
        return Written(arguments=arguments, header=header)

    def echo(self, case: Case, request: Any, ctx: MapContext) -> etree._Element | None:
        """What a verb's `echo` puts into the reply's root; a secret is not part of it. Raises ValueError, MappingError."""
        if case.echo is None:
            return None
        about = {"operation": case.operation, "trade": case.trade, **dict.fromkeys(self._secrets)}
        return build_document(case.echo.write(request, with_names(ctx, about)))

    def read(self, text: str, max_chars: int) -> etree._Element:
        """The tree of a reply's text. Raises XmlError: BareText, HtmlPage, Diffgram, SealError and their like."""
        return self.opened(self._read(text, max_chars), max_chars)

    def _read(self, text: str, max_chars: int) -> etree._Element:
        connection = self._connection
        return read_form(
            connection.reply_form,
            text,
            root=connection.reply_root,
            packing=connection.reply_packing,
            fragment=connection.reply_fragment,
            max_chars=max_chars,
        )

    def opened(self, root: etree._Element, max_chars: int) -> etree._Element:
        """The tree with what is a document inside it opened, once its signature holds. Raises XmlError."""
        if self._sign is not None and not self._sign.holds_in(root):
            raise SealError("the signature of the reply is not the peer's")
        try:
            for opening in self._openings:
                opening.open(root, max_chars)
        except XmlError as error:
            error.tree = root
            raise
        return root


__all__ = ["DOCUMENT", "Form", "Packing", "Wire", "Written"]
