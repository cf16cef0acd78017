"""From a canonical request to the arguments of a call, and from the text of a reply to one tree: all by configuration.

    request -> tree -> document -> layers around it -> arguments        (out)
    text -> tree -> what is a document itself inside it, opened         (in)

In layers, arguments and headers the names `document` (what has been written so far), `operation` and `trade` can be read beside
those of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from lxml import etree

from connectors.soap.forms import Form, Packing, read_form, write_form
from connectors.soap.options import Connection, LayerSpec, OpeningSpec
from connectors.soap.seals import SealError, Sealing, Signing
from connectors.soap.verbs import Case
from connectors.soap.xml import Sections, build_document, write_document
from connectors.soap.xpath import XPathLanguage
from mappings.context import Find, MapContext
from mappings.engine import RequestTree, compile_request
from mappings.profile import Profile

DOCUMENT = "document"


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One call, written: the texts of its arguments, the elements of its SOAP header, and the request for an `echo`."""

    arguments: dict[str, str]
    header: list[Any] = []


class Wire:
    """How one dialect writes and reads. Raises ProfileError where the profile, or a secret that it names, is wrong."""

    def __init__(self, profile: Profile, connection: Connection, keys: Mapping[str, bytes]) -> None:
        self._connection = connection
        self._language = XPathLanguage()
        place = "connection"
        self._arguments = compile_request(profile, f"{place}.arguments", connection.named_arguments)
        self._layers = [
            _Layer(profile, f"{place}.layers[{n}]", layer, keys) for n, layer in enumerate(connection.layers)
        ]
        self._openings = [
            _Opening(profile, f"{place}.opens[{n}]", one, keys, self._language)
            for n, one in enumerate(connection.opens)
        ]
        self._header = None
        if connection.header:
            self._header = compile_request(profile, f"{place}.header", connection.header)
        self._sign = None
        if connection.reply_sign is not None:
            self._sign = _made(profile, f"{place}.reply_sign", Signing, connection.reply_sign, keys)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the arguments, in order."""
        return tuple(self._connection.named_arguments)

    def write(self, case: Case, request: Any, ctx: MapContext) -> Written:
        """The arguments of one call. Raises UnicodeEncodeError, ValueError where a form cannot carry it, MappingError."""
        connection = self._connection
        about = {"operation": case.operation, "trade": case.trade}
        tree = case.request.write(request, ctx)
        text = connection.prolog + write_form(connection.form, tree, connection.packing)
        for layer in self._layers:
            text = layer.write(request, _with(ctx, about | {DOCUMENT: text}), text)
        whole = _with(ctx, about | {DOCUMENT: text})
        arguments = {name: str(value) for name, value in self._arguments.write(request, whole).items()}
        header = []
        if self._header is not None:
            header = [build_document({name: part}) for name, part in self._header.write(request, whole).items()]
        return Written(arguments=arguments, header=header)

    def read(self, text: str, max_chars: int) -> etree._Element:
        """The tree of a reply's text. Raises XmlError: BareText, HtmlPage, Diffgram, SealError and their like."""
        connection = self._connection
        root = read_form(
            connection.reply_form,
            text,
            root=connection.reply_root,
            packing=connection.reply_packing,
            fragment=connection.reply_fragment,
            max_chars=max_chars,
        )
        if self._sign is not None and not self._sign.holds(values_of(root)):
            raise SealError("the signature of the reply is not the peer's")
        for opening in self._openings:
            opening.open(root, max_chars)
        return root


class _Layer:
    """One document around another: encrypted if it says so, put into a tree, signed."""

    def __init__(self, profile: Profile, path: str, spec: LayerSpec, keys: Mapping[str, bytes]) -> None:
        self._spec = spec
        self._tree: RequestTree = compile_request(profile, f"{path}.tree", spec.tree)
        self._sealing = None if spec.cipher is None else _made(profile, f"{path}.cipher", Sealing, spec.cipher, keys)
        self._signing = None if spec.sign is None else _made(profile, f"{path}.sign", Signing, spec.sign, keys)

    def write(self, request: Any, ctx: MapContext, inner: str) -> str:
        text = inner if self._sealing is None else self._sealing.seal(inner)
        tree = self._tree.write(request, _with(ctx, {DOCUMENT: text}))
        root = build_document(tree)
        if self._signing is not None:
            signature = self._signing.signature(values_of(root))
            place = root.find(self._signing.spec.into)
            if place is None:
                place = etree.SubElement(root, self._signing.spec.into)
            place.text = signature
        sections = Sections()
        for name in self._spec.cdata:
            for element in root.iter(name):
                element.text = sections.put(element.text or "")
        return self._spec.prolog + sections.fill(write_document(root))


class _Opening:
    """A place in a reply whose text is a document itself: it stands there as elements afterwards."""

    def __init__(
        self, profile: Profile, path: str, spec: OpeningSpec, keys: Mapping[str, bytes], language: XPathLanguage
    ) -> None:
        self._spec = spec
        try:
            self._find: Find = language.compile(spec.path)
        except ValueError as error:
            profile.fail(f"{path}.path", str(error))
        self._sealing = None if spec.cipher is None else _made(profile, f"{path}.cipher", Sealing, spec.cipher, keys)

    def open(self, root: etree._Element, max_chars: int) -> None:
        for element in self._find(root, root):
            text = "" if isinstance(element, str) else (element.text or "").strip()
            if not text or len(element):
                continue
            if self._sealing is not None:
                text = self._sealing.open(text)
            spec = self._spec
            inner = read_form(
                spec.form, text, root=spec.root, packing=spec.packing, fragment=spec.fragment, max_chars=max_chars
            )
            element.text = None
            element.append(inner)


def values_of(root: etree._Element) -> dict[str, str]:
    """What a signature is over: the texts of a document's own elements."""
    return {str(child.tag): child.text or "" for child in root}


def _with(ctx: MapContext, more: dict[str, Any]) -> MapContext:
    return msgspec.structs.replace(ctx, extra=ctx.extra | more)


def _made(profile: Profile, path: str, kind: Any, spec: Any, keys: Mapping[str, bytes]) -> Any:
    try:
        return kind(spec, keys)
    except ValueError as error:
        profile.fail(path, str(error))


__all__ = ["DOCUMENT", "Form", "Packing", "Wire", "Written", "values_of"]
