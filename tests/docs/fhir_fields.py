"""What the FHIR profiles claim to read, from the profiles themselves: the rows of docs/dialects/fhir_fields.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mappings.profile import Profile, load_profile

READS = (
    "fetch_departments", "fetch_practitioners", "fetch_schedules", "fetch_slots", "find_patient", "fetch_registration",
    "fetch_bills", "fetch_settlement", "fetch_reports",
)  # fmt: skip
_SPELT = frozenset({None, "datetime", "reference_id", "base64", "money", "currency"})
# What is kept, by transform. After those of _SPELT the source can be told from the record, up to how it is spelt.
_KEPT = {
    None: "as it is",
    "datetime": "the instant",
    "reference_id": "the id",
    "base64": "the bytes",
    "money": "amount and currency",
    "currency": "the currency",
    "date": "the day",
    "session_of": "the part of the day",
    "parts": "a whole day",
}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a record: where it is read from, the first that is present, and what of it is kept.

    `each` are the paths of the lists around it, outermost first. `raw`: the source's own text can be told from the record.
    `default` is for an absent source, `otherwise` for a code that is not in the table.
    """

    resource: str
    verb: str
    each: tuple[str, ...]
    paths: tuple[str, ...]
    record: str
    field: str
    kept: str
    raw: bool
    table: str | None = None
    default: str | None = None
    otherwise: str | None = None


def claims_of(profile: Profile) -> list[Claim]:
    """All of a profile's claims, in its order."""
    found: list[Claim] = []
    for verb in READS:
        reply = profile.verbs[verb].reply
        assert reply is not None
        resource = str(reply["each"]).partition("ofType(")[2].rstrip(")")
        found += _claims(resource, verb, (str(reply["each"]),), reply)
    return found


def _claims(resource: str, verb: str, each: tuple[str, ...], spec: dict[str, Any]) -> Iterator[Claim]:
    for name, field in spec["fields"].items():
        if field is None:
            continue
        if "each" in field:
            yield from _claims(resource, verb, (*each, str(field["each"])), field)
            continue
        for part, source, via, raw in _sources(field):
            table = field.get("table")
            kept = f"by table `{table}`" if table else _KEPT.get(via, "as one text" if "join" in field else "in part")
            paths = tuple(source) if isinstance(source, list) else (str(source),)
            label = f"{name}.{part}" if part else name
            yield Claim(
                resource=resource, verb=verb, each=each, paths=paths, record=str(spec["record"]), field=label, kept=kept,
                raw=raw, table=table, default=field.get("default"), otherwise=field.get("else"),
            )  # fmt: skip


def _sources(field: dict[str, Any]) -> Iterator[tuple[str, Any, str | None, bool]]:
    """(part, paths, transform, whether the text itself is kept) of each source of a field."""
    via = field.get("via")
    name = via.get("name") if isinstance(via, dict) else via
    if "keep" in field:
        for part, source in field["keep"].items():
            yield part, source, None, True
    elif "join" in field:
        for part, source in field["join"].items():
            yield part, source["from"] if isinstance(source, dict) else source, name, name in _SPELT
    elif "from" in field:
        yield "", field["from"], "parts" if "parts" in field else name, name in _SPELT and "parts" not in field


def table_of(claims: list[Claim]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| resource | read from, the first that is present | record | field | kept |", "|---|---|---|---|---|"]
    for claim in claims:
        inside = "".join(f"{path}: " for path in claim.each[1:])
        paths = "<br>".join(f"`{inside}{path}`".replace("|", "\\|") for path in claim.paths)
        lines.append(f"| {claim.resource} | {paths} | {claim.record} | `{claim.field}` | {claim.kept} |")
    return lines


def tables() -> tuple[list[str], list[str]]:
    """R4's table, and of R5's the rows that differ."""
    old, new = (claims_of(load_profile(name)) for name in ("fhir_r4", "fhir_r5"))
    return table_of(old), table_of([claim for claim in new if claim not in old])
