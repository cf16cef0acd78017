"""Decoded FHIR JSON as one document in which references can be followed.

A search answer arrives in pages; a `Document` is all of them in one Bundle, with an index of its resources. Numbers
with a decimal point decode as `Decimal`, because money must not pass through binary floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

Json = dict[str, Any]

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode_json(text: str) -> Any:
    """Decode JSON text; raises `msgspec.DecodeError` (a ValueError) for what is none, truncated text included."""
    try:
        return _decoder.decode(text)
    except InvalidOperation as error:
        raise msgspec.DecodeError("a number has an exponent that no decimal has") from error


def encode_json(value: Any) -> bytes:
    """Encode a written tree; Decimals become JSON numbers and keep their digits (`7.00` stays `7.00`)."""
    return _encoder.encode(value)


class Document(Json):
    """A Bundle, or one resource, that knows where each of its resources is.

    `left_out` are the resources that came with it and were too flawed to stay: what they would have told is not known.
    `beside` is where its references lead besides: one document stands beside many, and is indexed once.
    """

    __slots__ = ("_beside", "_contained", "_index", "left_out")

    def __init__(self, content: Json, left_out: Sequence[Json] = (), beside: Document | None = None) -> None:
        super().__init__(content)
        self.left_out = tuple(left_out)
        self._beside = beside
        self._index: dict[str, Json] | None = None
        self._contained: dict[str, list[tuple[Json, Json]]] | None = None

    @classmethod
    def of(cls, entries: Iterable[Json], left_out: Sequence[Json] = (), beside: Document | None = None) -> Document:
        """A document of these Bundle entries (`{"fullUrl": ..., "resource": ...}`), in this order."""
        return cls({"resourceType": "Bundle", "type": "collection", "entry": list(entries)}, left_out, beside)

    def find(self, reference: str) -> Json | None:
        """The resource that a literal reference (absolute, `urn:uuid:` or `Type/id`) names, or None."""
        if self._index is None:
            self._index = index_of(self)
        found = self._index.get(without_history(reference))
        return self._beside.find(reference) if found is None and self._beside is not None else found

    def holders_of(self, fragment: str) -> list[tuple[Json, Json]]:
        """(resource, contained resource) of every contained resource with this id."""
        if self._contained is None:
            self._contained = {}
            for _, resource in entries_of(self):
                for part in _parts_of(resource):
                    if isinstance(part, dict) and isinstance(part.get("id"), str):
                        self._contained.setdefault(part["id"], []).append((resource, part))
        own = self._contained.get(fragment, [])
        return own if self._beside is None else [*own, *self._beside.holders_of(fragment)]


def without_history(reference: str) -> str:
    """A reference without its version: `Slot/1/_history/2` is `Slot/1`."""
    return reference.partition("/_history/")[0]


def entries_of(root: Json) -> Iterator[tuple[str | None, Json]]:
    """(fullUrl, resource) of every resource of a Bundle, or the one resource that `root` is."""
    if root.get("resourceType") != "Bundle":
        yield None, root
        return
    entries = root.get("entry")
    for entry in entries if isinstance(entries, list) else ():
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict):
            yield entry.get("fullUrl"), resource


def index_of(root: Json) -> dict[str, Json]:
    """Resources by fullUrl and by `Type/id`; the first of equal ones wins."""
    index: dict[str, Json] = {}
    for full_url, resource in entries_of(root):
        if isinstance(full_url, str):
            index.setdefault(full_url, resource)
        name = f"{resource.get('resourceType')}/{resource.get('id')}"
        index.setdefault(name, resource)
    return index


def find_contained(root: Json, node: Any, fragment: str) -> Json | None:
    """The contained resource `fragment` (without `#`) of the resource that holds `node` (FHIR R4, references.html#contained)."""
    holders = (root if isinstance(root, Document) else Document(root)).holders_of(fragment)
    if len(holders) == 1:
        return holders[0][1]
    return next((part for resource, part in holders if _holds(resource, node)), None)


def _parts_of(resource: Json) -> list[Any]:
    contained = resource.get("contained")
    return contained if isinstance(contained, list) else []


def _holds(container: Any, node: Any) -> bool:
    if container is node:
        return True
    if isinstance(container, dict):
        return any(_holds(value, node) for value in container.values())
    if isinstance(container, list):
        return any(_holds(value, node) for value in container)
    return False
