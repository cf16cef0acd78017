"""A patient as a portal sends one: what is taken from documents, who is a child, and how many a user may bind."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from booking.api.patient_records import patient_record
from booking.api.problems import ApiProblem
from booking.api.views.patients import NewPatient
from booking.errors import Refusal
from booking.patient_rules import PatientRule, age_years
from booking.people import add_patient, hear_patient, own_patient
from booking.store.crypto import SealBroken
from booking.store.engine import Store
from booking.store.tables import persons
from mappings.canonical import Patient, Sex
from tests.booking.test_documents import whole
from tests.booking.world import CLIENT, HOSPITAL, LI, WANG, ZHANG, put_patient

DEFAULT = PatientRule()
TODAY = dt.date(2031, 3, 4)
PERSON = {"user_ref": "u1", "name": " 张伟 ", "phone": "13800001111"}
OWN = {"id_type": "id_card", "id_number": "110101199003070038"}  # 7 March 1990, a man
MOTHER = {"name": "李娜", "id_number": "110101198507150029"}
CHILD = {"birth_date": "2024-05-01", "guardian": MOTHER}


def record_of(fields: dict[str, Any], rule: PatientRule = DEFAULT) -> Patient:
    return patient_record(msgspec.convert(PERSON | fields, NewPatient, strict=False), rule, TODAY)


def place_of_refusal(fields: dict[str, Any], rule: PatientRule = DEFAULT) -> str:
    with pytest.raises(ApiProblem) as refused:
        record_of(fields, rule)
    assert refused.value.code == "invalid_field"
    return refused.value.errors[0].path


@pytest.mark.parametrize(
    ("fields", "born", "sex"),
    [
        (OWN, dt.date(1990, 3, 7), Sex.MALE),
        (OWN | {"birth_date": "1990-03-07", "sex": "male"}, dt.date(1990, 3, 7), Sex.MALE),
        (OWN | {"id_type": "household_register", "sex": "unknown"}, dt.date(1990, 3, 7), Sex.MALE),
        ({"id_type": "passport", "id_number": "E1", "sex": "female"}, None, Sex.FEMALE),
        ({"id_type": "passport", "id_number": "E1"}, None, Sex.UNKNOWN),
    ],
)
def test_birth_date_and_sex_are_the_documents_where_it_carries_them(
    fields: dict[str, Any], born: dt.date | None, sex: Sex
) -> None:
    record = record_of(fields)
    assert (record.name, record.birth_date, record.sex) == ("张伟", born, sex)


@pytest.mark.parametrize(
    ("fields", "rule", "place"),
    [
        ({"name": "  "} | OWN, DEFAULT, "$.name"),
        (OWN | {"birth_date": "1990-03-08"}, DEFAULT, "$.birth_date"),
        (OWN | {"sex": "female"}, DEFAULT, "$.sex"),
        (OWN | {"sex": "other"}, DEFAULT, "$.sex"),
        ({"id_type": "passport", "id_number": "E1", "birth_date": "2031-03-05"}, DEFAULT, "$.birth_date"),
        ({"id_type": "id_card", "id_number": whole("11010120310305001")}, DEFAULT, "$.id_number"),  # born tomorrow
        ({"id_type": "id_card"}, DEFAULT, "$.id_number"),
        ({"id_number": "1"}, DEFAULT, "$.id_type"),
        ({}, DEFAULT, "$.id_type"),
        ({"guardian": MOTHER}, DEFAULT, "$.birth_date"),
        (CHILD | {"birth_date": "2013-03-04"}, DEFAULT, "$.id_type"),  # 18 today
        (CHILD | {"birth_date": "2017-03-04"}, PatientRule(child_below_years=14), "$.id_type"),
        (CHILD, PatientRule(child_below_years=0), "$.id_type"),
        (CHILD | {"guardian": MOTHER | {"id_number": "110101198507150028"}}, DEFAULT, "$.guardian.id_number"),
        (CHILD | {"guardian": MOTHER | {"id_type": "ticket"}}, DEFAULT, "$.guardian.id_type"),
        (CHILD | {"guardian": MOTHER | {"name": " "}}, DEFAULT, "$.guardian.name"),
        (OWN | {"guardian": MOTHER | OWN}, DEFAULT, "$.guardian.id_number"),
        (OWN | {"guardian": MOTHER | OWN | {"id_type": "户口本"}}, DEFAULT, "$.guardian.id_number"),
        (CHILD | {"guardian": MOTHER | {"id_number": whole("11010120200501001")}}, DEFAULT, "$.guardian.id_number"),
        (
            {"id_type": "birth_certificate", "id_number": "K110000001", "birth_date": "2024-05-01"},
            PatientRule(guardian_required=True), "$.guardian",
        ),
    ],
)  # fmt: skip
def test_patient_is_refused_with_the_place(fields: dict[str, Any], rule: PatientRule, place: str) -> None:
    assert place_of_refusal(fields, rule) == place


def test_child_is_known_by_the_guardian_one_day_before_it_is_none() -> None:
    record = record_of(CHILD | {"birth_date": "2013-03-05"})
    assert (record.id_number, record.guardian_id_type, record.guardian_id_number) == (
        None, "id_card", MOTHER["id_number"],
    )  # fmt: skip
    assert record_of(OWN, PatientRule(guardian_required=True)).guardian_id_number is None  # an adult


@pytest.mark.parametrize(
    ("born", "today", "years"),
    [
        (dt.date(2013, 3, 4), dt.date(2031, 3, 3), 17),
        (dt.date(2013, 3, 4), dt.date(2031, 3, 4), 18),
        (dt.date(2012, 2, 29), dt.date(2030, 2, 28), 17),
        (dt.date(2012, 2, 29), dt.date(2030, 3, 1), 18),
    ],
)
def test_age_changes_on_the_birthday(born: dt.date, today: dt.date, years: int) -> None:
    assert age_years(born, today) == years


# --- in the store ------------------------------------------------------------------------------------------------------


async def test_children_of_one_guardian_are_persons_of_their_own(store: Store) -> None:
    """And none of them is the guardian; the same child is the same person for another portal."""
    mother = await put_patient(store, LI)
    first = record_of(CHILD)
    brother, twin = record_of(CHILD | {"name": "张强"}), record_of(CHILD | {"birth_date": "2026-01-01"})
    ids = [await put_patient(store, r) for r in (first, brother, twin)]
    assert len({mother, *ids}) == 4
    assert await put_patient(store, record_of(CHILD | {"name": "张伟"})) == ids[0]
    other = await put_patient(store, first, client="another")
    async with store.read(HOSPITAL) as tx:
        assert (await own_patient(tx, "another", other))[1].id == (await own_patient(tx, CLIENT, ids[0]))[1].id


async def test_child_stays_without_a_document_when_the_hospital_tells_the_guardians(store: Store) -> None:
    child = record_of(CHILD)
    patient_id = await put_patient(store, child)
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, msgspec.structs.replace(child, mrn="M1"))
        told = Patient(name="张伟", mrn="M1", id_type="01", id_number=MOTHER["id_number"], address="幸福路一号")
        await hear_patient(tx, told)
    mother = await put_patient(store, LI)
    async with store.read(HOSPITAL) as tx:
        person = (await own_patient(tx, CLIENT, patient_id))[1]
        assert (person.record.mrn, person.record.id_number, person.record.address) == ("M1", None, "幸福路一号")
        assert (await own_patient(tx, CLIENT, mother))[1].record.name == "李娜"


async def test_both_identities_are_encrypted_when_stored(store: Store) -> None:
    await put_patient(store, record_of(CHILD))
    async with store.read(HOSPITAL) as tx:
        (row,) = await tx.all(persons.select())
        assert MOTHER["id_number"].encode() not in row["sealed_record"]
        assert MOTHER["id_number"] not in str(row["identity_digest"])
        assert MOTHER["id_number"].encode() in tx.unseal(row["sealed_record"], "persons", "record")
        with pytest.raises(SealBroken):
            tx.unseal(row["sealed_record"][:-1] + b"x", "persons", "record")


async def test_user_binds_no_more_patients_than_the_hospital_says(store: Store) -> None:
    async def bind(record: Patient, user: str = "u1", client: str = CLIENT) -> str:
        async with store.write(HOSPITAL) as tx:
            return (
                await add_patient(
                    tx, client_id=client, user_ref=user, record=record, links_by_command=False, per_user=2
                )
            )[0]

    first = await bind(ZHANG)
    await bind(LI)
    with pytest.raises(Refusal) as refused:
        await bind(WANG)
    assert (refused.value.code, refused.value.extra) == ("limit_reached", {"limit": "patients_per_user", "most": 2})
    assert await bind(ZHANG) == first  # known already
    await bind(WANG, user="u2")
    await bind(WANG, client="another")
