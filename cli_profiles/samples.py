"""A sample in a file, read as a hospital's reply would be: of SOAP here, of HL7 v2 and FHIR in other_samples.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from lxml import etree

from cli_profiles.invented import invented_request
from connectors.soap.options import read_connection
from connectors.soap.rules import Refusal
from connectors.soap.trial import Place, Reading, ReplyKeys, Trial
from connectors.soap.verbs import Case
from connectors.soap.xpath import XPathLanguage
from mappings.context import MapContext
from mappings.profile import Profile
from mappings.tracing import Read, Traced, TracedField, TracedRecord, trace_records

_NUMBER = re.compile(r"\[\d+\]")


@dataclass
class Tried:
    """What became of a sample. `told`: how it was read; `good`: whether a connector would have taken it for done.

    `places` and `texts`: where in the sample each field's texts stand and what they are, by the field's identity.
    `refusal`: the HIS's own no, and `known` what of its words the profile names.
    `unmapped`: paths that nothing reads, with how often; None where that cannot be told.
    """

    told: list[tuple[str, str]]
    good: bool = True
    traced: Traced | None = None
    unmapped: dict[str, int] | None = None
    refusal: Refusal | None = None
    known: tuple[str, ...] = ()
    places: dict[int, list[str]] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)

    @property
    def score(self) -> int:
        """How much of the sample a map understands."""
        return sum(_filled(record) for record in self.traced.records) if self.traced is not None else 0


def _filled(record: TracedRecord) -> int:
    own = sum(
        1 for one in record.fields if one.value is not None and one.problem is None and any(r.nodes for r in one.reads)
    )
    return own - len(record.problems) + sum(_filled(inner) for one in record.fields for inner in one.records)


def fields_of(records: Iterable[TracedRecord]) -> Iterable[TracedField]:
    """All fields, of the records inside records too."""
    for record in records:
        for one in record.fields:
            yield one
            yield from fields_of(one.records)


class SoapSample:
    """The calls of a SOAP profile, and what each makes of a sample."""

    def __init__(self, profile: Profile, settings: dict[str, Any], keys: Mapping[str, bytes], ctx: MapContext) -> None:
        self._trial = Trial(profile, settings, ReplyKeys(read_connection(profile, settings)[0], keys))
        self._profile, self._ctx = profile, ctx

    def try_all(self, data: bytes, verb: str | None) -> list[tuple[str, Tried]]:
        """By the place in the profile, for every call of the verb, or of all verbs that read something."""
        places = self._trial.places(verb)
        if verb is None:
            places = [place for place in places if place.spec.get("reply") is not None]
        return [(place.path, self._try(data, place, self._invented(place))) for place in places]

    def known(self, verb: str) -> set[str]:
        """What a refusal of this verb may say that the profile has words for."""
        return {part for place in self._trial.places(verb) for part in place.case.rules.known}

    def try_call(self, data: bytes, verb: str, case: Case, request: object) -> Tried | None:
        """The answer to a call that was made; None where it is not one of the verb."""
        wanted = (case.operation, case.trade)
        places = [place for place in self._trial.places(verb) if (place.case.operation, place.case.trade) == wanted]
        tried = [self._try(data, place, request) for place in places]
        return max(tried, key=lambda one: one.score, default=None)

    def _invented(self, place: Place) -> object:
        zone = self._ctx.zone
        return invented_request(place.verb, self._profile, _zone(zone), then=place.path.endswith(".then"))

    def _try(self, data: bytes, place: Place, request: object) -> Tried:
        reading = self._trial.read(data, place, request, self._ctx)
        tried = Tried(
            told=list(_told(place, reading, len(data))),
            good=reading.refusal is None and reading.root is not None,
            refusal=reading.refusal,
            known=place.case.rules.known,
        )
        if reading.root is None:
            return tried
        reply = place.spec.get("reply")
        if reply is not None and reading.refusal is None:
            paths = XPathLanguage(located=True)
            tried.traced = trace_records(self._profile, f"{place.path}.reply", reply, paths, reading.root, self._ctx)
        self._note_places(tried, place, reading)
        return tried

    def _note_places(self, tried: Tried, place: Place, reading: Reading) -> None:
        tree = _Tree(reading)
        read = {at for path in self._trial.told_at(place) for at in tree.places(_found(path, reading.root))}
        records = [] if tried.traced is None else tried.traced.records
        for one in fields_of(records):
            at = tree.places(node for each in one.reads for node in each.nodes)
            tried.places[id(one)] = [tree.named(where) for where in at]
            tried.texts[id(one)] = [text for each in one.reads for node in each.nodes if (text := _text(node))]
            read |= {*at, *tree.places(one.nodes)}
        reads: list[Read] = [] if tried.traced is None else tried.traced.reads
        read |= set(tree.places(node for one in reads for node in one.nodes))
        tried.unmapped = tree.unmapped(read)


def _zone(zone: Any) -> ZoneInfo:
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo("Asia/Shanghai")


def _found(path: str, root: Any) -> list[Any]:
    return XPathLanguage(located=True).compile(path)(root, root)


def _text(node: Any) -> str | None:
    return XPathLanguage().text(node)


def _told(place: Place, reading: Reading, size: int) -> Iterable[tuple[str, str]]:
    yield (
        "read as",
        f"{reading.charset}, {size} bytes"
        + ("" if reading.fallback is None else f" (not as declared: {reading.fallback})"),
    )
    code = f" {place.case.trade}" if place.case.trade and place.case.trade != place.case.operation else ""
    yield "call", f"{place.path}, {place.case.operation}{code}"
    if reading.why:
        yield "is", reading.why
    if reading.root is None and reading.refusal is None:
        yield "judged", "cannot be read: a write would be unknown, a read would fail"
    elif reading.refusal is None:
        yield "judged", "done"


class _Tree:
    """Places in a reply's tree."""

    def __init__(self, reading: Reading) -> None:
        self._root, self._tree = reading.root, reading.root.getroottree()
        self._echo = "" if reading.echo is None else self._tree.getpath(reading.echo)

    def places(self, nodes: Iterable[Any]) -> list[str]:
        """The paths of nodes, in their order, each once."""
        return list(dict.fromkeys(at for node in nodes if (at := self._place(node))))

    def _place(self, node: Any) -> str:
        if isinstance(node, etree._Element):
            return str(self._tree.getpath(node))
        parent = node.getparent() if hasattr(node, "getparent") else None
        if parent is None:
            return ""
        at = str(self._tree.getpath(parent))
        return f"{at}/@{node.attrname}" if node.is_attribute else at

    def named(self, place: str) -> str:
        """A place as it is shown."""
        return f"{place} (of the request)" if self._of_request(place) else place

    def _of_request(self, place: str) -> bool:
        return bool(self._echo) and (place == self._echo or place.startswith(f"{self._echo}/"))

    def unmapped(self, read: set[str]) -> dict[str, int]:
        """The leaves and attributes with a text that are not among those read: their paths without numbers, and how many."""
        counts: dict[str, int] = {}
        for element in self._root.iter("*"):
            at = str(self._tree.getpath(element))
            if self._of_request(at):
                continue
            leaves = [f"{at}/@{name}" for name, value in element.attrib.items() if value.strip()]
            if len(element) == 0 and (element.text or "").strip():
                leaves.append(at)
            for leaf in leaves:
                if leaf not in read:
                    name = _NUMBER.sub("", leaf)
                    counts[name] = counts.get(name, 0) + 1
        return counts
