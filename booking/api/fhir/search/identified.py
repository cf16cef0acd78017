"""What identifiers name: patients, and the resources behind chained parameters (FHIR R4 search.html#chaining)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from booking import people
from booking.api.fhir.ids import code_to_fhir
from booking.api.fhir.resources.elements import PATIENT_SYSTEM, USER_SYSTEM, document_type, his_system
from booking.api.fhir.search.criteria import Token
from booking.api.fhir.search.fits import tokens
from booking.api.fhir.search.requests import Criterion, SearchRequest
from booking.api.fhir.search.tables import KINDS
from booking.api.fhir.serving import invalid
from booking.api.fhir.view import View
from booking.api.problems import ApiProblem
from booking.records import Person
from booking.store.engine import Tx


async def patients_named(tx: Tx, view: View, token: Token) -> list[tuple[dict[str, str], Person]]:
    """Patients of the client's that an identifier names: by our id, by their user or by a document."""
    if not token.code:
        return []
    match token.system:
        case None:
            return await people.patients_of_user(tx, view.client_id, token.code)
        case s if s == USER_SYSTEM:
            return await people.patients_of_user(tx, view.client_id, token.code)
        case s if s == PATIENT_SYSTEM:
            return await people.own_patients(tx, view.client_id, token.code)
    id_type = document_type(token.system)
    return [] if id_type is None else await people.patients_by_document(tx, view.client_id, id_type, token.code)


MOST_CODE_CHARS = 200  # no HIS has a longer one


async def without_chains(tx: Tx, view: View, request: SearchRequest) -> SearchRequest | None:
    """The search with the resources themselves for what names them by identifiers (ITI-118, 2:3.118.4.1.3.1); None: there are
    none, and an identifier of a namespace that nobody here knows is one of nobody.
    """
    meant = list[Criterion]()
    for one in request.criteria:
        name, _, chained = one.name.partition(".")
        if not chained:
            meant.append(one)
            continue
        if one.modifier:
            raise invalid(f"?{one.name}", "no modifier")
        ids = await _IDENTIFIED[name](tx, view, tokens(one))
        if not ids:
            return None
        meant.append(Criterion(name, "", ",".join(ids)))
    return msgspec.structs.replace(request, criteria=tuple(meant))


async def _identified_patients(tx: Tx, view: View, named: Sequence[Token]) -> list[str]:
    if KINDS["Patient"].scope not in view.scopes:
        raise ApiProblem("forbidden_scope", f"`patient.identifier` needs the scope `{KINDS['Patient'].scope}`.")
    found = [row["id"] for token in named for row, _ in await patients_named(tx, view, token)]
    return [f"Patient/{patient_id}" for patient_id in dict.fromkeys(found)]


async def _identified_practitioners(tx: Tx, view: View, named: Sequence[Token]) -> list[str]:
    system = his_system(view.hospital.id, "practitioner")
    codes = [t.code for t in named if t.code and len(t.code) <= MOST_CODE_CHARS and t.system in (None, system)]
    return [f"Practitioner/{code_to_fhir(code)}" for code in dict.fromkeys(codes)]


_IDENTIFIED = {"patient": _identified_patients, "practitioner": _identified_practitioners}
