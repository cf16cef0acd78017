"""How each kind of outbox line is sent, looked back at, and settled: bookings, persons, bills."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from booking.billing import settle_payment
from booking.bookings import CommandResult, settle_command
from booking.insured import note_insured, standing_insured
from booking.lifecycle import Command, CommandStatus
from booking.money import kept_payment, set_settlement
from booking.moves import load_booking, note_command
from booking.people import (
    documents_differ,
    is_guardians,
    link_person,
    load_person,
    registered_as,
    reject_person,
)
from booking.settings import Hospital, ReserveBy
from booking.store.engine import Store, Tx
from connectors.port import (
    Accepted,
    Capability,
    HisError,
    HisRefused,
    NotOffered,
    Outcome,
    QueryBack,
    Rejected,
    Unknown,
    Verb,
    VerbTraits,
)
from mappings.canonical import Patient, Registration, RegistrationStatus, Settlement
from scheduler_sync.orders import bill_payment_of, order_of


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a command after one attempt.

    accepted, rejected: settled. again: certainly not done, try later. unknown: look back; a `mark` among MARKS is kept until
    it is settled. absent: the look-back found nothing. dead: for a person. `gone_already`: released, but perhaps long before
    our command, so that only a fetch can tell whether its seat has been sold again. `pause_s`: the HIS wants to be left
    alone for so long.
    """

    kind: str
    code: str | None = None
    reason: str | None = None
    soon: bool = False
    pause_s: float = 0.0
    absent_means_done: bool = False
    gone_already: bool = False
    outcome: Accepted | None = None

    @staticmethod
    def accepted(outcome: Accepted | None = None, *, gone_already: bool = False) -> Verdict:
        return Verdict(kind="accepted", outcome=outcome or Accepted(), gone_already=gone_already)

    @staticmethod
    def rejected(code: str) -> Verdict:
        return Verdict(kind="rejected", code=code)

    @staticmethod
    def again(code: str, *, pause_s: float = 0.0) -> Verdict:
        return Verdict(kind="again", code=code, pause_s=pause_s)

    @staticmethod
    def unknown(reason: str, *, soon: bool = False, mark: str | None = None) -> Verdict:
        return Verdict(kind="unknown", code=mark, reason=reason, soon=soon)

    @staticmethod
    def absent(*, means_done: bool = False) -> Verdict:
        return Verdict(kind="absent", absent_means_done=means_done)

    @staticmethod
    def dead(reason: str) -> Verdict:
        return Verdict(kind="dead", reason=reason)


class His(Protocol):
    """What a command needs of `scheduler_sync.gateway.HospitalLink`."""

    def traits(self, verb: Verb) -> VerbTraits: ...

    async def write(self, verb: Verb, argument: Any) -> Outcome: ...

    async def read(self, verb: Verb, *arguments: Any, **how: Any) -> Any: ...


