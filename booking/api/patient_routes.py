"""Patients, and the registrations that their hospital tells of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from booking import people
from booking.api.context import Context
from booking.api.present import patient_view, registration_view
from booking.api.problems import ApiProblem, FieldError
from booking.api.routing import Call, Reply, RequestClass, Route
from booking.api.views import NewPatient, PatientView, RegistrationList
from booking.identity import ID_CARD, read_id_card
from booking.records import Person
from booking.store.engine import Tx
from booking.visits import visits_of
from mappings.canonical import Patient, Sex


class PatientHandlers:
    """Creating and reading patients."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, call: Call[None, NewPatient]) -> Reply:
        add = adding(self._context, call, call.body)

        async def work(tx: Tx) -> PatientView:
            return patient_view(*await add(tx))

        return await self._context.once(call, 201, work)

    async def get(self, call: Call[None, None]) -> PatientView:
        async with self._context.store.read(call.hospital_id) as tx:
            row, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"])
        return patient_view(row["id"], row["user_ref"], person)

    async def registrations(self, call: Call[None, None]) -> RegistrationList:
        zone = self._context.hospital(call).zone
        async with self._context.store.read(call.hospital_id) as tx:
            _, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"])
            rows = await visits_of(tx, person)
        return RegistrationList(items=[registration_view(r, zone) for r in rows])


def adding(
    context: Context, call: Call[Any, Any], body: NewPatient
) -> Callable[[Tx], Awaitable[tuple[str, str, Person]]]:
    """What makes a patient known to the caller in a write: gives their id, user and person. Raises ApiProblem(invalid_field)."""
    record, capabilities = _record(body), context.live.capabilities(call.hospital_id)
    asks_his = "native" in (capabilities["create_patient"], capabilities["find_patient"])

    async def add(tx: Tx) -> tuple[str, str, Person]:
        patient_id, person = await people.add_patient(
            tx, client_id=call.caller.id, user_ref=body.user_ref, record=record, links_by_command=asks_his
        )
        return patient_id, body.user_ref, person

    return add


def _record(body: NewPatient) -> Patient:
    """The canonical patient; what an identity card carries is taken from it and compared with what was given."""
    if not body.name.strip():
        raise _invalid("$.name", "a name")
    number = body.id_number.strip().upper()
    birth_date, sex = body.birth_date, body.sex
    if body.id_type == ID_CARD:
        carried = read_id_card(number)
        if carried is None:
            raise _invalid("$.id_number", "an 18-digit identity card number with its check character")
        if birth_date not in (None, carried[0]):
            raise _invalid("$.birth_date", "the birth date that the identity card carries")
        if sex not in (None, Sex.UNKNOWN, carried[1]):
            raise _invalid("$.sex", "the sex that the identity card carries")
        birth_date, sex = carried
    return Patient(
        name=body.name.strip(),
        id_type=body.id_type,
        id_number=number,
        phone=body.phone.strip(),
        birth_date=birth_date,
        sex=sex or Sex.UNKNOWN,
        card_type=None if body.card is None else body.card.type,
        card_number=None if body.card is None else body.card.number,
        guardian_name=None if body.guardian is None else body.guardian.name,
        guardian_id_number=None if body.guardian is None else body.guardian.id_number,
    )


def _invalid(path: str, expected: str) -> ApiProblem:
    return ApiProblem("invalid_field", errors=(FieldError(path=path, expected=expected),))


def patient_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = PatientHandlers(context), ("patients",)
    of = "/v1/hospitals/{hospital_id}/patients"
    return [
        Route("POST", of, handlers.create, summary="Bind a patient", tag="patients",
              request_class=RequestClass.HOLD, request=NewPatient,
              response=PatientView, status=201, scopes=scopes, errors=("patient_rejected",), idempotent=True,
              identified_by=("user_ref",),
              description="Answers at once; the hospital's own record is looked up or created behind it (`his_state`)."),
        Route("GET", of + "/{patient_id}", handlers.get, summary="A patient, masked", tag="patients",
              request_class=RequestClass.READ,
              response=PatientView, scopes=scopes, errors=("patient_unknown",)),
        Route("GET", of + "/{patient_id}/registrations", handlers.registrations, tag="patients",
              request_class=RequestClass.READ,
              summary="Visits as the hospital tells them, also those not booked here", response=RegistrationList,
              scopes=scopes, errors=("patient_unknown",)),
    ]  # fmt: skip
