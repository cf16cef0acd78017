"""Who reads a report gets what the hospital says now; what is stored where it says nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from booking.api.report_looks import AGAIN_S, FRESH_S, MOST, WAIT_S, Looks
from booking.people import hear_patient
from booking.ports import LiveFailed
from booking.reporting import put_report
from booking.store.engine import Store
from mappings.canonical import Observation, Patient, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import HOSPITAL, ZHANG, make_hospital, put_patient
from tests.stores import Wall

S = ReportStatus
KEY = ("h", "p", "R1")


def make_report(value: str, status: ReportStatus = S.FINAL, **changes: Any) -> Report:
    told = () if value == "" else (Observation(name="WBC", value=value),)
    known = Report(id="R1", kind=ReportKind.LAB, status=status, mrn="M1", observations=told)
    return msgspec.structs.replace(known, **changes)


class Clinic:
    """张伟's report, of which the hospital says `says`, or fails with it; `asked` counts how often it is asked."""

    def __init__(self, site: FhirSite, patient_id: str, report_id: str) -> None:
        self.site = site
        self.of = f"/v1/hospitals/{HOSPITAL}/patients/{patient_id}/reports/{report_id}"
        self.fhir_id = report_id.replace("_", "-")
        self.says: Report | Exception | None = None
        self.asked: list[float | None] = []

    async def report(
        self, hospital_id: str, patient: Patient, report_id: str, *, within_s: float | None = None
    ) -> Report | None:
        self.asked.append(within_s)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def read(self) -> tuple[str, str, str, int]:
        """value, status, as_of and version."""
        told = await self.site.ask(self.of)
        assert told.status == 200, told.body
        one = told.json
        return one["observations"][0]["value"], one["status"], one["as_of"], one["version"]


@pytest.fixture
async def clinic(store: Store, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clinic]:
    async with serve_fhir(store, make_hospital()) as site:
        patient_id = await put_patient(store)
        async with store.write(HOSPITAL) as tx:
            await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
            row = await put_report(tx, make_report("7.2"))
        wall.turn(3600)
        it = Clinic(site, patient_id, row.id)
        monkeypatch.setattr(site.ward, "report", it.report)
        yield it


async def test_correction_is_read_though_nobody_has_read_the_list_and_the_hospital_is_asked_once(
    clinic: Clinic,
) -> None:
    clinic.says = make_report("9.9", S.CORRECTED)
    for _ in range(3):
        assert await clinic.read() == ("9.9", "corrected", "live", 2)
    assert clinic.asked == [WAIT_S]


async def test_facade_reads_the_correction_too(clinic: Clinic) -> None:
    clinic.says = make_report("9.9", S.CORRECTED)
    assert (await clinic.site.ask(f"DiagnosticReport/{clinic.fhir_id}")).json["status"] == "corrected"
    assert (await clinic.read())[0] == "9.9"


async def test_facade_reads_the_correction_of_a_single_line_too(clinic: Clinic) -> None:
    clinic.says = make_report("9.9", S.CORRECTED)
    line = await clinic.site.ask(f"Observation/{clinic.fhir_id}.1")
    assert (line.status, line.json["valueQuantity"]["value"]) == (200, 9.9)
    assert clinic.asked == [WAIT_S]
    for gone in (f"Observation/{clinic.fhir_id}.2", f"Observation/{clinic.fhir_id}", "Observation/.1"):
        assert (await clinic.site.ask(gone)).status == 404, gone


async def test_line_that_a_correction_took_away_is_read_no_more(clinic: Clinic) -> None:
    whole = make_report("7.2")
    async with clinic.site.store.write(HOSPITAL) as tx:
        await put_report(tx, msgspec.structs.replace(whole, observations=(*whole.observations, *whole.observations)))
    clinic.says = make_report("9.9", S.CORRECTED)
    assert (await clinic.site.ask(f"Observation/{clinic.fhir_id}.2")).status == 404


async def test_nothing_is_written_when_the_hospital_says_the_same(clinic: Clinic) -> None:
    clinic.says = make_report("7.2")
    assert await clinic.read() == ("7.2", "final", "live", 1)


@pytest.mark.parametrize("says", [LiveFailed("his_unavailable"), LiveFailed("his_reply_invalid"), None])
async def test_what_is_stored_is_given_with_its_time_when_the_hospital_says_nothing(
    clinic: Clinic, wall: Wall, says: LiveFailed | None
) -> None:
    clinic.says = says
    for _ in range(3):
        assert await clinic.read() == ("7.2", "final", "stored", 1)
    assert len(clinic.asked) == 1  # a hospital that is away stalls no second reader
    told_at = dt.datetime.fromisoformat((await clinic.site.ask(clinic.of)).json["told_at"])
    assert wall.now_ms - told_at.timestamp() * 1000 == 3600 * 1000


@pytest.mark.parametrize("says", [make_report("6.6", mrn="M2"), make_report("6.6", id="R2")])
async def test_another_patient_s_or_another_report_is_never_shown(clinic: Clinic, says: Report) -> None:
    clinic.says = says
    assert (await clinic.read())[0] == "7.2"
    assert (await clinic.read())[3] == 1


async def test_hospital_is_not_asked_when_it_offers_no_single_report(clinic: Clinic) -> None:
    clinic.site.ward.off = {"fetch_report"}
    assert await clinic.read() == ("7.2", "final", "stored", 1)
    assert clinic.asked == []


async def test_heading_alone_is_no_answer_when_the_hospital_is_away(clinic: Clinic, store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        row = await put_report(tx, make_report("", id="R9"))
    clinic.says = LiveFailed("his_unavailable")
    path = clinic.of.rpartition("/")[0]
    assert (await clinic.site.ask(f"{path}/{row.id}")).status in (502, 503)
    assert clinic.asked == [None]


def test_looks_are_due_again_after_their_time() -> None:
    now_s = [0.0]
    looks = Looks(lambda: now_s[0])
    assert (looks.is_due(KEY), looks.is_due(KEY), looks.is_fresh(KEY)) == (True, False, False)
    looks.told(KEY)
    now_s[0] = FRESH_S - 0.1
    assert (looks.is_due(KEY), looks.is_fresh(KEY)) == (False, True)
    now_s[0] = FRESH_S
    assert (looks.is_fresh(KEY), looks.is_due(KEY)) == (False, True)
    looks.failed(KEY)
    now_s[0] += AGAIN_S - 0.1
    assert (looks.is_due(KEY), looks.is_fresh(KEY)) == (False, False)
    now_s[0] += 0.1
    assert looks.is_due(KEY)


def test_looks_do_not_grow_without_end() -> None:
    looks = Looks(lambda: 0.0)
    looks.told(KEY)
    for n in range(MOST):
        looks.told(("h", "p", str(n)))
    assert looks.is_due(KEY)
    assert not looks.is_due(("h", "p", "9"))
