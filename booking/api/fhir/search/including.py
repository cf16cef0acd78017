"""What a search includes beside its matches: `_include`, and `_include:iterate` over what was included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from booking.api.fhir.lookups import LOOK_UPS
from booking.api.fhir.search.fits import references
from booking.api.fhir.search.requests import SearchRequest
from booking.api.fhir.search.tables import KINDS
from booking.api.fhir.serving import Resource
from booking.api.fhir.view import View
from booking.store.engine import Tx

_MOST_ROUNDS = 4  # Slot, Schedule, PractitionerRole, Practitioner


async def included(tx: Tx, view: View, request: SearchRequest, matches: Sequence[Resource]) -> list[Resource]:
    """Each once, none that is a match already, and none of a kind that the caller's key may not read."""
    known = {(one["resourceType"], one["id"]) for one in matches}
    found: list[Resource] = []
    fresh: Sequence[Resource] = matches
    names: tuple[str, ...] = (*request.includes, *request.iterates)
    for _ in range(_MOST_ROUNDS if names else 0):
        wanted: dict[str, list[str]] = {}
        for kind, fhir_id in dict.fromkeys(_targets(fresh, names)):
            if (kind, fhir_id) not in known and kind in LOOK_UPS and KINDS[kind].scope in view.scopes:
                wanted.setdefault(kind, []).append(fhir_id)
        fresh = [one for kind, ids in wanted.items() for one in await LOOK_UPS[kind](tx, view, ids)]
        fresh = [one for one in fresh if (one["resourceType"], one["id"]) not in known]
        if not fresh:
            break
        known |= {(one["resourceType"], one["id"]) for one in fresh}
        found += fresh
        names = request.iterates
    return found


def _targets(resources: Iterable[Resource], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What these resources refer to, by the paths of the tables; a third part of a name is the only type that is wanted."""
    for resource in resources:
        of_kind = KINDS[resource["resourceType"]].includes
        for name in names:
            include, wanted = ":".join(name.split(":")[:2]), name.split(":")[2:]
            for path in of_kind.get(include, ()):
                elements, _, only = path.partition(":")
                for reference in references(resource, *elements.split(".")):
                    kind, _, fhir_id = reference.partition("/")
                    if only in ("", kind) and wanted in ([], [kind]):
                        yield kind, fhir_id
