"""Every read of a report is on the record before it is answered: who, what, whose, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from booking import people
from booking.api.context import Context
from booking.api.problems import ApiProblem
from booking.api.routing import Call
from booking.errors import Refusal
from booking.records import Person
from booking.report_reads import Outcome, ReadLog, ReportRead, What
from booking.report_reads.rows import asked_id, told_of
from booking.reporting import ReportRefused, ReportRow

MOST_TOLD = 1_000_000  # a number with thousands of digits is not worth its place


class Reading:
    """One request for a patient's reports by `/v1`, as it becomes known. The handler says whose they are and what it shows."""

    def __init__(self, call: Call[Any, Any], what: What) -> None:
        self.what = what
        self.patient_id = asked_id(call.path["patient_id"])
        self.user_ref: str | None = None
        self.person_id: str | None = None
        self.shown: tuple[str, ...] = ()
        asked = call.path.get("report_id")
        if asked is not None:
            number = call.path.get("n")
            short = number is not None and abs(number) < MOST_TOLD
            self.shown = (told_of(asked_id(asked), attachment=number if short else None),)

    def of(self, row: dict[str, str], person: Person) -> None:
        """Whose they are."""
        self.user_ref, self.person_id = row["user_ref"], person.id

    def shows(self, *rows: ReportRow, attachment: int | None = None) -> None:
        """What is about to leave."""
        self.shown = tuple(told_of(row.id, row.version, attachment) for row in rows)

    def record(self, call: Call[Any, Any], outcome: Outcome) -> ReportRead:
        """As it is stored."""
        return ReportRead(
            client_id=call.caller.id,
            user_ref=self.user_ref,
            patient_id=self.patient_id,
            person_id=self.person_id,
            what=self.what,
            reports=self.shown,
            outcome=outcome,
            request_id=call.request_id,
        )


@asynccontextmanager
async def on_record(context: Context, log: ReadLog, call: Call[Any, Any], what: What) -> AsyncIterator[Reading]:
    """Around a handler's work. Where it ends well, or with a refusal, the read is recorded; then its answer may leave.

    What failed at the HIS or for other reasons has shown nothing and is no read. Raises StoreUnavailable.
    """
    reading = Reading(call, what)
    try:
        yield reading
    except (Refusal, ApiProblem) as error:
        outcome = _refused(error)
        if outcome is not None:
            if reading.person_id is None:
                reading.person_id = await _person_of(context, call)
            await log.record(call.hospital_id, reading.record(call, outcome))
        raise
    await log.record(call.hospital_id, reading.record(call, Outcome.GIVEN))


def _refused(error: Refusal | ApiProblem) -> Outcome | None:
    match error:
        case ReportRefused():
            return Outcome(error.because)
        case Refusal(code="patient_unknown"):
            return Outcome.NOT_THEIRS
        case ApiProblem(code="attachment_unknown" | "report_unknown"):
            return Outcome.UNKNOWN
    return None


async def _person_of(context: Context, call: Call[Any, Any]) -> str | None:
    """Whose handle was named, though it is not the caller's."""
    async with context.store.read(call.hospital_id, clock=False) as tx:
        return await people.person_of(tx, call.path["patient_id"])
