"""IHE ITI Scheduling's operations (1.0.1, ITI-115 to ITI-117): what they answer. Pure.

A success is an Appointment, alone or in a Bundle, perhaps with remarks; a failure is an OperationOutcome, with status 200 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from connectors.fhir.client import Reply
from connectors.fhir.documents import Json, entries_of, without_history
from connectors.fhir.outcomes import issues_of

# Issue types (valueset-issue-type) after which the server does not know itself what it has done.
_UNSURE = frozenset({"exception", "timeout", "incomplete", "no-store"})


def appointments_of(body: Any) -> list[Json]:
    """The Appointments that an operation answers."""
    return [resource for resource in _resources(body) if resource.get("resourceType") == "Appointment"]


def failure_of(reply: Reply) -> Reply | None:
    """A failure under a status of success, as it ought to be told: 422 for a refusal, 500 where the server is unsure."""
    if reply.status >= 300 or appointments_of(reply.body):
        return None
    told = next((one for one in _resources(reply.body) if issues_of(one)), None)
    if told is None:
        return None
    unsure = any(code in _UNSURE for code, _ in issues_of(told))
    return msgspec.structs.replace(reply, status=500 if unsure else 422, body=told)


def proposal_for(body: Any, slot: str) -> str | None:
    """The id of the Appointment among those that `$find` proposes which is for this Slot; None where there is none."""
    for appointment in appointments_of(body):
        slots = appointment.get("slot")
        references = [one.get("reference") for one in slots if isinstance(one, dict)] if isinstance(slots, list) else []
        if any(_names(reference, slot) for reference in references) and isinstance(appointment.get("id"), str):
            return str(appointment["id"])
    return None


def _names(reference: Any, slot: str) -> bool:
    return isinstance(reference, str) and f"/{without_history(reference)}".endswith(f"/Slot/{slot}")


def _resources(body: Any) -> Iterator[Json]:
    if isinstance(body, dict):
        for _, resource in entries_of(body):
            yield resource
