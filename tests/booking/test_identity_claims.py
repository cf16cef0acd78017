"""Who may reach whose record: documents, names and numbers that fit only in part."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from booking.errors import Refusal
from booking.people import (
    add_patient,
    documents_differ,
    hear_patient,
    link_person,
    merge_persons,
    own_patient,
    reject_person,
)
from booking.records import Person
from booking.store.engine import Store
from booking.store.tables import outbox, persons
from mappings.canonical import Patient
from tests.booking.world import CLIENT, HOSPITAL, LI, ZHANG, commands, put_patient

CHILD = Patient(name="张小明", mrn="M2", id_type=ZHANG.id_type, id_number=ZHANG.id_number)


async def hear(store: Store, told: Patient) -> None:
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, told)


async def person_of(store: Store, patient_id: str, client: str = CLIENT) -> Person:
    async with store.read(HOSPITAL) as tx:
        return (await own_patient(tx, client, patient_id))[1]


async def refuse(store: Store, patient_id: str) -> None:
    """The HIS knows the document under another name."""
    person = await person_of(store, patient_id)
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(outbox).values(status="done"))
        await reject_person(tx, person, "patient_mismatch")


async def accept(store: Store, patient_id: str, mrn: str) -> None:
    """The HIS finds the person by the name that was typed."""
    person = await person_of(store, patient_id)
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(outbox).values(status="done"))
        await link_person(tx, person, Patient(name=person.record.name, mrn=mrn))


# --- by a card's number ------------------------------------------------------------------------------------------------


def by_card(who: Patient, mrn: str) -> Patient:
    return msgspec.structs.replace(who, card_type="mrn", card_number=mrn)


async def test_card_opens_nothing_when_its_holder_has_another_document(store: Store) -> None:
    await hear(store, Patient(name="张伟", mrn="M7", id_type="id_card", id_number="110101198001011090"))
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, by_card(ZHANG, "M7"), client="another")
    passport = Patient(name="张伟", id_type="passport", id_number="E1", card_type="mrn", card_number="M7")
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, passport, client="another")


async def test_card_opens_its_record_when_name_and_document_are_the_holders(store: Store) -> None:
    await hear(store, Patient(name="张伟", mrn="M7"))
    await hear(store, Patient(name="张伟", mrn="M7", id_type="id_card", id_number=ZHANG.id_number))
    assert (await person_of(store, await put_patient(store, by_card(ZHANG, "M7")))).record.mrn == "M7"


async def test_card_opens_its_record_when_the_hospital_knows_no_document(store: Store) -> None:
    """There the hospital's card is the identity."""
    await hear(store, Patient(name="张伟", mrn="M7"))
    assert (await person_of(store, await put_patient(store, by_card(ZHANG, "M7")))).record.mrn == "M7"
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, by_card(LI, "M7"), client="another")


@pytest.mark.parametrize("name", ["", "张伟"])
async def test_card_opens_nothing_when_its_holder_has_no_name(store: Store, name: str) -> None:
    """A merge of two unknown numbers leaves a record without a name: nothing can be compared."""
    async with store.write(HOSPITAL) as tx:
        await merge_persons(tx, surviving_mrn="M7", retired_mrn="M8")
    record = Patient(name=name, id_type="passport", id_number="E1", card_type="mrn", card_number="M7")
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, record)


@pytest.mark.parametrize(
    ("known", "given", "differ"),
    [
        ("110101199003070038", "110101199003070038", False),
        ("11010119800101109x", "11010119800101109X", False),
        ("110101199003070038", "110101198507150029", True),
        ("110101900307003", "110101199003070038", False),  # the same number before 1999: no century, no check character
        ("110101900307004", "110101199003070038", True),
        ("1101**********0038", "110101198507150029", False),
        (None, "110101198507150029", False),
    ],
)
def test_documents_differ_only_when_they_are_certainly_of_two_people(
    known: str | None, given: str, differ: bool
) -> None:
    assert documents_differ(known, given) is differ
    assert documents_differ(given, known) is differ


# --- by a document that is another's -----------------------------------------------------------------------------------


async def test_parent_keeps_their_record_when_a_child_is_registered_with_their_document(store: Store) -> None:
    parent = await put_patient(store, ZHANG)
    await hear(store, CHILD)
    assert (await person_of(store, parent)).record == ZHANG
    await hear(store, msgspec.structs.replace(ZHANG, mrn="M1"))
    assert (await person_of(store, parent)).record.mrn == "M1"
    child = await put_patient(store, msgspec.structs.replace(CHILD, mrn=None), user="u2")
    assert (await person_of(store, child)).record.mrn == "M2"


async def test_linked_parent_keeps_their_number_when_a_child_is_registered_with_their_document(store: Store) -> None:
    parent = await put_patient(store, ZHANG)
    await accept(store, parent, "M1")
    await hear(store, CHILD)
    assert ((await person_of(store, parent)).record.name, (await person_of(store, parent)).record.mrn) == ("张伟", "M1")


async def test_document_does_not_find_the_child_when_its_birth_date_is_not_the_childs(store: Store) -> None:
    """The card carries 1990: whoever was born in 2020 was registered with somebody else's."""
    await hear(store, msgspec.structs.replace(CHILD, birth_date=dt.date(2020, 5, 1)))
    parent = await put_patient(store, ZHANG)
    assert (await person_of(store, parent)).record == ZHANG


