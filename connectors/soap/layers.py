"""Documents around a document, and documents inside one: encrypted, signed, read and written by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from lxml import etree

from connectors.soap.forms import read_form
from connectors.soap.seals import NoteFallback, Sealing, Signing, ignore, values_of
from connectors.soap.served import LayerSpec, OpeningSpec
from connectors.soap.xml import Sections, build_document, write_document
from connectors.soap.xpath import XPathLanguage
from mappings.context import Find, MapContext
from mappings.engine import RequestTree, compile_request
from mappings.profile import Profile

DOCUMENT = "document"
"""The name under which a layer's tree, an argument or a header reads what has been written so far."""


class Layer:
    """One document around another: encrypted if it says so, put into a tree, signed."""

    def __init__(self, profile: Profile, path: str, spec: LayerSpec, keys: Mapping[str, bytes]) -> None:
        self._spec = spec
        self._tree: RequestTree = compile_request(profile, f"{path}.tree", spec.tree)
        self._sealing = None if spec.cipher is None else made(profile, f"{path}.cipher", Sealing, spec.cipher, keys)
        self._signing = None if spec.sign is None else made(profile, f"{path}.sign", Signing, spec.sign, keys)

    def write(self, request: Any, ctx: MapContext, inner: str) -> str:
        """The document around `inner`. Raises UnicodeEncodeError, ValueError, MappingError."""
        text = inner if self._sealing is None else self._sealing.seal(inner)
        tree = self._tree.write(request, with_names(ctx, {DOCUMENT: text}))
        root = build_document(tree)
        if self._signing is not None:
            signature = self._signing.signature(values_of(root))
            place = root.find(self._signing.spec.into)
            if place is None:
                place = etree.SubElement(root, self._signing.spec.into)
            place.text = signature
        sections = Sections()
        for element in root.iter(*self._spec.cdata) if self._spec.cdata else ():
            element.text = sections.put(element.text or "")
        return self._spec.prolog + sections.fill(write_document(root))


class Opening:
    """A place in a document whose text is a document itself: it stands there as elements afterwards."""

    def __init__(
        self,
        profile: Profile,
        path: str,
        spec: OpeningSpec,
        keys: Mapping[str, bytes],
        language: XPathLanguage,
        note_fallback: NoteFallback = ignore,
    ) -> None:
        self._spec, self._note_fallback = spec, note_fallback
        try:
            self._find: Find = language.compile(spec.path)
        except ValueError as error:
            profile.fail(f"{path}.path", str(error))
        self._sealing = None if spec.cipher is None else made(profile, f"{path}.cipher", Sealing, spec.cipher, keys)

    def open(self, root: etree._Element, max_chars: int) -> None:
        """Put the documents that are found into their places. Raises XmlError."""
        for element in self._find(root, root):
            text = "" if isinstance(element, str) else (element.text or "").strip()
            if not text or len(element):
                continue
            if self._sealing is not None:
                text = self._sealing.open(text, self._note_fallback)
            spec = self._spec
            inner = read_form(
                spec.form, text, root=spec.root, packing=spec.packing, fragment=spec.fragment, max_chars=max_chars
            )
            element.text = None
            element.append(inner)


def with_names(ctx: MapContext, more: dict[str, Any]) -> MapContext:
    """A context in which these names can be read too."""
    return msgspec.structs.replace(ctx, extra=ctx.extra | more)


def made(profile: Profile, path: str, kind: Any, spec: Any, keys: Mapping[str, bytes]) -> Any:
    """`kind(spec, keys)`. Raises ProfileError."""
    try:
        return kind(spec, keys)
    except ValueError as error:
        profile.fail(path, str(error))
