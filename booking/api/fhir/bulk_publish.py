"""`$bulk-publish` of SMART Scheduling Links: a manifest and its files, as a static host would serve them.

A file is made when it is asked for and something in it has changed, by a write or by the clock, at most every `AGAIN_AFTER_S`, in
a thread; all who ask meanwhile wait for the same. With ETag, Last-Modified and `max-age`, plain and packed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import time
from collections.abc import Awaitable, Callable
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import blake2b
from typing import Any

from aiohttp import hdrs

from booking import catalog
from booking.api.context import Context
from booking.api.fhir import bulk_files
from booking.api.fhir.serving import base_of, unknown_resource
from booking.api.negotiation import accepts_gzip, etag_matches
from booking.api.routing import Call, Ready, make_ready
from booking.feed import ChangeFeed
from booking.settings import Hospital
from booking.snapshots.day import FOREVER_MS, next_change_ms
from booking.snapshots.shelf import Shelf

NDJSON = "application/fhir+ndjson"
AGAIN_AFTER_S = 10.0
MAX_AGE_S = 60  # harvesters are told to come no sooner (specification.md, Performance Considerations)
MOST_ROWS = 2_000  # read at a time
LOCATIONS, SCHEDULES = "locations.ndjson", "schedules.ndjson"
_PACKED_LEVEL = 5
_Rows = list[dict[str, Any]]


class _File:
    """One file as it is sent. `seen`: the number of changes when it was read; `until_ms`: when the clock changes it."""

    __slots__ = ("_fields", "built_s", "etag", "modified", "nbytes", "packed", "seen", "unchanged", "until_ms")

    def __init__(self, body: bytes, kind: str, *, modified: dt.datetime, seen: int, until_ms: int) -> None:
        self.etag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
        self.modified = modified
        self.seen = seen
        self.until_ms = until_ms
        self.built_s = time.monotonic()
        fields = {
            "ETag": f"W/{self.etag}",
            "Last-Modified": format_datetime(modified, usegmt=True),
            "Cache-Control": f"max-age={MAX_AGE_S}",
            "Vary": "Accept-Encoding",
        }
        self._fields = {"Content-Type": kind, **fields}
        self.unchanged = make_ready(status=304, headers=fields)
        packed = gzip.compress(body, _PACKED_LEVEL, mtime=0)
        self.packed = make_ready(packed, headers={**self._fields, "Content-Encoding": "gzip"})
        self.nbytes = len(packed) + 2_000

    async def reply(self, call: Call[Any, Any]) -> Ready:
        """The form that fits, or 304. If-None-Match counts more than If-Modified-Since (RFC 9110, section 13.2.2)."""
        headers = call.request.headers
        known, since = headers.get(hdrs.IF_NONE_MATCH), headers.get(hdrs.IF_MODIFIED_SINCE)
        if known is not None:
            if etag_matches(known, self.etag):
                return self.unchanged
        elif since is not None and _is_since(since, self.modified):
            return self.unchanged
        if accepts_gzip(headers.get(hdrs.ACCEPT_ENCODING)):
            return self.packed
        # Kept is the packed form alone: a tenth, and what harvesters ask for.
        return make_ready(await asyncio.to_thread(gzip.decompress, self.packed.body), headers=self._fields)


class BulkPublish:
    """The manifest and the files of all hospitals that publish."""

    def __init__(self, context: Context, feed: ChangeFeed) -> None:
        self._context = context
        self._feed = feed
        self._files: Shelf[tuple[str, ...], _File] = Shelf("fhir_bulk", context.snapshot_bytes // 16)
        self._locks: dict[tuple[str, ...], asyncio.Lock] = {}
        self._changes: dict[tuple[str, str], int] = {}
        self._changed_at: dict[str, dt.datetime] = {}
        self._began_at = _now()
        feed.listen(on_fragment=self._on_fragment)

    def is_public(self, hospital_id: str) -> bool:
        """Whether this hospital's are given without a key."""
        hospital = self._context.hospitals.get(hospital_id)
        return hospital is not None and hospital.publish_slots == "public"

    async def manifest(self, call: Call[str, None]) -> Ready:
        """What there is. `transactionTime` is that of the last change."""
        hospital, base = self._hospital(call), base_of(call, self._context.public_url)
        dates = self._dates(hospital)
        at = max(self._changed_at.get(hospital.id, self._began_at), self._began_at)
        files = [
            ("Location", LOCATIONS),
            ("Schedule", SCHEDULES),
            *(("Slot", f"slots-{date}.ndjson") for date in dates),
        ]
        body = bulk_files.manifest(base, at, files)
        return await _File(body, "application/json", modified=at, seen=0, until_ms=FOREVER_MS).reply(call)

    async def file(self, call: Call[str, None]) -> Ready:
        """One file. Raises ApiProblem(resource_unknown) where the manifest names none such."""
        hospital, name = self._hospital(call), call.path["file"]
        if name == LOCATIONS:
            base = base_of(call, self._context.public_url)
            body = bulk_files.locations(hospital, base)
            return await _File(body, NDJSON, modified=self._began_at, seen=0, until_ms=FOREVER_MS).reply(call)
        if name == SCHEDULES:
            return await (await self._kept(hospital, name, None, lambda: self._schedules(hospital))).reply(call)
        date = next((date for date in self._dates(hospital) if name == f"slots-{date}.ndjson"), None)
        if date is None:
            raise unknown_resource("Binary", name)
        return await (await self._kept(hospital, name, date, lambda: self._slots(hospital, date))).reply(call)

    def _hospital(self, call: Call[str, None]) -> Hospital:
        hospital = self._context.hospital(call)
        if hospital.publish_slots == "off":
            raise unknown_resource("Binary", "bulk-publish")
        return hospital

    def _dates(self, hospital: Hospital) -> list[dt.date]:
        now_s = self._feed.store_now_ms(hospital.id) // 1000
        today = dt.datetime.fromtimestamp(now_s, hospital.zone).date()
        return [today + dt.timedelta(days=n) for n in range(hospital.horizon_days + 1)]

    def _on_fragment(self, hospital_id: str, date: str, department_id: str, _changed: int) -> None:
        for on in (date, ""):
            self._changes[hospital_id, on] = self._changes.get((hospital_id, on), 0) + 1
        self._changed_at[hospital_id] = _now()

    def _seen(self, hospital: Hospital, date: dt.date | None) -> int:
        """Another number with every change of that day; without one, of the hospital."""
        return self._changes.get((hospital.id, "" if date is None else date.isoformat()), 0)

    async def _kept(
        self, hospital: Hospital, name: str, date: dt.date | None, read: Callable[[], Awaitable[tuple[bytes, int]]]
    ) -> _File:
        key = (hospital.id, name)
        file = self._files.get(key)
        if file is not None and self._holds(file, hospital, date):
            return file
        if len(self._locks) > 2_000:
            self._locks = {held: lock for held, lock in self._locks.items() if lock.locked()}
        async with self._locks.setdefault(key, asyncio.Lock()):
            before = self._files.get(key)
            if before is not None and self._holds(before, hospital, date):
                return before
            seen = self._seen(hospital, date)
            body, until_ms = await read()
            made = await asyncio.to_thread(_File, body, NDJSON, modified=_now(), seen=seen, until_ms=until_ms)
            if before is not None and before.etag == made.etag:
                before.seen, before.until_ms, before.built_s = seen, until_ms, made.built_s
                return before
            self._files.put(key, made)
            return made

    def _holds(self, file: _File, hospital: Hospital, date: dt.date | None) -> bool:
        if time.monotonic() - file.built_s < AGAIN_AFTER_S:
            return True
        current = file.seen == self._seen(hospital, date) and self._feed.is_fresh(hospital.id)
        return current and self._feed.store_now_ms(hospital.id) < file.until_ms

    async def _schedules(self, hospital: Hospital) -> tuple[bytes, int]:
        dates, rows, after = self._dates(hospital), _Rows(), None
        async with self._context.store.read(hospital.id) as tx:
            departments = {row["id"]: row["campus"] for row in await catalog.list_departments(tx)}
        while True:
            async with self._context.store.read(hospital.id) as tx:
                page = await catalog.list_schedules(
                    tx, date_from=dates[0], date_to=dates[-1], after=after, limit=MOST_ROWS
                )
            rows += page
            if len(page) < MOST_ROWS:
                break
            after = (page[-1]["date"], page[-1]["id"])
        midnight = dt.datetime.combine(dates[0] + dt.timedelta(days=1), dt.time(), hospital.zone)
        body = await asyncio.to_thread(bulk_files.schedules, hospital, rows, departments)
        return body, round(midnight.timestamp() * 1000)

    async def _slots(self, hospital: Hospital, date: dt.date) -> tuple[bytes, int]:
        rows, after, now_ms = _Rows(), None, 0
        while True:
            async with self._context.store.read(hospital.id) as tx:
                page = await catalog.list_slots(tx, date_from=date, date_to=date, after=after, limit=MOST_ROWS)
                now_ms = tx.now_ms
            rows += page
            if len(page) < MOST_ROWS:
                break
            after = (page[-1]["starts_at_ms"], page[-1]["id"])
        body = await asyncio.to_thread(bulk_files.slots, hospital, rows, now_ms)
        return body, min((next_change_ms(row, now_ms) for row in rows), default=FOREVER_MS)


def _now() -> dt.datetime:
    """To the second, as HTTP dates are."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _is_since(since: str, modified: dt.datetime) -> bool:
    """Whether nothing was modified after an HTTP date; one that cannot be read is ignored (RFC 9110, section 13.1.3)."""
    try:
        at = parsedate_to_datetime(since[:100])
        return modified <= (at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC))
    except (ValueError, TypeError, OverflowError):
        return False
