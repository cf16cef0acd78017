"""Searchset Bundles (FHIR R4 bundle.html): matches, what is included, and the links to page by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from booking.api.fhir.search.requests import SearchRequest
from booking.api.fhir.serving import Resource, versioned
from booking.api.fhir.subsets import subset

_encode = msgspec.json.Encoder().encode


class Page(NamedTuple):
    """What a search has found: rendered matches as (id, JSON), the cursor of the next page, how many there are if known."""

    matches: Sequence[tuple[str, bytes]]
    next: str | None = None
    total: int | None = None


def render_matches(request: SearchRequest, resources: Iterable[Resource]) -> list[tuple[str, bytes]]:
    """Resources as they are sent in this search: whole, or in part."""
    return [(resource["id"], _encode(subset(versioned(resource), request))) for resource in resources]


def searchset(
    base: str, request: SearchRequest, page: Page, included: Sequence[Resource] = (), *, self_link: str | None = None
) -> bytes:
    """The Bundle. `total` counts matches alone (bdl-1, Bundle.total)."""
    links = [{"relation": "self", "url": self_link or request.link(base)}]
    if page.next is not None:
        links.append({"relation": "next", "url": request.link(base, page.next)})
    entries = [_entry(base, request.kind, fhir_id, body, b"match") for fhir_id, body in page.matches]
    for resource in included:
        whole = versioned(resource)
        body = _encode(
            whole if request.elements else subset(whole, request)
        )  # _elements is for matches (search.html#elements)
        entries.append(_entry(base, resource["resourceType"], resource["id"], body, b"include"))
    total = b"" if page.total is None else b',"total":%d' % page.total
    listed = b',"entry":[%b]' % b",".join(entries) if entries else b""  # an empty array is none (json.html)
    return b'{"resourceType":"Bundle","type":"searchset"%b,"link":%b%b}' % (total, _encode(links), listed)


def _entry(base: str, kind: str, fhir_id: str, body: bytes, mode: bytes) -> bytes:
    return b'{"fullUrl":%b,"resource":%b,"search":{"mode":"%b"}}' % (_encode(f"{base}/{kind}/{fhir_id}"), body, mode)


def result_bundle(base: str, request: SearchRequest, resources: Sequence[dict[str, Any]]) -> bytes:
    """A searchset of whole resources that are all there is: what operations answer."""
    return searchset(base, request, Page(render_matches(request, resources), total=len(resources)))
