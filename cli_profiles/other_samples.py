"""Samples of HL7 v2 and of FHIR."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from booking.conversion import SettingsError
from cli_profiles.samples import Tried
from connectors.fhir.documents import Document, decode_json
from connectors.fhir.paths import FhirPaths
from connectors.hl7v2 import er7
from connectors.hl7v2.charset import HL7CharsetError, decode_message
from connectors.hl7v2.paths import ER7Paths
from connectors.soap.xml import Undecodable, decode
from mappings.context import MapContext
from mappings.profile import Profile
from mappings.tracing import trace_records

_FIELD = re.compile(r"([A-Z][A-Z0-9]{2})(?:\[(\d+)[^\]]*\])?(?:\([^)]*\))?(?:-(\d+))?")
_FRAME = b"\x0b\x1c\r\n \t"
_OF_EVERY_MESSAGE = ("MSH", "EVN", "MSA")


def try_hl7(profile: Profile, ctx: MapContext, data: bytes, verb: str | None) -> list[tuple[str, Tried]]:
    """A message, by the maps of its type, or as an answer to a verb. Raises SettingsError for what is none."""
    try:
        decoded = decode_message(data.strip(_FRAME), str(ctx.connection.get("charset", "UNICODE UTF-8")))
        message = er7.parse(decoded.text, decoded.codec)
    except (HL7CharsetError, er7.ER7Error) as error:
        raise SettingsError(f"the sample is no HL7 v2 message: {error}") from None
    kind = "^".join(filter(None, (message.value("MSH", 9, 1), message.value("MSH", 9, 2))))
    ctx = msgspec.structs.replace(ctx, message_tz=er7.declared_offset(message))
    maps = [(profile.inbound_path(kind, n), one) for n, one in enumerate(profile.inbound.get(kind, []))]
    if verb is not None:
        maps = list(_replies(profile, verb))
    tried = []
    for path, spec in maps:
        told = [("read as", f"{decoded.codec}, {len(data)} bytes"), ("is", kind), ("map", path)]
        traced = trace_records(profile, path, spec, ER7Paths(), message, ctx)
        tried.append((path, Tried(told=told, traced=traced, unmapped=_unread(message, spec))))
    return tried


def try_fhir(profile: Profile, ctx: MapContext, data: bytes, verb: str | None) -> list[tuple[str, Tried]]:
    """A resource or a Bundle, by the map of a verb's reply. Raises SettingsError for what is none."""
    try:
        decoded = decode(data)
        content = decode_json(decoded.text)
    except (Undecodable, ValueError) as error:
        raise SettingsError(f"the sample is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError("the sample is no FHIR resource: a JSON object is expected")
    tried = []
    for path, spec in _replies(profile, verb):
        told = [("read as", f"{decoded.charset}, {len(data)} bytes"), ("map", path)]
        traced = trace_records(profile, path, spec, FhirPaths(ctx.connection), Document(content), ctx)
        tried.append((path, Tried(told=told, traced=traced)))
    return tried


def _replies(profile: Profile, verb: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, spec in profile.verbs.items():
        if verb in (None, name) and spec.capability == "native" and spec.reply is not None:
            yield f"verbs.{name}.reply", spec.reply


def _unread(message: er7.Message, spec: dict[str, Any]) -> dict[str, int]:
    """The fields that no path of the map names, with how many segments have them."""
    named = {
        f"{segment}-{number}"
        for text in _texts(spec)
        for segment, *numbers in _FIELD.findall(text)
        for number in numbers
    }
    counts: dict[str, int] = {}
    for segment in message.segments:
        for number in range(1, len(segment.fields())):
            place = f"{segment.name}-{number}"
            if segment.name not in _OF_EVERY_MESSAGE and place not in named and any(segment.repetitions(number)):
                counts[place] = counts.get(place, 0) + 1
    return counts


def _texts(spec: Any) -> Iterator[str]:
    if isinstance(spec, dict):
        for key, value in spec.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from _texts(value)
    elif isinstance(spec, str):
        yield spec
