"""Forgetting documents that no report shows any more, one in a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import select, tuple_

from booking.store.engine import Store, Tx
from booking.store.tables import report_documents
from scheduler_sync.messages.documents import documents_scope
from scheduler_sync.messages.groups import add_to_totals
from scheduler_sync.messages.tables import APPLIED, OPEN, document_pieces, documents, messages

DAY_MS = 24 * 3600 * 1000
PAGE = 100

Pause = Callable[[], Awaitable[bool]]
"""Leaves room for others; False where it is time to stop."""


async def forget_documents(
    store: Store, message_store: Store, hospital_id: str, *, keep_days: int, pause: Pause
) -> int:
    """Delete documents that no report shows and no stored message may bring again; returns how many.

    Such a message is one that is still kept: an applied one for `keep_days`, one that waits as long as it does. What a crash has
    left half written goes like any other. `store` is the one with the reports.
    """
    async with message_store.read(hospital_id) as tx:
        before_ms = await _oldest_needed_ms(tx, [tx.now_ms - max(keep_days, 1) * DAY_MS])
    walk = DocumentWalk(store, message_store, hospital_id, pause)
    while await walk.forget_page(before_ms) and await pause():
        pass
    return walk.forgotten


async def unneeded_before_ms(tx: Tx, youngest_days: int) -> int:
    """What came last before this time no message can have brought that is still there, nor one of `youngest_days`."""
    oldest = await tx.first(
        select(messages.c.received_ms)
        .where(messages.c.hospital_id == tx.hospital_id, APPLIED)
        .order_by(messages.c.received_ms)
        .limit(1)
    )
    times = [tx.now_ms - youngest_days * DAY_MS]
    if oldest is not None:
        times.append(oldest["received_ms"] - DAY_MS)
    return await _oldest_needed_ms(tx, times)


class DocumentWalk:
    """From the oldest document to the newest, a page at a time; what a report shows is passed by."""

    def __init__(self, store: Store, message_store: Store, hospital_id: str, pause: Pause) -> None:
        self._store = store
        self._message_store = message_store
        self._hospital_id = hospital_id
        self._pause = pause
        self._after: dict[str, Any] | None = None
        self.forgotten = 0

    async def forget_page(self, before_ms: int) -> bool:
        """Delete what no report shows of the next ones that came last before then; False where there are none, or time is up."""
        page = await _page(self._message_store, self._hospital_id, before_ms, self._after)
        for row in await _not_shown(self._store, self._hospital_id, page) if page else []:
            self.forgotten += await _forget(self._message_store, self._hospital_id, row)
            if not await self._pause():
                return False
        if page:
            self._after = page[-1]
        return bool(page)


async def _oldest_needed_ms(tx: Tx, times: list[int]) -> int:
    """The first of these times, and of when a message came that still waits."""
    for state in ("received", "quarantined"):
        oldest = await tx.first(
            select(messages.c.received_ms)
            .where(messages.c.hospital_id == tx.hospital_id, OPEN, messages.c.state == state)
            .order_by(messages.c.id)
            .limit(1)
        )
        if oldest is not None:
            times.append(oldest["received_ms"] - DAY_MS)  # documents are written before their message, by moments
    return min(times)


async def _page(
    message_store: Store, hospital_id: str, before_ms: int, after: dict[str, Any] | None
) -> list[dict[str, Any]]:
    query = select(documents.c.id, documents.c.kept_ms, documents.c.size_bytes).where(
        documents.c.hospital_id == hospital_id, documents.c.kept_ms < before_ms
    )
    if after is not None:
        query = query.where(tuple_(documents.c.kept_ms, documents.c.id) > (after["kept_ms"], after["id"]))
    async with message_store.read(hospital_id, clock=False) as tx:
        return await tx.all(query.order_by(documents.c.kept_ms, documents.c.id).limit(PAGE))


async def _not_shown(store: Store, hospital_id: str, page: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = [row["id"] for row in page]
    async with store.read(hospital_id, clock=False) as tx:
        shown = await tx.all(
            select(report_documents.c.document_id).where(
                report_documents.c.hospital_id == hospital_id, report_documents.c.document_id.in_(ids)
            )
        )
    known = {row["document_id"] for row in shown}
    return [row for row in page if row["id"] not in known]


async def _forget(message_store: Store, hospital_id: str, row: dict[str, Any]) -> int:
    """One that has come again meanwhile stays."""
    of = (documents.c.hospital_id == hospital_id, documents.c.id == row["id"])
    async with message_store.write(documents_scope(hospital_id)) as tx:
        gone = await tx.run(documents.delete().where(*of, documents.c.kept_ms == row["kept_ms"]))
        if gone:
            await add_to_totals(tx, hospital_id, "documents", -1, -row["size_bytes"])
            await tx.run(
                document_pieces.delete().where(
                    document_pieces.c.hospital_id == hospital_id, document_pieces.c.document_id == row["id"]
                )
            )
    return gone
