"""A patient as a portal sends one, as the canonical record: documents and cards in their one spelling, and checked."""

from __future__ import annotations

import datetime as dt

from booking.api.problems import ApiProblem, FieldError
from booking.api.views.patients import NewPatient
from booking.documents import DocumentUnfit, check_card, check_document, document_key
from booking.identity import read_id_card
from booking.patient_rules import ADULT_YEARS, PatientRule, age_years, is_child
from mappings.canonical import Patient, Sex


def patient_record(body: NewPatient, rule: PatientRule, today: dt.date) -> Patient:
    """The canonical patient; what a document carries is taken from it and compared with what was given.

    `rule` is the hospital's, `today` its date. Raises ApiProblem(invalid_field) with the place and what was expected there.
    """
    name = body.name.strip()
    if not name:
        raise invalid("$.name", "a name")
    id_type, id_number = _own_document(body)
    birth_date, sex = _carried(id_number, body)
    if birth_date is not None and birth_date > today:
        raise invalid("$.birth_date" if body.birth_date else "$.id_number", "a birth date that is not in the future")
    card_type, card_number = _card(body)
    guardian_type, guardian_number = _guardian(body, today)
    if _is_one(id_type, id_number, guardian_type, guardian_number):
        # A HIS is asked about a child otherwise: one who is their own guardian would pass by the check of the name.
        raise invalid("$.guardian.id_number", "another document than the patient's own")
    if body.guardian is None and rule.guardian_required and is_child(rule, birth_date, today):
        raise invalid("$.guardian", f"a guardian, for patients below {rule.child_below_years}")
    if id_number is None and not is_child(rule, birth_date, today):
        raise invalid("$.id_type", "a document of their own, for everybody but a child")
    return Patient(
        name=name,
        id_type=id_type,
        id_number=id_number,
        phone=body.phone.strip(),
        birth_date=birth_date,
        sex=sex,
        card_type=card_type,
        card_number=card_number,
        guardian_name=None if body.guardian is None else body.guardian.name.strip(),
        guardian_id_type=guardian_type,
        guardian_id_number=guardian_number,
    )


def _is_one(id_type: str | None, id_number: str | None, other_type: str | None, other_number: str | None) -> bool:
    """Whether two documents are there, and are one."""
    if id_type is None or id_number is None or other_type is None or other_number is None:
        return False
    return document_key(id_type, id_number) == document_key(other_type, other_number)


def _own_document(body: NewPatient) -> tuple[str | None, str | None]:
    """The patient's own document; none for one who is known by a guardian's."""
    if body.id_type is not None and body.id_number is not None:
        return _document(body.id_type, body.id_number, "$.id_type", "$.id_number")
    if body.id_type is not None or body.id_number is not None:
        raise invalid("$.id_number" if body.id_number is None else "$.id_type", "type and number of a document")
    if body.guardian is None:
        raise invalid("$.id_type", "a document, or a guardian's for a child without one")
    if body.birth_date is None:
        raise invalid("$.birth_date", "the birth date of a child who is known by a guardian's document")
    return None, None


def _guardian(body: NewPatient, today: dt.date) -> tuple[str | None, str | None]:
    if body.guardian is None:
        return None, None
    kind, number = _document(
        body.guardian.id_type, body.guardian.id_number, "$.guardian.id_type", "$.guardian.id_number"
    )
    if not body.guardian.name.strip():
        raise invalid("$.guardian.name", "a name")
    carried = read_id_card(number)
    if carried is not None and age_years(carried[0], today) < ADULT_YEARS:
        raise invalid("$.guardian.id_number", f"the document of an adult, {ADULT_YEARS} years old or more")
    return kind, number


def _document(word: str, number: str, type_at: str, number_at: str) -> tuple[str, str]:
    try:
        return check_document(word, number)
    except DocumentUnfit as error:
        raise invalid(type_at if error.field == "type" else number_at, error.expected) from None


def _carried(id_number: str | None, body: NewPatient) -> tuple[dt.date | None, Sex]:
    """Birth date and sex: those that the number carries, where it is one that does (GB 11643), else as they were given."""
    carried = None if id_number is None else read_id_card(id_number)
    if carried is None:
        return body.birth_date, body.sex or Sex.UNKNOWN
    if body.birth_date not in (None, carried[0]):
        raise invalid("$.birth_date", "the birth date that the document carries")
    if body.sex not in (None, Sex.UNKNOWN, carried[1]):
        raise invalid("$.sex", "the sex that the document carries")
    return carried


def _card(body: NewPatient) -> tuple[str | None, str | None]:
    if body.card is None:
        return None, None
    try:
        return check_card(body.card.type, body.card.number)
    except DocumentUnfit as error:
        raise invalid(f"$.card.{error.field}", error.expected) from None


def invalid(path: str, expected: str) -> ApiProblem:
    """A field that is wrong."""
    return ApiProblem("invalid_field", errors=(FieldError(path=path, expected=expected),))
