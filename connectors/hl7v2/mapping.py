"""The mappings of one profile for HL7 v2, compiled once: verbs to requests and replies, message types to events."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import msgspec

from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.acks import control_id
from connectors.hl7v2.options import Settings
from connectors.hl7v2.paths import ER7Paths
from connectors.hl7v2.writer import check_tree
from mappings.engine import MapContext, RecordMap, RequestTree, compile_record_map, compile_request
from mappings.profile import Profile, VerbSpec

PATHS = ER7Paths()


class Condition(msgspec.Struct, frozen=True):
    """What a good reply must say besides AA: the text at `path` is one of `values`."""

    path: str
    values: frozenset[str]

    def holds(self, message: er7.Message) -> bool:
        return first_text(self.path, message) in self.values


class CompiledVerb(msgspec.Struct, frozen=True, kw_only=True):
    """One verb ready to run.

    `message` is MSH-9 as components. `expect` must hold for AA to mean done. `errors` are the paths of the HIS's error
    code, first present wins; `codes` translates it. `cursor` is the path of the continuation pointer of a paged query.
    """

    name: str
    spec: VerbSpec
    message: tuple[str, ...]
    request: RequestTree
    reply: RecordMap | None
    expect: tuple[Condition, ...]
    errors: tuple[str, ...]
    codes: dict[str, Any]
    cursor: str | None
    max_pages: int
    then: str | None


class ProfileMaps:
    """Everything that a profile says, compiled. Raises mappings.profile.ProfileError for what cannot work."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.verbs = {name: self._verb(name, spec) for name, spec in profile.verbs.items() if spec.request is not None}
        self.inbound: dict[str, tuple[RecordMap, ...]] = {
            kind: tuple(
                compile_record_map(profile, profile.inbound_path(kind, index), entry, PATHS)
                for index, entry in enumerate(entries)
            )
            for kind, entries in profile.inbound.items()
        }

    def _verb(self, name: str, spec: VerbSpec) -> CompiledVerb:
        place = f"verbs.{name}"
        profile = self.profile
        profile.check_keys(f"{place}.call", spec.call, ("message", "expect", "error", "ref"))
        message = str(spec.call.get("message", "")).split("^")
        if not message[0]:
            profile.fail(f"{place}.call", "message: the type to send, as in SRM^S01^SRM_S01")
        try:
            check_tree(spec.request)
        except ValueError as error:
            profile.fail(f"{place}.request", str(error))
        expect = tuple(
            Condition(path, frozenset(str(v) for v in (values if isinstance(values, list) else [values])))
            for path, values in spec.call.get("expect", {}).items()
        )
        errors = spec.call.get("error", profile.connection.get("error", ["ERR-3"]))
        pages, then = spec.pages or {}, spec.then or {}
        profile.check_keys(f"{place}.pages", pages, ("cursor", "max", "ref"))
        profile.check_keys(f"{place}.then", then, ("verb", "ref"))
        for path in (*(c.path for c in expect), *errors, *([pages["cursor"]] if "cursor" in pages else [])):
            try:
                PATHS.compile(path)
            except ValueError as error:
                profile.fail(f"{place}.call", f"{path}: {error}")
        return CompiledVerb(
            name=name,
            spec=spec,
            message=tuple(message),
            request=compile_request(profile, f"{place}.request", spec.request),
            reply=compile_record_map(profile, f"{place}.reply", spec.reply, PATHS) if spec.reply else None,
            expect=expect,
            errors=tuple(errors),
            codes=profile.tables[spec.codes] if spec.codes else {},
            cursor=pages.get("cursor"),
            max_pages=int(pages.get("max", 50)),
            then=then.get("verb"),
        )


def first_text(path: str, message: er7.Message) -> str:
    """The first text at a path, "" where there is none."""
    for node in PATHS.compile(path)(message, message):
        text = PATHS.text(node)
        if text:
            return text
    return ""


def map_context(
    hospital: HospitalContext,
    settings: Settings,
    connection: dict[str, Any],
    *,
    message: er7.Message | None = None,
    extra: dict[str, Any] | None = None,
) -> MapContext:
    """The context of one mapping: of a message that came (its MSH-7 may declare a zone), or of a request to be written.

    Only a request gets what is new for each: record maps cannot read it, and every message of a stream would wait for it.
    """
    zone = None if message is None or settings.ignore_message_zone else er7.declared_offset(message)
    fresh = (
        {"new.uuid": str(uuid.uuid4()), "new.control_id": control_id(), "page.cursor": ""} if message is None else {}
    )
    return MapContext(
        hospital_id=hospital.id,
        zone=hospital.zone,
        currency=hospital.currency,
        now=dt.datetime.now(hospital.zone),
        message_tz=zone,
        connection=connection,
        extra={**fresh, **(extra or {})},
    )
