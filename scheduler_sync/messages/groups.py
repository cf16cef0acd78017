"""One transaction of the record: notes, links, exchanges and the totals that they add to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import LargeBinary, bindparam, cast, func, select, text, update

from booking.store.crypto import Vault
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from connectors.port import Exchanged
from scheduler_sync.messages.references import References, links_of, references_of, shown_order
from scheduler_sync.messages.store import plain, read_events
from scheduler_sync.messages.tables import exchanges, message_links, message_notes, message_totals, messages

HEAL_AT_ONCE = 50
SMALL_BYTES = 65_536  # of a group: written in a few milliseconds
LONGEST_NAME = 100  # characters of what a peer calls itself, a type or an id, where nothing has checked it

Row = dict[str, Any]


@dataclass
class Note:
    """What belongs to a stored message. `written_answer` is the acknowledgement as the writing knew it."""

    message_id: str
    control_id: str
    named: References
    size_bytes: int
    answer: str | None = None
    written_answer: str | None = None
    written: bool = field(default=False)


@dataclass
class SealedRow:
    """A row of `exchanges` with the refs under which it is found."""

    row: Row
    refs: tuple[str, ...]


def log_scope(hospital_id: str) -> str:
    """Under whose lock the record of a hospital is written: not the hospital's own, which its messages wait for."""
    return f"{hospital_id}#log"


class Kept(NamedTuple):
    """An exchange and the id under which it will stand."""

    id: str
    exchange: Exchanged


def seal_exchange(vault: Vault, hospital_id: str, one: Exchanged, row_id: str) -> SealedRow:
    """The row of an exchange, its bytes sealed."""
    named = References(
        order_nos=() if one.order_no is None else (one.order_no,), mrns=() if one.mrn is None else (one.mrn,)
    )
    control_id = plain(one.control_id)
    refs, patient = links_of(vault, hospital_id, named, control_id=control_id)
    request = vault.seal(one.request, f"exchanges.request.{hospital_id}")
    answer = None if one.answer is None else vault.seal(one.answer, f"exchanges.answer.{hospital_id}")
    row = {
        "hospital_id": hospital_id,
        "id": row_id,
        "connector": one.connector,
        "peer": plain(one.peer[:LONGEST_NAME]),
        "direction": one.direction.value,
        "verb": one.verb,
        "message_type": plain(one.message_type[:LONGEST_NAME]),
        "control_id": control_id[:LONGEST_NAME],
        "state": one.state.value,
        "reason": None if one.error is None else plain(one.error),
        "answer": None if one.answer_code is None else plain(one.answer_code[:LONGEST_NAME]),
        "order_no": None if one.order_no is None else plain(one.order_no),
        "patient_digest": patient,
        "size_bytes": len(request) + len(answer or b""),
        "sealed_request": request,
        "sealed_answer": answer,
        "began_ms": round(one.began * 1000),
        "ended_ms": round(one.ended * 1000),
    }
    return SealedRow(row, tuple(plain(ref) for ref in refs))


async def write_group(
    store: Store, hospital_id: str, notes: Sequence[Note], sealed: Sequence[SealedRow], answers: Mapping[str, str]
) -> None:
    """Write all of it in one transaction; `answers` are those of notes that were written before. Raises StoreUnavailable.

    On SQLite messages cannot be stored meanwhile: what is small is written without a thread to wait for.
    """
    size_bytes = sum(one.row["size_bytes"] for one in sealed)
    links: list[Row] = []
    note_rows: list[Row] = []
    for note in notes:
        refs, patient = links_of(store.vault, hospital_id, note.named, control_id=note.control_id)
        links += [_link(hospital_id, plain(ref), note.message_id) for ref in refs]
        note_rows.append(
            {
                "hospital_id": hospital_id,
                "message_id": note.message_id,
                "answer": note.written_answer,
                "order_no": shown_order(note.named),
                "patient_digest": patient,
                "size_bytes": note.size_bytes,
            }
        )
    for one in sealed:
        links += [_link(hospital_id, ref, one.row["id"]) for ref in one.refs]
    async with store.write(log_scope(hospital_id), here=size_bytes <= SMALL_BYTES) as tx:
        await tx.upsert(message_notes, note_rows)
        await tx.upsert(exchanges, [one.row for one in sealed])
        await tx.upsert(message_links, links)
        await _note_answers(tx, hospital_id, answers)
        if notes:
            newest = max(note.message_id for note in notes)
            size = sum(note.size_bytes for note in notes)
            await add_to_totals(tx, hospital_id, "messages", len(notes), size, newest)
        if sealed:
            await add_to_totals(tx, hospital_id, "exchanges", len(sealed), size_bytes)


