"""Having a message applied anew: mapped by the present profile, and given back to the inbox, which applies it in its order.

Nothing is applied here: the row becomes `received` again, with its new events, in one transaction. The running service's inbox
finds it within seconds (`Inbox.measure`); without a service it is applied at the next start. So it does not matter whether there
is one, nor which process works the hospital.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import and_, or_, select, update

from booking.store.crypto import SealBroken
from booking.store.engine import Store
from connectors.port import Inbound, Refused
from mappings.canonical import AnyEvent, PatientChanged, RegistrationChanged
from scheduler_sync.messages.documents import MessageDocuments
from scheduler_sync.messages.groups import Note, link_again, write_group
from scheduler_sync.messages.references import References, patient_ref, references_of
from scheduler_sync.messages.search import linked_ids
from scheduler_sync.messages.store import message_row, plain, size_of
from scheduler_sync.messages.tables import exchanges, messages

MOST_NEWER = 500  # of one patient, that are looked at

ReadAgain = Callable[[str, bytes, str], Inbound | Refused]
"""Given a connector's name, the bytes and the peer: what the present profile makes of them."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one. `queued_as`: the id under which it waits to be applied, None where it does not."""

    id: str
    text: str
    queued_as: str | None = None
    would: bool = False


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    connector: str
    peer: str
    control_id: str
    state: str
    sealed_raw: bytes
    received_ms: int


async def replay_message(
    store: Store,
    hospital_id: str,
    message_id: str,
    read_again: ReadAgain,
    *,
    again: bool = False,
    over_newer: bool = False,
    dry_run: bool = False,
) -> Replay:
    """Map one anew and let it be applied, or say why not. `again` takes an applied one too, as a message of its own.

    `over_newer` lets old details of a patient be applied over newer ones. Raises StoreUnavailable: nothing was changed.
    """
    row = await _read(store, hospital_id, message_id)
    if isinstance(row, str):
        return Replay(id=message_id, text=row)
    if row.state == "received":
        return Replay(id=message_id, text="it waits to be applied already")
    if row.state == "applied" and not again:
        return Replay(id=message_id, text="it was applied; --again applies it once more")
    inbound = _mapped(store, hospital_id, row, read_again)
    if isinstance(inbound, str):
        return Replay(id=message_id, text=inbound)
    if inbound.problem is not None:
        if not dry_run and row.state == "quarantined":
            await _note_reason(store, hospital_id, message_id, inbound.problem)
        return Replay(id=message_id, text=f"it still cannot be mapped: {inbound.problem}")
    newer = None if over_newer else await _newer(store, hospital_id, message_id, inbound.events)
    if newer is not None:
        return Replay(
            id=message_id,
            text=f"newer details of the same patient or visit came since ({newer}); --over-newer applies it all the same",
        )
    kinds = ", ".join(sorted({str(event.__struct_config__.tag) for event in inbound.events}))
    if dry_run:
        return Replay(id=message_id, text=f"it can be applied: {kinds}", would=True)
    queued = await _queue(store, hospital_id, row, await MessageDocuments(store).put_away(inbound))
    if queued is None:
        return Replay(id=message_id, text="somebody else has replayed it meanwhile")
    return Replay(id=message_id, text=f"mapped: {kinds}", queued_as=queued)


async def state_of(store: Store, hospital_id: str, message_id: str) -> tuple[str, str | None]:
    """Its state and reason now."""
    async with store.read(hospital_id, clock=False) as tx:
        row = await tx.first(
            select(messages.c.state, messages.c.reason).where(
                messages.c.hospital_id == hospital_id, messages.c.id == message_id
            )
        )
    return ("gone", None) if row is None else (row["state"], row["reason"])


