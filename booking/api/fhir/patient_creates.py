"""`POST [base]/Patient`: a patient of the caller's, by the rules of `POST /v1/.../patients` (FHIR R4 http.html#create)."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from booking.api.context import Context
from booking.api.fhir.holds import key_of
from booking.api.fhir.new_patients import new_patient
from booking.api.fhir.outcomes import FHIR_JSON
from booking.api.fhir.parameters import PatientIn
from booking.api.fhir.resources.people import patient_resource
from booking.api.fhir.serving import FHIR_BODIES, base_of, etag_of, fhir_route, prefers, versioned
from booking.api.patient_routes import adding
from booking.api.routing import Call, Ready, RequestClass, Route, make_ready
from booking.store.engine import Tx


class PatientCreates:
    """Makes patients known."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, call: Call[str, PatientIn]) -> Ready:
        """201 with where it is; the same again for the same key, or without one for the same resource."""
        body, hospital = new_patient(call.body), self._context.hospital(call)
        if call.admit_as is not None:
            call.admit_as("user_ref", body.user_ref)
        call.idempotency_key = key_of(
            call.request.headers, sha256(f"Patient {call.fingerprint()}".encode()).hexdigest()
        )
        add = adding(self._context, call, body)

        async def work(tx: Tx) -> dict[str, Any]:
            patient_id, user_ref, person = await add(tx)
            return versioned(patient_resource(hospital, {"id": patient_id, "user_ref": user_ref}, person))

        reply = await self._context.once(call, 201, work)
        made = msgspec.json.decode(reply.body)
        version, base = made["meta"]["versionId"], base_of(call, self._context.public_url)
        fields = {**reply.headers, "Location": f"{base}/Patient/{made['id']}", "ETag": etag_of(version)}
        if prefers(call.request.headers, "return", ("minimal", "representation")) == "minimal":
            return make_ready(status=201, headers=fields)
        return make_ready(reply.body, status=201, headers={"Content-Type": FHIR_JSON, **fields})


def patient_create_routes(context: Context) -> list[Route]:
    """The route under both bases."""
    return fhir_route(
        "POST",
        "Patient",
        PatientCreates(context).create,
        request=PatientIn,
        accepts=FHIR_BODIES,
        scopes=("patients",),
        request_class=RequestClass.HOLD,
    )
