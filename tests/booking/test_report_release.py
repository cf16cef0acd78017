"""Reports are seen, and told of, only when the hospital's rule says so: after the doctor's review, or some time later."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.people import hear_patient, load_person, owner_ids
from booking.report_rules import ReportRule, shown_from_ms
from booking.reporting import put_report, reports_of
from booking.store.engine import Store
from booking.store.tables import events, reports
from mappings.canonical import Attachment, Observation, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import HOSPITAL, ZHANG, ZONE, make_hospital, put_patient
from tests.stores import BEGIN_MS, Wall

HOUR_MS = 3_600_000
ISSUED = dt.datetime.fromtimestamp(BEGIN_MS / 1000, dt.UTC)
EXAMINED = ISSUED - dt.timedelta(hours=5)
REVIEWED, DELAYED = ReportRule(release="reviewed"), ReportRule(delay_s=7200)
BOTH = ReportRule(release="reviewed", delay_s=7200)
S = ReportStatus


def make_report(status: ReportStatus = S.FINAL, **fields: Any) -> Report:
    told: dict[str, Any] = {
        "id": "R1", "kind": ReportKind.LAB, "status": status, "mrn": "M1", "issued_at": ISSUED,
        "observations": (Observation(name="WBC", value="7.2", flag="N"),),
        "attachments": (Attachment(content_type="application/pdf", data=b"%PDF-1.7"),),
    }  # fmt: skip
    return Report(**told | fields)


@pytest.mark.parametrize(
    ("rule", "report", "from_ms"),
    [
        (ReportRule(), make_report(S.PRELIMINARY), 0),
        (ReportRule(), make_report(S.UNKNOWN), 0),
        *((REVIEWED, make_report(s), None) for s in (S.REGISTERED, S.PARTIAL, S.PRELIMINARY, S.UNKNOWN)),
        *((REVIEWED, make_report(s), 0) for s in (S.FINAL, S.AMENDED, S.CORRECTED, S.CANCELLED, S.ENTERED_IN_ERROR)),
        (DELAYED, make_report(S.PRELIMINARY), BEGIN_MS + 2 * HOUR_MS),
        (DELAYED, make_report(), BEGIN_MS + 2 * HOUR_MS),
        (DELAYED, make_report(issued_at=None), 7 + 2 * HOUR_MS),  # from when it was heard of
        (DELAYED, make_report(S.CORRECTED), 0),
        (DELAYED, make_report(S.CORRECTED, effective_at=EXAMINED), BEGIN_MS - 3 * HOUR_MS),
        (DELAYED, make_report(S.CORRECTED, effective_at=ISSUED), BEGIN_MS + 2 * HOUR_MS),
        (BOTH, make_report(S.PRELIMINARY), None),
        (BOTH, make_report(), BEGIN_MS + 2 * HOUR_MS),
    ],
)
def test_rule_says_from_when_on_a_report_is_seen(rule: ReportRule, report: Report, from_ms: int | None) -> None:
    assert shown_from_ms(rule, report, heard_ms=7) == from_ms


async def put(store: Store, report: Report, rule: ReportRule) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_report(tx, report, told=True, rule=rule, zone=ZONE)


async def bind(store: Store) -> str:
    patient_id = await put_patient(store)
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
    return patient_id


async def seen(store: Store, rule: ReportRule) -> list[tuple[str, int]]:
    async with store.read(HOSPITAL) as tx:
        person_id = await owner_ids(tx, tx.digest("mrn", "M1"))
        person = None if person_id is None else await load_person(tx, person_id)
        assert person is not None
        return [(row.status, row.version) for row in await reports_of(tx, person, rule)]


async def told_of(store: Store) -> list[dict[str, Any]]:
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == "report.changed").order_by(events.c.id))
    return [msgspec.json.decode(row["payload"]) for row in rows]


async def test_nothing_is_seen_or_told_before_the_review_when_the_rule_asks_for_it(store: Store) -> None:
    await bind(store)
    await put(store, make_report(S.PRELIMINARY), REVIEWED)
    assert (await seen(store, REVIEWED), await told_of(store)) == ([], [])
    await put(store, make_report(), REVIEWED)
    assert await seen(store, REVIEWED) == [("final", 2)]
    await put(store, make_report(S.CORRECTED), REVIEWED)
    assert await seen(store, REVIEWED) == [("corrected", 3)]
    assert [(e["status"], e["version"]) for e in await told_of(store)] == [("final", 2), ("corrected", 3)]


async def test_report_is_seen_when_its_delay_is_over_and_not_a_moment_before(store: Store, wall: Wall) -> None:
    await bind(store)
    await put(store, make_report(), DELAYED)
    (event,) = await told_of(store)
    assert dt.datetime.fromisoformat(event["shown_at"]) == ISSUED + dt.timedelta(hours=2)
    assert event["shown_at"].endswith("+08:00")
    wall.now_ms = BEGIN_MS + 2 * HOUR_MS - 1
    assert await seen(store, DELAYED) == []
    wall.now_ms += 1
    assert await seen(store, DELAYED) == [("final", 1)]


async def test_released_reports_are_listed_when_hundreds_of_newer_ones_are_not(store: Store, wall: Wall) -> None:
    await bind(store)
    for n in range(2):
        await put(store, make_report(id=f"old{n}"), REVIEWED)
    wall.now_ms += 1
    async with store.write(HOSPITAL) as tx:
        for n in range(401):
            await put_report(tx, make_report(S.PRELIMINARY, id=f"P{n}"), rule=REVIEWED)
    assert await seen(store, REVIEWED) == [("final", 1), ("final", 1)]


async def test_each_report_is_listed_once_and_the_newest_when_there_are_more_than_a_list_takes(
    store: Store, wall: Wall
) -> None:
    await bind(store)
    for at in range(3):
        wall.now_ms += 1
        async with store.write(HOSPITAL) as tx:
            for n in range(130):
                await put_report(tx, make_report(S.FINAL if n % 2 else S.PRELIMINARY, id=f"{at}.{n}"), rule=REVIEWED)
    async with store.read(HOSPITAL) as tx:
        person_id = await owner_ids(tx, tx.digest("mrn", "M1"))
        assert person_id is not None
        person = await load_person(tx, person_id)
        assert person is not None
        found = [(row.updated_ms, row.record.id) for row in await reports_of(tx, person, REVIEWED)]
        everything = {row.record.id for row in await reports_of(tx, person)}
    assert {name for _, name in found} == {f"{at}.{n}" for at in range(3) for n in range(1, 130, 2)}
    assert (len(found), [at for at, _ in found]) == (195, sorted((at for at, _ in found), reverse=True))
    assert len(everything) == 200
    assert {name for name in everything if name.startswith("2.")} == {f"2.{n}" for n in range(130)}


async def test_no_address_shows_a_report_before_the_rule_does(store: Store) -> None:
    async with serve_fhir(store, make_hospital(reports=REVIEWED)) as site:
        patient_id = await bind(store)
        await put(store, make_report(S.PRELIMINARY), REVIEWED)
        async with store.read(HOSPITAL) as tx:
            (row,) = await tx.all(select(reports.c.id))
        of = f"/v1/hospitals/{HOSPITAL}/patients/{patient_id}/reports"
        fhir_id = row["id"].replace("_", "-")
        single = (f"{of}/{row['id']}", f"{of}/{row['id']}/attachments/1", f"DiagnosticReport/{fhir_id}")
        lists = (of, f"DiagnosticReport?patient={patient_id}", f"Observation?patient={patient_id}")
        for path in single:
            assert (await site.ask(path)).status == 404, path
        for path in lists:
            assert b"WBC" not in (await site.ask(path)).body
            assert fhir_id.encode() not in (await site.ask(path)).body
        await put(store, make_report(), REVIEWED)
        for path in single:
            assert (await site.ask(path)).status == 200, path
        assert [len(await shown(site, path)) for path in lists] == [1, 1, 1]


async def shown(site: FhirSite, path: str) -> list[Any]:
    told: Told = await site.ask(path)
    return list(told.json["items"]) if path.startswith("/v1") else told.resources
