"""Storing and finding messages. Bodies and mapped events are sealed; what is searched stands beside them in the clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, update

from booking.store.crypto import Vault
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_id
from connectors.port import Inbound
from mappings.canonical import AnyEvent
from scheduler_sync.messages.tables import APPLIED, OPEN, messages

SCRIPTS = Path(__file__).parent / "migrations"
VERSION_TABLE = "alembic_version_messages"
DAY_MS = 24 * 3600 * 1000
DUPLICATE_MS = 7 * DAY_MS
_EVENTS = msgspec.json.Decoder(tuple[AnyEvent, ...])


class StoredMessage(msgspec.Struct, kw_only=True):
    """One message as stored. `state`: received (not yet applied), applied, quarantined (for a person)."""

    id: str
    hospital_id: str
    connector: str
    message_type: str
    control_id: str
    state: str
    reason: str | None
    received_ms: int


async def find_duplicate(tx: Tx, inbound: Inbound) -> StoredMessage | None:
    """The same message, received within the last seven days."""
    row = await tx.first(
        _summary()
        .where(
            messages.c.hospital_id == tx.hospital_id,
            messages.c.dedup_key == digest_of(tx.vault, tx.hospital_id, inbound),
            messages.c.received_ms >= tx.now_ms - DUPLICATE_MS,
        )
        .order_by(messages.c.received_ms)
    )
    return None if row is None else msgspec.convert(row, StoredMessage)


async def has_other_of_id(tx: Tx, dedup_digest: str) -> bool:
    """Whether another message of the last seven days has the same sender and control id as this one."""
    begin, end = same_id_range(dedup_digest)
    row = await tx.first(
        select(messages.c.id)
        .where(
            messages.c.hospital_id == tx.hospital_id,
            messages.c.dedup_key >= begin,
            messages.c.dedup_key < end,
            messages.c.dedup_key != dedup_digest,
            messages.c.received_ms >= tx.now_ms - DUPLICATE_MS,
        )
        .limit(1)
    )
    return row is not None


_ID_CHARACTERS = 32  # of 64


def digest_of(vault: Vault, hospital_id: str, inbound: Inbound) -> str:
    """By what a repeat is found. It begins with a digest of the sender and the id alone, where those are known by themselves."""
    whole = vault.digest("message", hospital_id, inbound.dedup_key)
    if inbound.same_id_key is None:
        return whole
    return vault.digest("message id", hospital_id, inbound.same_id_key)[:_ID_CHARACTERS] + whole


SAME_ID = "the sender has used this control id for another message"
"""The reason of what was set aside for that; nothing is wrong with its content."""


def same_id_range(dedup_digest: str) -> tuple[str, str]:
    """Between what the digests of all messages of one sender and id are: from, and below."""
    begin = dedup_digest[:_ID_CHARACTERS]
    return begin, begin + "g"  # behind every hexadecimal digit


def set_apart(inbound: Inbound, row: dict[str, Any]) -> str | None:
    """A message whose control id another one has: why it is set aside, None where it is to be applied all the same."""
    if inbound.problem is None and inbound.same_id_apart:
        row["state"], row["reason"] = "quarantined", SAME_ID
        return str(row["reason"])
    return inbound.problem


Mark = tuple[str, str, str | None]
"""A message's id, its new state, and the reason."""


async def store_message(tx: Tx, inbound: Inbound) -> str:
    """Store a message as received, or set aside at once where it could not be mapped; returns its id."""
    row = message_row(tx.vault, tx.hospital_id, inbound, tx.now_ms)
    await tx.insert(messages, row)
    return str(row["id"])


def message_row(vault: Vault, hospital_id: str, inbound: Inbound, now_ms: int) -> dict[str, Any]:
    """A message under a fresh id, its body and events sealed; in the order of the table's columns."""
    return {
        "hospital_id": hospital_id,
        "id": new_id(),
        "connector": inbound.connector,
        "peer": plain(inbound.peer),
        "message_type": plain(inbound.message_type),
        "control_id": plain(inbound.control_id),
        "dedup_key": digest_of(vault, hospital_id, inbound),
        "state": "received" if inbound.problem is None else "quarantined",
        "reason": None if inbound.problem is None else plain(inbound.problem),
        "sealed_raw": vault.seal(inbound.raw, f"messages.raw.{hospital_id}"),
        "sealed_events": vault.seal(msgspec.json.encode(inbound.events), f"messages.events.{hospital_id}"),
        "received_ms": now_ms,
        "updated_ms": now_ms,
    }


