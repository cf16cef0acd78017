"""What a SOAP profile may say, and hardly means: it compiles, and the hospital would be misunderstood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.port import Capability
from connectors.soap.forms import Form
from mappings.profile import Profile
from mappings.values import RECORDS
from mappings.yaml_source import below

_READ_BY_NAME = ("document", "trade", "operation")
_UNITS = ("via", "table", "join", "value", "lookup", "variant")


def doubtful(profile: Profile) -> Iterator[tuple[str, str]]:
    """(YAML path, why)."""
    if profile.protocol != "soap":
        return
    yield from _off_by_omission(profile)
    yield from _arguments(profile)
    root = str(profile.connection.get("reply_root", "Response"))
    for name, spec in profile.verbs.items():
        if spec.capability == Capability.NATIVE:
            for path, entry in _record_maps(profile.raw["verbs"][name], below("verbs", name)):
                yield from _each(path, entry, root)
                yield from _amounts(path, entry)


def _off_by_omission(profile: Profile) -> Iterator[tuple[str, str]]:
    for name, entry in (profile.raw.get("verbs") or {}).items():
        if isinstance(entry, dict) and "capability" not in entry and (entry.get("request") or entry.get("reply")):
            yield below("verbs", name), "it is off, for it does not say `capability: native`"


def _arguments(profile: Profile) -> Iterator[tuple[str, str]]:
    given = profile.connection.get("arguments")
    if not isinstance(given, dict) or not given:
        return
    for name, entry in given.items():
        if entry in _READ_BY_NAME:
            yield (
                below("connection.arguments", str(name)),
                f"it carries the word {entry}: is `{{from: {entry}}}` meant?",
            )
    written = profile.connection.get("form", Form.XML) != Form.TYPED
    if written and "document" not in set(_sources(given)):
        yield "connection.arguments", "no argument carries the request's document: `{from: document}`"


def _sources(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        named = tree.get("from")
        yield from (one for one in (named if isinstance(named, list) else [named]) if isinstance(one, str))
        for inner in tree.values():
            yield from _sources(inner)
            if isinstance(inner, str):
                yield inner  # of a join
    elif isinstance(tree, list):
        for inner in tree:
            yield from _sources(inner)


def _record_maps(raw: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(raw, list):
        for number, entry in enumerate(raw):
            yield from _record_maps(entry, below(path, number))
    elif isinstance(raw, dict):
        if isinstance(raw.get("record"), str) and raw["record"] in RECORDS:
            yield path, raw
        for key, value in raw.items():
            yield from _record_maps(value, below(path, str(key)))


def _each(path: str, entry: dict[str, Any], root: str) -> Iterator[tuple[str, str]]:
    each = entry.get("each")
    if isinstance(each, str) and (each == root or each.startswith(f"{root}/")) and path.endswith("reply"):
        yield f"{path}.each", f"it looks for <{root}> inside the root <{root}>: `/{each}`"


def _amounts(path: str, entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, field in (entry.get("fields") or {}).items():
        if (
            name.endswith("_fen")
            and isinstance(field, dict)
            and "from" in field
            and not any(u in field for u in _UNITS)
        ):
            yield (
                f"{path}.fields.{name}",
                "in which unit is it? `via: yuan_to_fen`, or `via: fen` where 700 is seven yuan",
            )
