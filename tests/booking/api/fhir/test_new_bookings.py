"""Answers to new bookings are cast from moulds, and are those that a repeated call gets, which are made one by one."""

from __future__ import annotations

from typing import Any

import pytest

from booking.api.fhir import holds
from booking.api.fhir.new_bookings import NewBookings
from booking.inventory.moulds import hole, text_mould
from booking.settings import ReserveBy
from booking.store.engine import Store
from mappings.canonical import Patient
from tests.booking.api.fhir.calling import call
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import LI, ZHANG, make_hospital, make_schedule, put_patient, put_slot

WANG = Patient(name="王芳", id_type="id_card", id_number="110101199003070070", phone="13800003333")


@pytest.fixture
def cast(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The answers that came out of a mould; a slot's row stays known however slow the machine is."""
    told: list[bytes] = []
    answer = NewBookings.answer

    def watch(new: NewBookings, *given: Any) -> Any:
        ready = answer(new, *given)
        told.append(b"" if ready is None else ready.body)
        return ready

    monkeypatch.setattr(NewBookings, "answer", watch)
    monkeypatch.setattr(holds, "SLOT_KNOWN_S", 3600.0)
    return told


def of(slot_id: str, patient_id: str) -> dict[str, str]:
    return {
        "appointment_reference": f"Appointment/{slot_id.replace('_', '-')}",
        "patient_reference": f"Patient/{patient_id}",
    }


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"fee_fen": 0},
        {"practitioner_id": None, "practitioner_name": None},
        {"department_name": 'A\x01B"\\', "practitioner_name": "李\ud7ff"},
        {"department_name": "A\x7fid\x7f", "clinic_type": "odd"},
        {"department_id": "内科 一", "department_name": None},
    ],
    ids=["plain", "free", "no doctor", "odd texts", "like a hole", "odd code"],
)
@pytest.mark.parametrize("operation", ["hold", "book"])
async def test_answer_is_that_of_a_repeated_call_when_it_comes_from_a_mould(
    site: FhirSite, cast: list[bytes], operation: str, schedule: dict[str, Any]
) -> None:
    slot_id = await put_slot(site.store, 3, schedule=make_schedule(**schedule))
    first, *others = [await put_patient(site.store, one) for one in (ZHANG, LI, WANG)]
    assert (await call(site, operation, **of(slot_id, first))).status == 200  # reads the slot
    for patient_id in others:
        new = await call(site, operation, **of(slot_id, patient_id))
        again = await call(site, operation, **of(slot_id, patient_id))
        assert again.headers["Idempotent-Replayed"] == "true"
        assert new.body == again.body
        [appointment] = new.resources
        read = await site.ask(f"Appointment/{appointment['id']}")
        assert read.json == appointment
        assert read.headers["ETag"] == f'W/"{appointment["meta"]["versionId"]}"'
    assert len([body for body in cast if body]) == (0 if "odd" in str(schedule.get("clinic_type")) else len(others))


async def test_answer_names_the_address_that_was_asked_when_bases_take_turns(site: FhirSite, cast: list[bytes]) -> None:
    slot_id = await put_slot(site.store, 3)
    patients = [await put_patient(site.store, one) for one in (ZHANG, LI, WANG)]
    for patient_id, host in zip(patients, ("a.example", "b.example", "a.example"), strict=True):
        given = of(slot_id, patient_id)
        body = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": name.replace("_", "-"), "valueReference": {"reference": told}} for name, told in given.items()
            ],
        }
        told = await site.ask("Appointment/$book", "POST", body, headers={"Host": host})
        assert told.link("self") == f"http://{host}/fhir/R4/Appointment/$book"
        assert told.json["entry"][0]["fullUrl"].startswith(f"http://{host}/fhir/R4/Appointment/")
    assert len(cast) == 2


async def test_new_row_is_told_when_the_slot_was_read_again(
    site: FhirSite, cast: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    slot_id = await put_slot(site.store, 9)
    patients = [await put_patient(site.store, one) for one in (ZHANG, LI, WANG)]
    for patient_id in patients[:2]:
        await call(site, "book", **of(slot_id, patient_id))
    await put_slot(site.store, 9, schedule=make_schedule(practitioner_id="P2", practitioner_name="赵医生"))
    monkeypatch.setattr(holds, "SLOT_KNOWN_S", -1.0)
    [appointment] = (await call(site, "book", **of(slot_id, patients[2]))).resources
    assert {"reference": "Practitioner/P2", "display": "赵医生"} in [p["actor"] for p in appointment["participant"]]
    assert len(cast) == 1


async def test_answers_are_the_hospitals_own_when_nothing_has_to_be_locked(store: Store, cast: list[bytes]) -> None:
    async with serve_fhir(store, make_hospital(reserve_by=ReserveBy.QUOTA)) as site:
        slot_id = await put_slot(store, 3, schedule=make_schedule(fee_fen=0))
        for one in (ZHANG, LI):
            patient_id = await put_patient(store, one)
            new = await call(site, "book", **of(slot_id, patient_id))
            assert new.body == (await call(site, "book", **of(slot_id, patient_id))).body
    assert len(cast) == 1


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (f"a{hole('x')}b{hole('y')}c{hole('x')}", b"a1b2c1"),
        (f"{hole('y')}", b"2"),
        (f"{hole('x')}{hole('y')}", b"12"),
        ("nothing", b"nothing"),
        ("", b""),
        (f"{hole('z')} stays", b"\x7fz\x7f stays"),
    ],
)
def test_values_stand_in_the_holes_when_a_text_is_cast(sample: str, told: bytes) -> None:
    assert text_mould(sample.encode(), ("x", "y"))((b"1", b"2")) == told
