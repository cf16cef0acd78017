"""`Appointment/$find` (IHE ITI-115): what could be booked, as proposed Appointments whose ids are their slots'.

From ready-made days, as the lists of `/v1` are; while the change feed is behind, through the store. Only what is on sale now is
proposed: neither what is held nor what is not released yet.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from booking import catalog
from booking.api.fhir.ids import row_id_to_fhir
from booking.api.fhir.resources.elements import (
    EXTENSION,
    concept,
    department_concept,
    department_reference,
    his_system,
    instant,
    practitioner_reference,
    reference,
)
from booking.api.fhir.resources.slot import money
from booking.catalog import slot_status
from booking.feed import ChangeFeed
from booking.settings import Hospital
from booking.snapshots import Days
from booking.snapshots.day import Render
from booking.snapshots.reading import DayKey
from booking.store.engine import Store

AT_ONCE = 16  # days read before others may go on
MOST_ROWS = 2_000  # read through the store at a time
_encode = msgspec.json.Encoder().encode
_ONE_DAY = dt.timedelta(days=1)
_TAIL = b"]}"


class Wanted(NamedTuple):
    """What is looked for: visits within [from_ms, until_ms]. Empty sets do not narrow it."""

    from_ms: int
    until_ms: int
    departments: frozenset[str] = frozenset()
    practitioners: frozenset[str] = frozenset()
    clinic_types: frozenset[str] = frozenset()


class Proposal(NamedTuple):
    """One slot that can be booked; `json` lacks its end, see `whole`."""

    starts_at_ms: int
    slot_id: str
    json: bytes


class _Open(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of an open slot beside its JSON."""

    ends_at_ms: int
    clinic_type: str | None
    json: msgspec.Raw


_kept = msgspec.json.Decoder(_Open)


def proposal_renderer(hospital: Hospital) -> Render:
    """How a slot is proposed; nothing where it cannot be booked."""

    def render(row: dict[str, Any], now_ms: int) -> bytes:
        if slot_status(row, now_ms) != "open" or row["fee_fen"] is None:
            return b""
        json = _encode(_proposed(hospital, row))
        return _encode(_Open(row["ends_at_ms"], row["clinic_type"], msgspec.Raw(json)))

    return render


def whole(proposal: Proposal, patient_ids: Sequence[str], period: tuple[str, str]) -> bytes:
    """The Appointment with what the asker adds: its patients, and the period that it asked for."""
    more = [
        {"actor": reference("Patient", patient_id), "required": "required", "status": "needs-action"}
        for patient_id in patient_ids
    ]
    tail = b"".join(b"," + _encode(participant) for participant in more)
    asked = _encode([{"start": period[0], "end": period[1]}])
    return b'%b%b],"requestedPeriod":%b}' % (proposal.json.removesuffix(_TAIL), tail, asked)


def _proposed(hospital: Hospital, row: dict[str, Any]) -> dict[str, Any]:
    """`participant` comes last: the asker's are added behind."""
    zone, fhir_id = hospital.zone, row_id_to_fhir(row["id"])
    resource: dict[str, Any] = {"resourceType": "Appointment", "id": fhir_id}
    fee = {"url": EXTENSION + "fee", "valueMoney": money(row["fee_fen"], hospital.currency)}
    resource["extension"] = [fee]
    resource["status"] = "proposed"
    resource["serviceType"] = [department_concept(hospital.id, row["department_id"], row["department_name"])]
    if row["clinic_type"]:
        resource["appointmentType"] = concept(
            his_system(hospital.id, "clinic-type"), row["clinic_type"], row["clinic_type"]
        )
    resource["start"] = instant(row["starts_at_ms"], zone)
    resource["end"] = instant(row["ends_at_ms"], zone)
    resource["minutesDuration"] = max(1, (row["ends_at_ms"] - row["starts_at_ms"]) // 60_000)
    resource["slot"] = [reference("Slot", fhir_id)]
    actors = [department_reference(row["department_id"], row["department_name"])]
    if row["practitioner_id"] is not None:
        actors.append(practitioner_reference(row["practitioner_id"], row["practitioner_name"]))
    resource["participant"] = [{"actor": actor, "required": "required", "status": "needs-action"} for actor in actors]
    return resource


class Proposals:
    """Finds what can be booked at one process's hospitals."""

    def __init__(self, store: Store, days: Days, feed: ChangeFeed) -> None:
        self._store = store
        self._days = days
        self._feed = feed

    async def find(self, hospital: Hospital, wanted: Wanted) -> list[Proposal]:
        """All of them, by start and id. Raises StoreUnavailable."""
        found: list[Proposal] = []
        if self._feed.is_fresh(hospital.id):
            for keys in self._steps(hospital, wanted):
                for day in await self._days.get(hospital.id, keys):
                    found += _chosen(day.shown(self._feed.store_now_ms(hospital.id)).items, wanted)
                await asyncio.sleep(0)  # others may go on
        else:
            found = await self._read(hospital, wanted)
        found.sort(key=lambda proposal: proposal[:2])
        return found

    def _steps(self, hospital: Hospital, wanted: Wanted) -> Iterator[list[DayKey]]:
        keys: list[DayKey] = []
        for date in dates(hospital, wanted):
            on = date.isoformat()
            there = self._days.departments(hospital.id, on)
            keys += [
                DayKey(hospital.id, on, department_id)
                for department_id in there
                if not wanted.departments or department_id in wanted.departments
            ]
            while len(keys) >= AT_ONCE:
                yield keys[:AT_ONCE]
                keys = keys[AT_ONCE:]
        if keys:
            yield keys

    async def _read(self, hospital: Hospital, wanted: Wanted) -> list[Proposal]:
        found: list[Proposal] = []
        render, after = proposal_renderer(hospital), None
        days = dates(hospital, wanted)
        if not days:
            return []
        while True:
            async with self._store.read(hospital.id) as tx:
                rows = await catalog.list_slots(tx, date_from=days[0], date_to=days[-1], after=after, limit=MOST_ROWS)
            shown = (
                (row["starts_at_ms"], row["id"], row["practitioner_id"], render(row, tx.now_ms))
                for row in rows
                if not wanted.departments or row["department_id"] in wanted.departments
            )
            found += _chosen(shown, wanted)
            if len(rows) < MOST_ROWS:
                return found
            after = (rows[-1]["starts_at_ms"], rows[-1]["id"])


def dates(hospital: Hospital, wanted: Wanted) -> list[dt.date]:
    """The days on which such visits begin, in the hospital's zone."""
    first = dt.datetime.fromtimestamp(wanted.from_ms / 1000, hospital.zone).date()
    last = dt.datetime.fromtimestamp(wanted.until_ms / 1000, hospital.zone).date()
    return [first + _ONE_DAY * n for n in range((last - first).days + 1)]


def _chosen(shown: Iterable[tuple[int, str, str | None, bytes]], wanted: Wanted) -> Iterator[Proposal]:
    for starts_at_ms, slot_id, practitioner_id, json in shown:
        if not json or not wanted.from_ms <= starts_at_ms <= wanted.until_ms:
            continue
        if wanted.practitioners and practitioner_id not in wanted.practitioners:
            continue
        kept = _kept.decode(json)
        if kept.ends_at_ms > wanted.until_ms or (wanted.clinic_types and kept.clinic_type not in wanted.clinic_types):
            continue
        yield Proposal(starts_at_ms, slot_id, bytes(kept.json))
