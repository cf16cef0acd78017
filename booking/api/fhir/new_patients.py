"""A Patient of a caller as what `POST /v1/.../patients` takes: the same Struct, and so the same rules.

`identifier` tells the document, the card and the portal's user by the namespaces below; they are those in which we tell them.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import msgspec

from booking.api.fhir.parameters import IdentifierIn, NameIn, PatientIn
from booking.api.fhir.resources.elements import ID_CARD_SYSTEM, ID_TYPE_SYSTEM, USER_SYSTEM, document_type
from booking.api.fhir.serving import invalid
from booking.api.views.patients import NewPatient

CARD_SYSTEM = "urn:hisbridge:card-type:"
"""A card: `urn:hisbridge:card-type:mrn` is the hospital's own number."""
_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
_PLACES = {
    "user_ref": f"identifier.where(system='{USER_SYSTEM}').value",
    "name": "name", "id_type": "identifier.system", "id_number": "identifier.value",
    "phone": "telecom.where(system='phone').value",
    "birth_date": "birthDate", "sex": "gender", "card": "identifier",
}  # fmt: skip


def new_patient(told: PatientIn, at: str = "$") -> NewPatient:
    """What is to be made known. `at` is where the resource stands in the body. Raises ApiProblem(invalid_field)."""
    document = _document(told, at)
    card = _one(told, CARD_SYSTEM, at)
    body: dict[str, Any] = {
        "user_ref": _required(
            _one(told, USER_SYSTEM, at), at, f"an identifier of the system {USER_SYSTEM}: who acts"
        ).value,
        "name": _name(told, at),
        "id_type": _kind_of(document),
        "id_number": document.value,
        "phone": _phone(told, at),
        "birth_date": _birth_date(told, at),
        "sex": told.gender,
    }
    if card is not None:
        body["card"] = {"type": (card.system or "").removeprefix(CARD_SYSTEM), "number": card.value}
    try:
        return msgspec.convert(body, NewPatient)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("`$.")[2].partition("`")[0].partition(".")[0]
        expected = str(error).partition(" - at ")[0].removeprefix("Expected ")
        raise invalid(f"{at}.{_PLACES.get(field, field)}", expected) from None


def _document(told: PatientIn, at: str) -> IdentifierIn:
    found = [i for i in told.identifier if document_type(i.system) is not None]
    if len(found) != 1 or not found[0].value:
        raise invalid(f"{at}.identifier", f"one document: a value of the system {ID_CARD_SYSTEM} or {ID_TYPE_SYSTEM}…")
    return found[0]


def _kind_of(document: IdentifierIn) -> str:
    return document_type(document.system) or ""


def _one(told: PatientIn, system: str, at: str) -> IdentifierIn | None:
    """The identifier of a namespace, or of those that begin with it where it ends in a colon."""
    open_ended = system.endswith(":")
    found = [i for i in told.identifier if i.system == system or (open_ended and (i.system or "").startswith(system))]
    if len(found) > 1:
        raise invalid(f"{at}.identifier", f"one identifier of the system {system} at most")
    return found[0] if found else None


def _required(identifier: IdentifierIn | None, at: str, expected: str) -> IdentifierIn:
    if identifier is None or not identifier.value:
        raise invalid(f"{at}.identifier", expected)
    return identifier


def _name(told: PatientIn, at: str) -> str:
    """The official name, else the first: its text, else its parts in the order of the script."""
    name = next((n for n in told.name if n.use == "official"), told.name[0] if told.name else None)
    text = "" if name is None else (name.text or _joined(name)).strip()
    if not text:
        raise invalid(f"{at}.name", "a name with `text`, or `family` and `given`")
    return text


def _joined(name: NameIn) -> str:
    family, given = name.family or "", [part for part in name.given if part]
    if _HAN.search(family + "".join(given)):
        return family + "".join(given)
    return " ".join([*given, family])


def _phone(told: PatientIn, at: str) -> str:
    phone = next((p.value for p in told.telecom if p.system == "phone" and p.value), None)
    if phone is None:
        raise invalid(f"{at}.telecom", "a ContactPoint of the system phone")
    return phone


def _birth_date(told: PatientIn, at: str) -> dt.date | None:
    if told.birthDate is None:
        return None
    try:
        return dt.date.fromisoformat(told.birthDate) if len(told.birthDate) == 10 else _not_whole()
    except ValueError:
        raise invalid(f"{at}.birthDate", "a whole date: YYYY-MM-DD") from None


def _not_whole() -> dt.date:
    raise ValueError("a year or a month is not enough")