def size_of(row: Mapping[str, Any]) -> int:
    """The bytes of a message's sealed columns."""
    return len(row["sealed_raw"]) + len(row["sealed_events"])


MARK = Fixed(
    update(messages)
    .where(
        messages.c.hospital_id == bindparam("of_hospital"),
        messages.c.id == bindparam("of_id"),
        messages.c.state == "received",
    )
    .values(state=bindparam("to_state"), reason=bindparam("why"), updated_ms=bindparam("at_ms"))
)


async def mark_messages(tx: Tx, marks: Sequence[Mark]) -> None:
    """Note that messages were applied, or set aside and why. One that is no longer `received` stays as it is."""
    if marks:
        await tx.run(
            MARK,
            [
                {"of_hospital": tx.hospital_id, "of_id": i, "to_state": state, "why": why, "at_ms": tx.now_ms}
                for i, state, why in marks
            ],
        )


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is stored and not applied; `read_events` opens its events."""

    id: str
    connector: str
    message_type: str
    control_id: str
    sealed_events: bytes


async def unapplied(tx: Tx, *, limit: int = 100) -> list[Left]:
    """Messages that are stored and not marked as applied, oldest first."""
    rows = await tx.all(
        select(*(messages.c[name] for name in Left.__struct_fields__))
        .where(messages.c.hospital_id == tx.hospital_id, OPEN, messages.c.state == "received")
        .order_by(messages.c.id)
        .limit(limit)
    )
    return [Left(**row) for row in rows]


def read_events(store: Store, hospital_id: str, sealed: bytes) -> tuple[AnyEvent, ...]:
    """The mapped events of a stored message. Raises SealBroken, and msgspec's errors for another program's records."""
    return _EVENTS.decode(store.vault.open(sealed, f"messages.events.{hospital_id}"))


async def list_messages(
    store: Store, hospital_id: str, *, state: str | None = None, limit: int = 50
) -> list[StoredMessage]:
    """The newest messages of a hospital, without their bodies."""
    async with store.read(hospital_id) as tx:
        query = _summary().where(messages.c.hospital_id == hospital_id)
        if state is not None:
            query = query.where(APPLIED) if state == "applied" else query.where(OPEN, messages.c.state == state)
        rows = await tx.all(query.order_by(messages.c.id.desc()).limit(limit))
    return [msgspec.convert(r, StoredMessage) for r in rows]


async def count_quarantined(tx: Tx) -> int:
    """How many messages wait for a person."""
    row = await tx.first(
        select(func.count().label("n")).where(
            messages.c.hospital_id == tx.hospital_id, OPEN, messages.c.state == "quarantined"
        )
    )
    return 0 if row is None else int(row["n"])


class Unapplied(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that are stored and not marked as applied: how many, and the oldest one, None where there is none."""

    count: int
    oldest_id: str | None = None
    oldest_ms: int = 0


async def measure_unapplied(tx: Tx) -> Unapplied:
    """Those of one hospital, by the index of what is open."""
    mine = (messages.c.hospital_id == tx.hospital_id, OPEN, messages.c.state == "received")
    count = await tx.first(select(func.count().label("n")).where(*mine))
    oldest = await tx.first(select(messages.c.id, messages.c.received_ms).where(*mine).order_by(messages.c.id).limit(1))
    if count is None or oldest is None:
        return Unapplied(count=0)
    return Unapplied(count=int(count["n"]), oldest_id=oldest["id"], oldest_ms=int(oldest["received_ms"]))


def plain(text: str) -> str:
    """Text as every database takes it: PostgreSQL has no NUL, and no engine half a surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _summary() -> Any:
    return select(
        messages.c.id,
        messages.c.hospital_id,
        messages.c.connector,
        messages.c.message_type,
        messages.c.control_id,
        messages.c.state,
        messages.c.reason,
        messages.c.received_ms,
    )
