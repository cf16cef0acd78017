"""A patient as a portal sends one, as the canonical record: documents and cards in their one spelling, and checked."""

from __future__ import annotations

import datetime as dt

from booking.api.problems import ApiProblem, FieldError
from booking.api.views import NewPatient
from booking.documents import DocumentUnfit, check_card, check_document
from booking.identity import read_id_card
from mappings.canonical import Patient, Sex


def patient_record(body: NewPatient) -> Patient:
    """The canonical patient; what a document carries is taken from it and compared with what was given.

    Raises ApiProblem(invalid_field) with the place and what was expected there.
    """
    name = body.name.strip()
    if not name:
        raise invalid("$.name", "a name")
    id_type, id_number = _document(body.id_type, body.id_number, "$.id_type", "$.id_number")
    birth_date, sex = _carried(id_number, body)
    card_type, card_number = _card(body)
    return Patient(
        name=name,
        id_type=id_type,
        id_number=id_number,
        phone=body.phone.strip(),
        birth_date=birth_date,
        sex=sex,
        card_type=card_type,
        card_number=card_number,
        guardian_name=None if body.guardian is None else body.guardian.name,
        guardian_id_number=None if body.guardian is None else body.guardian.id_number,
    )


def _document(word: str, number: str, type_at: str, number_at: str) -> tuple[str, str]:
    try:
        return check_document(word, number)
    except DocumentUnfit as error:
        raise invalid(type_at if error.field == "type" else number_at, error.expected) from None


def _carried(id_number: str, body: NewPatient) -> tuple[dt.date | None, Sex]:
    """Birth date and sex: those that the number carries, where it is one that does (GB 11643), else as they were given."""
    carried = read_id_card(id_number)
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
