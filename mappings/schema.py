"""The frame of a profile: its sections, its verbs, its tables. What is inside a mapping is checked by the engine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from .yaml_source import ProfileError, Where, below

PROTOCOLS = ("fhir", "hl7v2", "soap")
# The verbs of the connector port, by name: mappings must not import connectors, a test holds the two lists together.
VERBS = frozenset(
    (
        "ping",
        "fetch_departments",
        "fetch_practitioners",
        "fetch_schedules",
        "fetch_slots",
        "fetch_stops",
        "find_patient",
        "fetch_registration",
        "fetch_bills",
        "fetch_settlement",
        "fetch_refund",
        "fetch_reports",
        "fetch_report",
        "fetch_attachment",
        "fetch_statement",
        "create_patient",
        "lock_slot",
        "unlock_slot",
        "book",
        "register",
        "cancel_registration",
        "check_in",
        "presettle_bill",
        "settle_bill",
        "refund",
    )
)
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_TIMEOUT_S = 600.0

_SECTIONS = ("name", "version", "protocol", "extends", "tables", "connection", "verbs", "inbound", "description", "ref")
_CHOICES = {
    "capability": ("native", "pushed", "off"),
    "query_back": ("key", "patient_list", "none"),
    "key": ("client", "natural", "none"),
}


class VerbSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How one verb is carried. `codes` names the table from the HIS's codes to the port's rejection codes.

    `call`, `then` (a follow-up per record) and `pages` belong to the connector; a `request` or `reply` inside `then`
    is checked like those of the verb.
    """

    capability: str = "off"
    query_back: str = "none"
    key: str = "none"
    timeout_s: float = 10.0
    call: dict[str, Any] = {}
    request: Any | None = None
    reply: dict[str, Any] | None = None
    codes: str | None = None
    then: dict[str, Any] | None = None
    pages: dict[str, Any] | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One HIS dialect, merged with what it extends. `where` gives the place of every entry by its YAML path."""

    name: str
    version: int
    protocol: str
    connection: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    verbs: dict[str, VerbSpec] = {}
    inbound: dict[str, list[dict[str, Any]]] = {}
    raw: dict[str, Any] = {}
    where: dict[str, Where] = {}

    def inbound_path(self, kind: str, index: int) -> str:
        """The YAML path of a record map of `inbound`, which may be written as a list or under names."""
        path = below("inbound", kind)
        spec = (self.raw.get("inbound") or {}).get(kind)
        names = [name for name, entry in spec.items() if entry is not None] if isinstance(spec, dict) else []
        return below(path, names[index] if index < len(names) else index)

    def locate(self, path: str) -> Where:
        """The place of `path`, or of the nearest entry above it."""
        while path and path not in self.where:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.where.get(path) or Where(f"{self.name}/profile.yaml", 1)

    def fail(self, path: str, hint: str) -> NoReturn:
        """Raise ProfileError at the place of `path`."""
        place = self.locate(path)
        raise ProfileError(place.file, place.line, path, hint)

    def check_keys(self, path: str, given: Iterable[str], allowed: Iterable[str]) -> None:
        """Refuse keys that are not allowed, with the nearest allowed one as a hint."""
        names = list(allowed)
        for key in given:
            if key not in names:
                self.fail(below(path, key), f"unknown key: {suggest(key, names)}")


def suggest(word: str, names: Iterable[str]) -> str:
    """A hint for a name that does not exist: the closest one, else all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean `{close[0]}`?" if close else "one of: " + ", ".join(known)


def build_profile(raw: Any, where: dict[str, Where], file: str) -> Profile:
    """Check the frame of a merged profile and build it. Raises ProfileError."""
    if not isinstance(raw, dict):
        raise ProfileError(file, 1, "", "a profile is a mapping: name, version, protocol, verbs ...")
    bare = Profile(name=str(raw.get("name", "?")), version=0, protocol="", raw=raw, where={"": Where(file, 1)} | where)
    bare.check_keys("", raw, _SECTIONS)
    name, version, protocol = raw.get("name"), raw.get("version"), raw.get("protocol")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        bare.fail("name", "name: small letters, digits, - and _, at most 64, starting with a letter or digit")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        bare.fail("version", "version: a whole number from 1")
    if protocol not in PROTOCOLS:
        bare.fail("protocol", "protocol: one of " + ", ".join(PROTOCOLS))
    tables = {key: _table(bare, below("tables", key), table) for key, table in _section(bare, "tables").items()}
    profile = msgspec.structs.replace(
        bare, version=version, protocol=protocol, tables=tables, connection=_section(bare, "connection")
    )
    verbs = {key: _verb(profile, below("verbs", key), key, spec) for key, spec in _section(bare, "verbs").items()}
    inbound = {key: _maps(bare, below("inbound", key), spec) for key, spec in _section(bare, "inbound").items()}
    return msgspec.structs.replace(profile, verbs=verbs, inbound=inbound)


def _section(profile: Profile, key: str) -> dict[str, Any]:
    section = profile.raw.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict):
        profile.fail(key, "a mapping is expected here")
    return section


def _table(profile: Profile, path: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        profile.fail(path, "a table is a mapping from codes to values")
    for code, value in table.items():
        if isinstance(value, dict | list):
            profile.fail(below(path, code), "a code stands for one plain value")
    return table


def _verb(profile: Profile, path: str, verb: str, spec: Any) -> VerbSpec:
    if verb not in VERBS:
        profile.fail(path, f"no such verb: {suggest(verb, VERBS)}")
    if not isinstance(spec, dict):
        profile.fail(path, "a verb is a mapping: capability, call, request, reply ...")
    profile.check_keys(path, spec, (*VerbSpec.__struct_fields__, "ref"))
    for key, choices in _CHOICES.items():
        if key in spec and spec[key] not in choices:
            profile.fail(below(path, key), f"{key}: one of {', '.join(choices)}")
    timeout_s = spec.get("timeout_s", 10)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        profile.fail(below(path, "timeout_s"), f"timeout_s: seconds, above 0 and at most {MAX_TIMEOUT_S:g}")
    for key in ("call", "reply", "then", "pages"):
        if not isinstance(spec.get(key, {}), dict | None):
            profile.fail(below(path, key), f"{key}: a mapping")
    codes = spec.get("codes")
    if codes is not None and (not isinstance(codes, str) or codes not in profile.tables):
        profile.fail(below(path, "codes"), f"codes: the name of a table; {suggest(str(codes), profile.tables)}")
    given = {key: value for key, value in spec.items() if value is not None and key != "ref"}
    return VerbSpec(**given | {"timeout_s": float(timeout_s)})


def _maps(profile: Profile, path: str, spec: Any) -> list[dict[str, Any]]:
    if isinstance(spec, dict):
        spec = [entry for entry in spec.values() if entry is not None] or None
    if not isinstance(spec, list) or not all(isinstance(entry, dict) for entry in spec):
        profile.fail(
            path, "record maps are expected here, as a list or under names: {NAME: {record: ..., fields: {...}}}"
        )
    return spec