async def link_again(store: Store, hospital_id: str, message_id: str, named: References) -> None:
    """A stored message names this too, as it is mapped now. Raises StoreUnavailable."""
    refs, patient = links_of(store.vault, hospital_id, named)
    changes: Row = {}
    if (order_no := shown_order(named)) is not None:
        changes["order_no"] = order_no
    if patient is not None:
        changes["patient_digest"] = patient
    async with store.write(log_scope(hospital_id)) as tx:
        await tx.upsert(message_links, [_link(hospital_id, plain(ref), message_id) for ref in refs])
        if changes:
            await tx.run(
                update(message_notes)
                .where(message_notes.c.hospital_id == hospital_id, message_notes.c.message_id == message_id)
                .values(**changes)
            )


def _link(hospital_id: str, ref: str, message_id: str) -> Row:
    return {"hospital_id": hospital_id, "ref": ref, "message_id": message_id}


_ANSWER = Fixed(
    update(message_notes)
    .where(
        message_notes.c.hospital_id == bindparam("of_hospital"), message_notes.c.message_id == bindparam("of_message")
    )
    .values(answer=bindparam("code"))
)


async def _note_answers(tx: Tx, hospital_id: str, answers: Mapping[str, str]) -> None:
    if answers:
        await tx.run(
            _ANSWER,
            [{"of_hospital": hospital_id, "of_message": i, "code": code} for i, code in answers.items()],
        )


_ADD = Fixed(
    text(
        "insert into message_totals (hospital_id, kind, count, bytes, newest_id) values (:h, :k, :c, :b, :n)"
        " on conflict (hospital_id, kind) do update set"
        " count = message_totals.count + :c, bytes = message_totals.bytes + :b,"
        " newest_id = coalesce(cast(:n as varchar(64)), message_totals.newest_id)"
    )
)


async def add_to_totals(
    tx: Tx, hospital_id: str, kind: str, count: int, size_bytes: int, newest_id: str | None = None
) -> None:
    """Add what was written, or take away what has gone (negative)."""
    await tx.run(
        _ADD,
        {"h": hospital_id, "k": kind, "c": count, "b": size_bytes, "n": newest_id},
    )


async def read_totals(tx: Tx, hospital_id: str) -> dict[str, int]:
    """The bytes of each kind. Crashes may have left them a little too small."""
    rows = await tx.all(
        select(message_totals.c.kind, message_totals.c.bytes).where(message_totals.c.hospital_id == hospital_id)
    )
    return {row["kind"]: max(0, int(row["bytes"])) for row in rows}


async def heal_notes(store: Store, hospital_id: str, *, before: str) -> bool:
    """Note some messages that were stored, and whose notes a crash has lost; False when there are no more.

    Where nothing was ever noted the record begins with what comes from now on. Raises StoreUnavailable.
    """
    async with store.read(hospital_id, clock=False) as tx:
        known = await tx.first(
            select(message_totals.c.newest_id).where(
                message_totals.c.hospital_id == hospital_id, message_totals.c.kind == "messages"
            )
        )
        if known is None or known["newest_id"] is None:
            return False
        rows = await tx.all(
            select(
                messages.c.id,
                messages.c.control_id,
                messages.c.sealed_events,
                func.length(cast(messages.c.sealed_raw, LargeBinary)).label("raw_bytes"),
            )
            .where(messages.c.hospital_id == hospital_id, messages.c.id > known["newest_id"], messages.c.id < before)
            .order_by(messages.c.id)
            .limit(HEAL_AT_ONCE)
        )
    if not rows:
        return False
    notes = [
        Note(
            message_id=row["id"],
            control_id=row["control_id"],
            named=await asyncio.to_thread(_named, store, hospital_id, row["sealed_events"]),  # it may be megabytes
            size_bytes=row["raw_bytes"] + len(row["sealed_events"]),
        )
        for row in rows
    ]
    await write_group(store, hospital_id, notes, [], {})
    return len(rows) == HEAL_AT_ONCE


def _named(store: Store, hospital_id: str, sealed: bytes) -> References:
    try:
        return references_of(read_events(store, hospital_id, sealed))
    except Exception:  # a key that is gone: it is noted all the same, and found by its control id
        return References()
