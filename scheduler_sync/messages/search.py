"""Finding messages and exchanges, newest first, without their bodies; and one of them with everything.

What is numbered (an order, a patient, a control id) is found by its links, a state by an index; anything else by looking through
the newest ones, page by page, so that no statement is long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, select

from booking.store.engine import Store, Tx
from booking.store.ids import first_id
from connectors.recording import shown_id
from scheduler_sync.messages.alike import Alike, Listing
from scheduler_sync.messages.tables import OPEN, exchanges, message_links, message_notes, messages

PAGE = 500
MOST_LOOKED_AT = 50_000
MOST_LINKED = 5_000
MESSAGE_STATES = ("received", "applied", "quarantined")
_BOTH = ("id", "hospital_id", "connector", "peer", "message_type", "control_id", "state", "reason")
EXCHANGE_STATES = ("done", "failed", "unknown", "refused", "duplicate")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to find; all that is set must hold. `linked`: each of these must have a link to it, by one of its refs.

    `text` is looked for in the reason, whatever its case. `since_ms` counts, `until_ms` does not.
    """

    direction: str | None = None
    connector: str | None = None
    state: str | None = None
    message_type: str | None = None
    linked: tuple[tuple[str, ...], ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    text: str | None = None

    def fits(self, row: dict[str, Any]) -> bool:
        """Whether a row is wanted, apart from its links and its time."""
        kind, asked = row["message_type"], self.message_type
        return (
            self.direction in (None, row["direction"])
            and self.connector in (None, row["connector"])
            and self.state in (None, row["state"])
            and (asked is None or kind == asked or kind.startswith(f"{asked}^"))
            and (self.text is None or self.text.casefold() in (row["reason"] or "").casefold())
        )


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One message or exchange. `answer`: the code that it was answered with, by us (in) or by the HIS (out)."""

    id: str
    hospital_id: str
    at_ms: int
    direction: str
    connector: str
    peer: str
    verb: str | None
    message_type: str
    control_id: str
    state: str
    reason: str | None
    answer: str | None = None
    order_no: str | None = None
    size_bytes: int | None = None


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and whether everything was looked at. `alike`: by the id of a found one that stands for several."""

    found: list[Found]
    complete: bool
    alike: Mapping[str, Alike] = {}


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """One of them with its sealed bytes. `sealed_reply` is None for messages: what we answered is only a code."""

    summary: Found
    sealed_body: bytes
    body_place: str
    sealed_reply: bytes | None = None
    reply_place: str = ""


async def find_messages(
    store: Store, hospital_id: str, wanted: Wanted, *, limit: int = 50, alike_once: bool = False
) -> Findings:
    """The newest that fit, newest first; at most MOST_LOOKED_AT are looked at. Raises StoreUnavailable.

    `alike_once`: of exchanges that passed alike only the newest, with their number.
    """
    listing = Listing(limit, once=alike_once)
    async with store.read(hospital_id, clock=False) as tx:
        ids = await _linked(tx, wanted)
        if ids is not None:
            rows = [row for row in await _by_ids(tx, ids, wanted) if wanted.fits(row)]
            for row in sorted(rows, key=lambda row: str(row["id"]), reverse=True):
                if not listing.take(row):
                    break
            complete = len(ids) < MOST_LINKED
        else:
            complete = await _look_through(tx, wanted, listing)
        return Findings(found=await _noted(tx, listing.rows), complete=complete, alike=listing.alike)


async def _look_through(tx: Tx, wanted: Wanted, listing: Listing) -> bool:
    """The newest, until enough are listed; False where there are more than may be looked at."""
    looked_at = 0
    async for row in _merged([_walk(tx, table, wanted) for table in _tables(wanted)]):
        if (wanted.fits(row) and not listing.take(row)) or listing.is_full:
            return True
        looked_at += 1
        if looked_at >= MOST_LOOKED_AT:
            return False
    return True


async def load_message(store: Store, hospital_id: str, message_id: str) -> Whole | None:
    """One message or exchange by its id, None where there is none. Raises StoreUnavailable."""
    async with store.read(hospital_id, clock=False) as tx:
        for table in (messages, exchanges):
            at = select(*_columns(table), *_sealed(table)).where(
                table.c.hospital_id == hospital_id, table.c.id == message_id
            )
            row = await tx.first(at)
            if row is None:
                continue
            (summary,) = await _noted(tx, [row])
            if table is messages:
                return Whole(summary=summary, sealed_body=row["sealed_raw"], body_place=f"messages.raw.{hospital_id}")
            return Whole(
                summary=summary,
                sealed_body=row["sealed_request"],
                body_place=f"exchanges.request.{hospital_id}",
                sealed_reply=row["sealed_answer"],
                reply_place=f"exchanges.answer.{hospital_id}",
            )
    return None


def _columns(table: Table) -> Sequence[ColumnElement[Any]]:
    if table is messages:
        return [*(messages.c[name] for name in _BOTH), messages.c.received_ms.label("at_ms")]
    more = ("direction", "verb", "answer", "order_no", "size_bytes")
    return [*(exchanges.c[name] for name in (*_BOTH, *more)), exchanges.c.began_ms.label("at_ms")]


def _sealed(table: Table) -> Sequence[ColumnElement[Any]]:
    return [table.c.sealed_raw] if table is messages else [table.c.sealed_request, table.c.sealed_answer]


def _tables(wanted: Wanted) -> list[Table]:
    """Where something wanted can be."""
    found = []
    if wanted.direction != "out" and wanted.state not in EXCHANGE_STATES:
        found.append(messages)
    if wanted.state not in MESSAGE_STATES:
        found.append(exchanges)
    return found


def _within(table: Table, wanted: Wanted) -> list[ColumnElement[bool]]:
    """Ids begin with their time."""
    bounds = []
    if wanted.since_ms is not None:
        bounds.append(table.c.id >= first_id(wanted.since_ms))
    if wanted.until_ms is not None:
        bounds.append(table.c.id < first_id(wanted.until_ms))
    return bounds


async def _walk(tx: Tx, table: Table, wanted: Wanted) -> AsyncIterator[dict[str, Any]]:
    """Rows of one table, newest first, page by page; of one state by its index."""
    which: list[Any] = [table.c.hospital_id == tx.hospital_id, *_within(table, wanted)]
    if wanted.state is not None and table is exchanges:
        which.append(exchanges.c.state == wanted.state)
    elif wanted.state in ("received", "quarantined"):
        which += [OPEN, messages.c.state == wanted.state]
    before: str | None = None
    while True:
        page = select(*_columns(table)).where(*which).order_by(table.c.id.desc()).limit(PAGE)
        rows = await tx.all(page if before is None else page.where(table.c.id < before))
        for row in rows:
            yield _whole_row(row)
        if len(rows) < PAGE:
            return
        before = rows[-1]["id"]


async def _merged(sources: Sequence[AsyncIterator[dict[str, Any]]]) -> AsyncIterator[dict[str, Any]]:
    """The rows of several, the newest first."""
    heads = {n: row for n, source in enumerate(sources) if (row := await anext(source, None)) is not None}
    while heads:
        newest = max(heads, key=lambda n: str(heads[n]["id"]))
        yield heads.pop(newest)
        if (row := await anext(sources[newest], None)) is not None:
            heads[newest] = row


async def _linked(tx: Tx, wanted: Wanted) -> set[str] | None:
    """The ids that every one of the wanted links has, None where none is wanted."""
    both: set[str] | None = None
    for refs in wanted.linked:
        ids: set[str] = set()
        for ref in refs:
            ids |= set(await linked_ids(tx, ref, limit=MOST_LINKED))
        both = ids if both is None else both & ids
    return both


async def linked_ids(tx: Tx, ref: str, *, limit: int, after: str = "") -> list[str]:
    """The newest messages and exchanges with this ref, newest first; one ref at a time, by the key's own index."""
    rows = await tx.all(
        select(message_links.c.message_id)
        .where(
            message_links.c.hospital_id == tx.hospital_id,
            message_links.c.ref == ref,
            message_links.c.message_id > after,
        )
        .order_by(message_links.c.message_id.desc())
        .limit(limit)
    )
    return [row["message_id"] for row in rows]


async def _by_ids(tx: Tx, ids: Collection[str], wanted: Wanted) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    ordered = sorted(ids, reverse=True)
    for table in _tables(wanted):
        for start in range(0, len(ordered), PAGE):
            some = ordered[start : start + PAGE]
            query = select(*_columns(table)).where(table.c.hospital_id == tx.hospital_id, table.c.id.in_(some))
            rows += [_whole_row(row) for row in await tx.all(query)]
    # Not in the query: with a range beside the list SQLite would walk the range.
    since = "" if wanted.since_ms is None else first_id(wanted.since_ms)
    until = "g" if wanted.until_ms is None else first_id(wanted.until_ms)  # above every hexadecimal digit
    return [row for row in rows if since <= row["id"] < until]


async def _noted(tx: Tx, rows: Sequence[dict[str, Any]]) -> list[Found]:
    """With what was noted of messages: how they were answered, and which order they speak of."""
    notes: dict[str, dict[str, Any]] = {}
    ids = [row["id"] for row in rows if row.get("verb") is None]
    for start in range(0, len(ids), PAGE):
        found = await tx.all(
            select(message_notes).where(
                message_notes.c.hospital_id == tx.hospital_id, message_notes.c.message_id.in_(ids[start : start + PAGE])
            )
        )
        notes |= {note["message_id"]: note for note in found}
    known = Found.__struct_fields__
    whole = [_whole_row(row) | {k: v for k, v in notes.get(row["id"], {}).items() if k in known} for row in rows]
    return [
        msgspec.convert({name: row.get(name) for name in known} | {"control_id": shown_id(row["control_id"])}, Found)
        for row in whole
    ]


def _whole_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of either table with the columns of both."""
    return {"direction": "in", "verb": None, **row}
