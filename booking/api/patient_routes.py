"""Patients, and the registrations that their hospital tells of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

from booking import people
from booking.api.context import Context
from booking.api.patient_records import patient_record
from booking.api.present import patient_view, registration_view
from booking.api.routing import Call, Reply, RequestClass, Route
from booking.api.views.patients import NewPatient, PatientView, UnbindQuery
from booking.api.views.records import RegistrationList
from booking.records import Person
from booking.store.engine import Tx
from booking.store.turns import Of
from booking.visits import visits_of


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

    async def unbind(self, call: Call[UnbindQuery, None]) -> None:
        async with self._context.store.write(call.hospital_id, here=True, of=Of.BINDS) as tx:
            await people.unbind_patient(tx, call.caller.id, call.path["patient_id"], user_ref=call.query.user_ref)

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
    hospital, capabilities = context.hospital(call), context.live.capabilities(call.hospital_id)
    record = patient_record(body, hospital.patients, dt.datetime.now(hospital.zone).date())
    asks_his = "native" in (capabilities["create_patient"], capabilities["find_patient"])

    async def add(tx: Tx) -> tuple[str, str, Person]:
        patient_id, person = await people.add_patient(
            tx,
            client_id=call.caller.id,
            user_ref=body.user_ref,
            record=record,
            links_by_command=asks_his,
            per_user=hospital.patients.per_user,
        )
        return patient_id, body.user_ref, person

    return add


def patient_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = PatientHandlers(context), ("patients",)
    of = "/v1/hospitals/{hospital_id}/patients"
    return [
        Route("POST", of, handlers.create, summary="Bind a patient", tag="patients",
              request_class=RequestClass.HOLD, request=NewPatient,
              response=PatientView, status=201, scopes=scopes, errors=("patient_rejected", "limit_reached"), idempotent=True,
              identified_by=("user_ref",),
              description="Answers at once; the hospital's own record is looked up or created behind it (`his_state`)."),
        Route("GET", of + "/{patient_id}", handlers.get, summary="A patient, masked", tag="patients",
              request_class=RequestClass.READ,
              response=PatientView, scopes=scopes, errors=("patient_unknown",)),
        Route("DELETE", of + "/{patient_id}", handlers.unbind, summary="Unbind a patient", tag="patients",
              request_class=RequestClass.STEP, query=UnbindQuery, status=204, scopes=scopes,
              identified_by=("patient_id",), errors=("patient_unknown", "patient_has_bookings"),
              description="Idempotent. Their bookings must have ended; refunds that are due stay payable under their ids."),
        Route("GET", of + "/{patient_id}/registrations", handlers.registrations, tag="patients",
              request_class=RequestClass.READ,
              summary="Visits as the hospital tells them, also those not booked here", response=RegistrationList,
              scopes=scopes, errors=("patient_unknown",)),
    ]  # fmt: skip