async def test_document_is_free_again_when_the_hospital_corrects_it(store: Store) -> None:
    await hear(store, CHILD)
    own = Patient(
        name="张小明", mrn="M2", id_type="id_card", id_number="11010120200501101X", birth_date=dt.date(2020, 5, 1)
    )
    await hear(store, own)
    parent = await put_patient(store, ZHANG)
    assert (await person_of(store, parent)).record == ZHANG


async def test_second_number_is_another_record_when_the_hospital_has_not_merged_them(store: Store) -> None:
    """Only an A40 says that two numbers are one person."""
    patient = await put_patient(store, ZHANG)
    await hear(store, msgspec.structs.replace(ZHANG, mrn="M1"))
    for mrn in ("M2", "M3"):
        await hear(store, msgspec.structs.replace(ZHANG, mrn=mrn))
    assert (await person_of(store, patient)).record.mrn == "M1"
    async with store.read(HOSPITAL) as tx:
        assert len(await tx.all(select(persons.c.id))) == 3


# --- by a name that was typed wrong ------------------------------------------------------------------------------------

TYPO = msgspec.structs.replace(ZHANG, name="张玮")


async def test_right_name_is_asked_for_when_the_first_one_typed_was_refused(store: Store) -> None:
    wrong = await put_patient(store, TYPO, asks_his=True)
    await refuse(store, wrong)
    right = await put_patient(store, ZHANG, asks_his=True, client="another")
    person = await person_of(store, right, "another")
    assert person.his_state == "pending"
    assert await commands(store, person.line) == [("create_patient", "queued")]
    async with store.write(HOSPITAL) as tx:
        await link_person(tx, person, Patient(name="张伟", mrn="M1"))
    # Who typed the wrong name has reached nothing by it.
    assert (await person_of(store, wrong)).record.mrn is None
    assert (await person_of(store, await put_patient(store, ZHANG, asks_his=True))).record.mrn == "M1"
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, TYPO, asks_his=True)


async def test_same_client_may_correct_itself_when_the_name_was_refused(store: Store) -> None:
    await refuse(store, await put_patient(store, TYPO, asks_his=True))
    right = await put_patient(store, ZHANG, asks_his=True)
    await accept(store, right, "M1")
    assert await put_patient(store, ZHANG, asks_his=True) == right


async def test_second_name_waits_when_the_first_is_being_looked_up(store: Store) -> None:
    """Else the HIS's answer to one name could be taken for an answer to the other."""
    await put_patient(store, TYPO, asks_his=True)
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, ZHANG, asks_his=True, client="another")


async def test_word_of_the_hospital_decides_when_two_names_were_typed_and_nobody_was_asked(store: Store) -> None:
    wrong, right = await put_patient(store, TYPO), await put_patient(store, ZHANG, client="another")
    assert await put_patient(store, TYPO) == wrong
    assert await put_patient(store, ZHANG, client="another") == right
    await hear(store, msgspec.structs.replace(ZHANG, mrn="M1"))
    assert (await person_of(store, right, "another")).record.mrn == "M1"
    assert (await person_of(store, wrong)).record.mrn is None
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, TYPO, user="u2")


async def test_no_more_than_one_record_is_made_when_a_wrong_name_is_typed_again_and_again(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        for record in (ZHANG, TYPO, ZHANG, TYPO, TYPO):
            await add_patient(tx, client_id=CLIENT, user_ref="u1", record=record, links_by_command=False)
        assert len(await tx.all(select(persons.c.id))) == 2


# --- reasons -----------------------------------------------------------------------------------------------------------


async def test_reason_says_what_to_do_when_a_patient_is_rejected(store: Store) -> None:
    pending = await put_patient(store, TYPO, asks_his=True)
    assert await rejected(store, ZHANG) == "patient_pending"
    await accept(store, pending, "M1")
    assert await rejected(store, ZHANG) == "patient_mismatch"
    await hear(store, Patient(name="李娜", mrn="M7", id_type="id_card", id_number="110101198001011090"))
    assert await rejected(store, by_card(LI, "M7")) == "patient_mismatch"


async def rejected(store: Store, record: Patient) -> object:
    with pytest.raises(Refusal) as refused:
        await put_patient(store, record, client="another")
    assert refused.value.code == "patient_rejected"
    return refused.value.extra["reason"]


@pytest.mark.parametrize(
    ("known", "given"),
    [
        (ZHANG, {"id_type": "01", "id_number": "１１０１０１ 19900307 0038"}),
        (ZHANG, {"id_type": "household_register"}),
        ({"id_type": "hk_macau_permit", "id_number": "H12345678"}, {"id_type": "permit", "id_number": "h1234567802"}),
    ],
)
async def test_person_is_one_when_a_document_is_written_in_two_ways(store: Store, known: Any, given: Any) -> None:
    """Else one could hold several places in a waiting room."""
    first = known if isinstance(known, Patient) else msgspec.structs.replace(ZHANG, **known)
    one = await put_patient(store, first)
    assert await put_patient(store, msgspec.structs.replace(first, **given)) == one