async def _read(store: Store, hospital_id: str, message_id: str) -> _Stored | str:
    names = _Stored.__struct_fields__
    async with store.read(hospital_id, clock=False) as tx:
        row = await tx.first(
            select(*(messages.c[name] for name in names)).where(
                messages.c.hospital_id == hospital_id, messages.c.id == message_id
            )
        )
        if row is not None:
            return _Stored(**row)
        other = await tx.first(
            select(exchanges.c.direction).where(exchanges.c.hospital_id == hospital_id, exchanges.c.id == message_id)
        )
    if other is None:
        return f"{hospital_id} has no message of this id"
    if other["direction"] == "out":
        return "it went out: commands are repeated by the outbox alone, see `hisbridge commands list`"
    return "it was not taken when it came, and the hospital was told so: it must send it again"


def _mapped(store: Store, hospital_id: str, row: _Stored, read_again: ReadAgain) -> Inbound | str:
    try:
        raw = store.vault.open(row.sealed_raw, f"messages.raw.{hospital_id}")
    except SealBroken as e:
        return f"it cannot be read: {e}"
    inbound = read_again(row.connector, raw, row.peer)
    return f"it would not be taken now: {inbound.text}" if isinstance(inbound, Refused) else inbound


async def _note_reason(store: Store, hospital_id: str, message_id: str, problem: str) -> None:
    async with store.write(hospital_id) as tx:
        await tx.run(
            update(messages)
            .where(
                messages.c.hospital_id == hospital_id, messages.c.id == message_id, messages.c.state == "quarantined"
            )
            .values(reason=plain(problem), updated_ms=tx.now_ms)
        )


async def _newer(store: Store, hospital_id: str, message_id: str, events: tuple[AnyEvent, ...]) -> str | None:
    """A newer message that speaks of the same, where the events carry no time by which one could see it.

    One that came since and waits counts too: a running inbox has it in hand, and applies it before what is given back to it. One
    that was given back itself does not: those are applied in their order. What carries the HIS's time needs no such care: the
    older word is dropped when it is applied.
    """
    refs: list[str] = []
    for event in events:
        if event.occurred_at is None and isinstance(event, PatientChanged | RegistrationChanged):
            named = references_of([event])
            refs += [patient_ref(store.vault.digest("mrn", hospital_id, mrn)) for mrn in named.mrns]
    if not refs:
        return None
    async with store.read(hospital_id, clock=False) as tx:
        ids = [one for ref in refs for one in await linked_ids(tx, ref, limit=MOST_NEWER, after=message_id)]
        rows = await tx.all(
            select(messages.c.id).where(
                messages.c.hospital_id == hospital_id,
                messages.c.id.in_(ids),
                or_(
                    messages.c.state == "applied",
                    and_(messages.c.state == "received", messages.c.updated_ms == messages.c.received_ms),
                ),
            )
        )
    return max((str(row["id"]) for row in rows), default=None)


async def _queue(store: Store, hospital_id: str, row: _Stored, inbound: Inbound) -> str | None:
    """Give it back to the inbox; the id under which it waits, None where somebody else was faster."""
    named = references_of(inbound.events)
    if row.state == "applied":
        return await _queue_copy(store, hospital_id, inbound, named)
    async with store.write(hospital_id) as tx:
        anew = message_row(tx.vault, hospital_id, inbound, tx.now_ms)
        # It keeps its id, and so its place before all that is newer and waits.
        taken = await tx.run(
            update(messages)
            .where(messages.c.hospital_id == hospital_id, messages.c.id == row.id, messages.c.state == "quarantined")
            .values(
                state="received",
                reason=None,
                sealed_events=anew["sealed_events"],
                updated_ms=max(tx.now_ms, row.received_ms + 1),  # by that `_newer` tells it from one that has just come
            )
        )
    if not taken:
        return None
    await link_again(store, hospital_id, row.id, named)
    return row.id


async def _queue_copy(store: Store, hospital_id: str, inbound: Inbound, named: References) -> str:
    """A message of its own: the inbox would take the one that was applied for what it is."""
    async with store.write(hospital_id) as tx:
        row = message_row(tx.vault, hospital_id, inbound, tx.now_ms)
        row["dedup_key"] = tx.digest("message", f"again {row['id']}")
        await tx.insert(messages, row)
    note = Note(message_id=row["id"], control_id=inbound.control_id, named=named, size_bytes=size_of(row))
    await write_group(store, hospital_id, [note], [], {})
    return str(row["id"])
