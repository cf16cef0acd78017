"""How the HIS is told that money has gone back: once, and asked again where its answer was lost."""

from __future__ import annotations

from booking.lifecycle import CommandStatus
from booking.refunds import NOT_OFFERED, load_refund, note_his
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from connectors.port import Capability, HisError, QueryBack, Verb
from mappings.canonical import Settlement
from scheduler_sync.commands import His, Verdict, judge, judge_look
from scheduler_sync.orders import refund_order_of

_MIRRORED = {CommandStatus.QUEUED: "pending", CommandStatus.UNKNOWN: "unknown"}


class RefundCommand:
    """refund. The money is back with the patient, whatever the HIS says to it."""

    async def send(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id) as tx:
            order, released = await refund_order_of(tx, hospital, subject_id)
        if not released:
            # Many dialects have one message for both: it would release a visit that stands.
            return Verdict.rejected("still_registered")
        return judge(verb, await link.write(verb, order))

    async def look(self, store: Store, hospital: Hospital, link: His, verb: Verb, subject_id: str) -> Verdict:
        async with store.read(hospital.id) as tx:
            order, _ = await refund_order_of(tx, hospital, subject_id)
        can_look = link.traits(Verb.FETCH_REFUND).capability == Capability.NATIVE
        if link.traits(verb).query_back == QueryBack.NONE or not can_look:
            return Verdict.dead(
                "whether the HIS knows of the refund is unknown, and this hospital offers no way to ask"
            )
        try:
            found: Settlement | None = await link.read(Verb.FETCH_REFUND, order, attempts=1)
        except HisError as e:
            if (verdict := judge_look(e)) is not None:
                return verdict
            found = None
        return Verdict.absent() if found is None else Verdict.accepted()

    async def settle(self, tx: Tx, hospital: Hospital, verb: Verb, subject_id: str, verdict: Verdict) -> None:
        if verdict.kind == "accepted":
            await note_his(tx, subject_id, "told")
            return
        row = await load_refund(tx, subject_id)
        if verdict.code != "not_offered":
            await note_his(tx, subject_id, "rejected", verdict.code or "refused")
        elif row is not None and row["bill_id"] is not None:  # by some messages only registrations can be given back
            await note_his(tx, subject_id, "rejected", NOT_OFFERED)
        else:  # given back with the visit: nobody's failure
            await note_his(tx, subject_id, "none")

    async def mirror(self, tx: Tx, subject_id: str, status: CommandStatus) -> None:
        if status in _MIRRORED:
            await note_his(tx, subject_id, _MIRRORED[status])