class LineCommand(Protocol):
    """One kind of line. `send` and `look` talk to the HIS outside of any transaction; `settle` and `mirror` run in one."""

    async def send(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict: ...

    async def look(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict: ...

    async def settle(self, tx: Tx, hospital: Hospital, verb: Verb, subject_id: str, verdict: Verdict) -> None: ...

    async def mirror(self, tx: Tx, subject_id: str, status: CommandStatus) -> None:
        """Let the subject show how far its command has got."""


# What an attempt has taught and a later look that finds nothing must not forget.
MARKS = frozenset({"already_exists", "created"})
SEVERAL = "several at the HIS under our key: cancel all but one there, then say whether it stands"
_RELEASES = (Verb.UNLOCK_SLOT, Verb.CANCEL_REGISTRATION)


def judge(verb: Verb, outcome: Outcome) -> Verdict:
    """What an outcome of a write means for its command. Pure."""
    match outcome:
        case Accepted():
            return Verdict.accepted(outcome)
        case Unknown(reason=reason):
            return Verdict.unknown(reason)
        case Rejected(code="already_done" | "already_exists") if verb == Verb.REFUND:
            return Verdict.accepted()  # told before: nothing goes back a second time by it
        case Rejected(code="already_exists"):
            # The HIS has done this before under our key: whatever it has is the answer.
            return Verdict.unknown("already exists at the HIS", soon=True, mark="already_exists")
        case Rejected(code="already_done") if verb in _RELEASES:
            return Verdict.accepted(gone_already=True)
        case Rejected(code="not_found") if verb in _RELEASES:
            # Gone already, or not committed yet: two looks will tell.
            return Verdict.unknown("the HIS does not know it", soon=True)
        case Rejected(code="several"):
            return Verdict.dead(SEVERAL)
        case Rejected(code=code, retryable=retryable, retry_after_s=pause_s):
            if retryable or code in ("not_sent", "busy", "not_open_yet"):
                return Verdict.again(code, pause_s=pause_s or 0.0)
            return Verdict.rejected(code)


def judge_look(error: HisError) -> Verdict | None:
    """What a look that failed means for its command; None where the HIS says that it has nothing under our key. Pure."""
    if isinstance(error, HisRefused):
        if error.code == "several":
            return Verdict.dead(SEVERAL)
        if error.code == "not_found":
            return None
    return Verdict.unknown(str(error))


class BookingCommand:
    """lock_slot, book, register, unlock_slot, cancel_registration."""

    async def send(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id, here=True, clock=False) as tx:
            _, order, person = await order_of(tx, hospital, subject_id)
        ours = hospital.reserve_by == ReserveBy.QUOTA
        if (ours or verb in (Verb.LOCK_SLOT, Verb.BOOK)) and verb not in _RELEASES and person.his_state == "rejected":
            return Verdict.rejected("patient_rejected")
        if verb == Verb.REGISTER and link.traits(verb).capability == Capability.OFF:
            if ours:  # a HIS that knows nothing of the seat yet is told by its one message that books
                return judge(Verb.BOOK, await link.write(Verb.BOOK, order))
            # An unpaid booking that the HIS counts as registered needs no second message (INTEROP, register).
            return Verdict.accepted()
        return judge(verb, await link.write(verb, order))

    async def look(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id, here=True) as tx:
            booking, order, _ = await order_of(tx, hospital, subject_id)
        traits, back = link.traits(verb), link.traits(Verb.FETCH_REGISTRATION)
        if traits.query_back == QueryBack.NONE or back.capability != Capability.NATIVE:
            return self._cannot_look(hospital, booking.lock_sent_ms, tx.now_ms, verb)
        try:
            found: Registration | None = await link.read(Verb.FETCH_REGISTRATION, order, attempts=1)
        except HisError as e:
            if (verdict := judge_look(e)) is not None:
                return verdict
            found = None
        by_booking = hospital.reserve_by == ReserveBy.QUOTA and link.traits(verb).capability == Capability.OFF
        return self._judge_found(verb, found, by_booking=by_booking)

    @staticmethod
    def _cannot_look(hospital: Hospital, sent_ms: int | None, now_ms: int, verb: Verb) -> Verdict:
        if verb == Verb.LOCK_SLOT and hospital.his_lock_s and sent_ms is not None:
            # A lock ends by itself at the HIS: after that time there is nothing left to know.
            if now_ms > sent_ms + int(hospital.his_lock_s * 1000):
                return Verdict.rejected("lock_expired")
            return Verdict.unknown("waiting for the end of the HIS's own lock")
        return Verdict.dead("the outcome is unknown and this hospital offers no way to ask")

    @staticmethod
    def _judge_found(verb: Verb, found: Registration | None, *, by_booking: bool = False) -> Verdict:
        releases = verb in _RELEASES
        if found is None:
            return Verdict.absent(means_done=releases)
        status = found.status
        if status in (RegistrationStatus.PROPOSED, RegistrationStatus.WAITLISTED):
            return Verdict.unknown("the HIS has not decided yet")
        gone = status in (RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR)
        if releases:
            return Verdict.accepted(gone_already=True) if gone else Verdict.absent()
        if gone:
            return Verdict.rejected("released_by_his")
        if verb == Verb.REGISTER and status == RegistrationStatus.LOCKED and not by_booking:
            return Verdict.absent()
        return Verdict.accepted(Accepted(his_refs=found.his_refs, record=found))

    async def settle(self, tx: Tx, hospital: Hospital, verb: Verb, subject_id: str, verdict: Verdict) -> None:
        booking = await load_booking(tx, subject_id)
        if booking is None or booking.his_command == Command.NONE:
            return
        outcome = verdict.outcome
        record = outcome.record if outcome is not None else None
        await settle_command(
            tx,
            hospital,
            booking,
            CommandResult(
                accepted=verdict.kind == "accepted",
                code=verdict.code,
                his_refs=outcome.his_refs if outcome is not None else {},
                registration=record if isinstance(record, Registration) else None,
                gone_already=verdict.gone_already,
            ),
        )

    async def mirror(self, tx: Tx, subject_id: str, status: CommandStatus) -> None:
        booking = await load_booking(tx, subject_id)
        if booking is not None:
            await note_command(tx, booking, status)


class PersonCommand:
    """create_patient: always looks first, creates only whom the HIS does not know."""

    async def send(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id) as tx:
            person = await load_person(tx, subject_id)
        if person is None:
            raise LookupError("a command's person is gone")
        record = registered_as(person.record)
        found = await self._find(link, record)
        if found is not None:
            return found
        outcome = await link.write(verb, record)
        if isinstance(outcome, Accepted):
            told = outcome.record
            if isinstance(told, Patient) and told.mrn is not None:
                return Verdict.accepted(outcome)
            # The reply had no number in it (ADT^A28 has none): ask for it.
            return Verdict.unknown("created, number not known yet", soon=True, mark="created")
        if isinstance(outcome, Rejected) and outcome.code == "not_offered":
            return Verdict.rejected("patient_unknown")
        return judge(verb, outcome)

    async def look(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id) as tx:
            person = await load_person(tx, subject_id)
        if person is None:
            raise LookupError("a command's person is gone")
        if link.traits(Verb.FIND_PATIENT).capability != Capability.NATIVE:
            return Verdict.dead("the outcome is unknown and this hospital offers no way to ask")
        found = await self._find(link, registered_as(person.record)) or Verdict.absent()
        # A look that brought no answer has settled nothing: what was created may still show.
        return Verdict.unknown(found.code or "no answer") if found.kind == "again" else found

    @staticmethod
    async def _find(link: His, wanted: Patient) -> Verdict | None:
        """What the HIS knows of this person; None when it knows nobody."""
        try:
            found: list[Patient] = list(await link.read(Verb.FIND_PATIENT, wanted))
        except NotOffered:
            return None
        except HisRefused as e:
            if e.code in ("not_found", "patient_unknown"):
                return None
            return Verdict.again(e.code) if e.code == "busy" else Verdict.rejected(e.code)
        except HisError:
            return Verdict.again("his_unavailable")
        if not found:
            return None
        # A child may stand under a parent's document: of several, only those of this name count.
        named = [p for p in found if p.name == wanted.name]
        if not named and is_guardians(wanted):
            return None  # only the guardian, or a brother
        found = named or found
        if len({p.mrn for p in found}) > 1:
            return Verdict.rejected("patient_ambiguous")
        if found[0].name and wanted.name and found[0].name != wanted.name:
            return Verdict.rejected("patient_mismatch")
        if documents_differ(found[0].id_number, wanted.id_number):
            return Verdict.rejected("patient_mismatch")
        return Verdict.accepted(Accepted(record=found[0]))

    async def settle(self, tx: Tx, hospital: Hospital, verb: Verb, subject_id: str, verdict: Verdict) -> None:
        person = await load_person(tx, subject_id)
        if person is None:
            return
        record = verdict.outcome.record if verdict.outcome is not None else None
        if verdict.kind == "accepted":
            # A person's word on a dead letter brings no record: then they are known by their document.
            await link_person(tx, person, record if isinstance(record, Patient) else person.record)
        else:
            await reject_person(tx, person, verdict.code or "refused")

    async def mirror(self, tx: Tx, subject_id: str, status: CommandStatus) -> None:
        """A person shows only how it ended."""


class BillCommand:
    """settle_bill."""

    async def send(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id) as tx:
            _, payment = await bill_payment_of(tx, hospital, subject_id)
        return judge(verb, await link.write(verb, payment))

    async def look(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id) as tx:
            _, payment = await bill_payment_of(tx, hospital, subject_id)
        can_look = link.traits(Verb.FETCH_SETTLEMENT).capability == Capability.NATIVE
        if link.traits(verb).query_back == QueryBack.NONE or not can_look:
            return Verdict.dead("the settlement is unknown and this hospital offers no way to ask")
        try:
            found: Settlement | None = await link.read(Verb.FETCH_SETTLEMENT, payment, attempts=1)
        except HisError as e:
            if isinstance(e, HisRefused) and e.code == "taken":
                # Paid, but not with our money; believed like "not found", as the HIS's own index may lag.
                return Verdict(kind="absent", code="already_exists")
            if (verdict := judge_look(e)) is not None:
                return verdict
            found = None
        if found is None:
            return Verdict.absent()
        return Verdict.accepted(Accepted(his_refs=found.his_refs, record=found))

    async def settle(self, tx: Tx, hospital: Hospital, verb: Verb, subject_id: str, verdict: Verdict) -> None:
        bill, _ = await bill_payment_of(tx, hospital, subject_id)
        record = verdict.outcome.record if verdict.outcome is not None else None
        asker = await kept_payment(tx, bill_id=bill.id) or await standing_insured(tx, bill.id)
        if asker is None:
            return
        await settle_payment(
            tx,
            bill,
            accepted=verdict.kind == "accepted",
            settlement=record if isinstance(record, Settlement) else None,
            client_id=asker.client_id,
            code=verdict.code,
        )

    async def mirror(self, tx: Tx, subject_id: str, status: CommandStatus) -> None:
        payment = await kept_payment(tx, bill_id=subject_id)
        shown = {CommandStatus.QUEUED: "pending", CommandStatus.UNKNOWN: "unknown"}.get(status)
        if shown is None:
            return
        if payment is None:
            if await standing_insured(tx, subject_id) is not None:
                await note_insured(tx, subject_id, shown)
        elif payment.settlement != shown:
            await set_settlement(tx, payment, shown)
