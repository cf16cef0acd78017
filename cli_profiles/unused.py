"""What of a profile nothing reads, and what of the canonical records no map fills."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from connectors.hl7v2.options import Settings as Hl7Settings
from connectors.port import Capability, QueryBack, Verb
from connectors.soap.options import Connection
from mappings.profile import Profile
from mappings.values import RECORDS, field_types
from mappings.yaml_source import below

_SETTING = re.compile(r"\bconnection\.([A-Za-z0-9_]+)")
_RULES = ("success", "error_code", "error_text", "error_texts", "faults", "retryable")
_OF_PROTOCOL = {
    "soap": {*Connection.__struct_fields__, *_RULES},
    "hl7v2": {*Hl7Settings.__struct_fields__, "error"},
    "fhir": {"assumed", "fhir_release", "seat_attempts", "settle_wait_s"},
}
_OURS = ("his_refs", "document")
"""What no HIS has a word for."""

_QUERIES = {
    Verb.LOCK_SLOT: Verb.FETCH_REGISTRATION,
    Verb.BOOK: Verb.FETCH_REGISTRATION,
    Verb.REGISTER: Verb.FETCH_REGISTRATION,
    Verb.CANCEL_REGISTRATION: Verb.FETCH_REGISTRATION,
    Verb.SETTLE_BILL: Verb.FETCH_SETTLEMENT,
    Verb.REFUND: Verb.FETCH_REFUND,
    Verb.CREATE_PATIENT: Verb.FIND_PATIENT,
}


def unread(profile: Profile) -> Iterator[tuple[str, str]]:
    """(YAML path, what is wrong) of tables that no mapping names, and of settings that nothing reads."""
    named = set(_values_of(profile.raw, ("table", "codes")))
    for table in profile.tables:
        if table not in named:
            yield f"tables.{table}", "nothing reads this table: a mapping says `table: NAME`, a verb `codes: NAME`"
    read = {name for text in _texts(profile.raw) for name in _SETTING.findall(text)}
    security = profile.connection.get("security")
    read |= {str(security.get("username"))} if isinstance(security, dict) else set()
    for key in profile.connection:
        if key not in read and key not in _OF_PROTOCOL[profile.protocol]:
            close = difflib.get_close_matches(key, _OF_PROTOCOL[profile.protocol], 1)
            meant = f"did you mean `{close[0]}`?" if close else f"a request reads it as `connection.{key}`"
            yield f"connection.{key}", f"nothing reads this: {meant}"
    if profile.protocol == "soap" and profile.inbound and profile.connection.get("server") is None:
        yield "inbound", "nothing reads this: the profile has no `connection.server`, so that the HIS cannot call us"


def overheard(profile: Profile) -> Iterator[tuple[str, str]]:
    """(YAML path, what that means) of a listener that takes what somebody has overheard."""
    server = profile.connection.get("server")
    if isinstance(server, dict) and server.get("fresh") is None:
        yield (
            "connection.server",
            "no `fresh`: a call that somebody has overheard is known again for 7 days, and new after that",
        )


def unset(profile: Profile, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(YAML path, what is wrong) of what is read as `connection.NAME` and stands nowhere: it is absent in every request."""
    given = profile.connection | settings
    for path, text in _texts_at(profile.raw, ""):
        for name in _SETTING.findall(text):
            if name not in given and name not in _OF_PROTOCOL[profile.protocol]:
                close = difflib.get_close_matches(name, given, 1)
                hint = (
                    f"did you mean `connection.{close[0]}`?"
                    if close
                    else "in `connection`, or in the settings of a site"
                )
                yield path, f"connection.{name} is set nowhere: {hint}"


def capabilities(profile: Profile) -> dict[str, list[str]]:
    """The verbs of the port, by what the profile says of them."""
    found: dict[str, list[str]] = {capability.value: [] for capability in Capability}
    for verb in Verb:
        spec = profile.verbs.get(verb.value)
        found[Capability.OFF.value if spec is None else spec.capability].append(verb.value)
    return found


def without_a_way_back(profile: Profile) -> Iterator[tuple[str, str]]:
    """(YAML path, what that means) of writes whose lost reply nobody can look up."""
    for write, query in _QUERIES.items():
        spec, other = profile.verbs.get(write.value), profile.verbs.get(query.value)
        if spec is None or spec.capability != Capability.NATIVE:
            continue
        if spec.query_back == QueryBack.NONE:
            yield f"verbs.{write}", "query_back: none: a write whose reply is lost waits for a person"
        elif other is None or other.capability != Capability.NATIVE:
            hint = f"query_back: {spec.query_back}, and {query} is off: a write whose reply is lost waits for a person"
            yield f"verbs.{write}.query_back", hint


def unfilled(profile: Profile) -> Iterator[tuple[str, str, list[str]]]:
    """(verb, record, its fields that the map has nothing for) of every map of a native verb."""
    for name, spec in profile.verbs.items():
        if spec.capability != Capability.NATIVE:
            continue
        for reply in _replies([spec.reply, spec.call, spec.then]):
            record = reply["record"]
            given = {field for field, entry in (reply.get("fields") or {}).items() if entry is not None}
            if spec.then is not None and reply is spec.reply:
                given.add(str(spec.then.get("into")))
            missing = [field for field in field_types(RECORDS[record]) if field not in given and field not in _OURS]
            if missing:
                yield name, record, missing


def _replies(raw: Any) -> Iterator[dict[str, Any]]:
    if isinstance(raw, list):
        for entry in raw:
            yield from _replies(entry)
    elif isinstance(raw, dict):
        if isinstance(raw.get("record"), str) and raw["record"] in RECORDS:
            yield raw
        for value in raw.values():
            yield from _replies(value)


def _values_of(raw: Any, keys: tuple[str, ...]) -> Iterator[str]:
    if isinstance(raw, dict):
        for key, value in raw.items():
            if key in keys and isinstance(value, str):
                yield value
            yield from _values_of(value, keys)
    elif isinstance(raw, list):
        for value in raw:
            yield from _values_of(value, keys)


def _texts_at(raw: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text that is a value, with its YAML path."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _texts_at(value, below(path, str(key)))
    elif isinstance(raw, list):
        for number, value in enumerate(raw):
            yield from _texts_at(value, below(path, number))
    elif isinstance(raw, str):
        yield path, raw


def _texts(raw: Any) -> Iterator[str]:
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _texts(value)
    elif isinstance(raw, str):
        yield raw
