"""The merchant's bill of a day, and the three-way reconciliation."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Iterator

import msgspec

from booking.api.context import Context
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.problems import ApiProblem, FieldError
from booking.api.routing import Call, RequestClass, Route
from booking.api.views.base import check_years
from booking.api.views.books import Difference, MerchantBill, MerchantBillView, ReconciliationQuery, ReconciliationView
from booking.merchant_bills import Line, put_bill_file, put_merchant_bill, whole_revisions
from booking.merchant_files.lines import BillFileInvalid, BillLine
from booking.merchant_files.reading import read_bill
from booking.merchant_filter import is_ours
from booking.reconciled import CHUNK, Run, done_topic, load_run, page_of
from booking.reconciliation import Mismatch
from booking.reopening import ask_run
from booking.settings import Hospital
from booking.store.bell import wait_for_ring

MAX_BILL_BYTES = 30_000_000
MADE_WITHIN_S = 50.0  # a comparison goes on when nobody waits for it any more
LOOK_EVERY_S = 0.5  # beside the bell, which may ring in another process
FILES = ("text/csv", "application/zip", "application/gzip", "application/octet-stream")
_SOURCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class MoneyHandlers:
    """Bills in, differences out."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def put_bill(self, call: Call[None, MerchantBill]) -> MerchantBillView:
        date = _date(call.path["date"])
        zone = self._context.hospital(call).zone
        lines, total_fen = await asyncio.to_thread(_taken, call.body, date, zone)  # 100,000 of them at the most
        await put_merchant_bill(self._context.store, call.hospital_id, date, lines)
        return MerchantBillView(date=date, lines=len(lines), amount_fen=total_fen)

    async def put_file(self, call: Call[None, bytes]) -> MerchantBillView:
        date, source = _date(call.path["date"]), call.path["source"]
        if not _SOURCE.fullmatch(source):
            raise ApiProblem(
                "invalid_field", errors=(FieldError(path="{source}", expected="1 to 40 of a-z, 0-9, - and _"),)
            )
        lines = _told_apart(call.data, date, self._context.hospital(call))
        try:
            count, foreign, total_fen = await put_bill_file(
                self._context.store, call.hospital_id, date, lines, source=source
            )
        except BillFileInvalid as e:
            raise ApiProblem(
                "merchant_bill_invalid", str(e), errors=(FieldError(path=f"line {e.line}", expected=e.hint),)
            ) from None
        return MerchantBillView(date=date, lines=count, amount_fen=total_fen, foreign_lines=foreign)

    async def reconcile(self, call: Call[ReconciliationQuery, None]) -> ReconciliationView:
        date, after = _date(call.path["date"]), 0
        if call.query.cursor is not None:
            number, after = (int(str(part)) for part in decode_cursor(call.query.cursor, int, int))
            async with self._context.store.read(call.hospital_id) as tx:
                run = await load_run(tx, date, number) if abs(number) < 2**31 else None
            if run is None:
                raise ApiProblem("cursor_invalid")
        else:
            run = await self._made(call.hospital_id, date)
        if run.failed is not None or run.done_ms is None:
            raise ApiProblem(run.failed or "cursor_invalid")
        found = await self._read(call.hospital_id, run, after, call.query.limit)
        last = after if not found else found[-1][0]
        return ReconciliationView(
            date=date,
            merchant_lines=run.merchant_lines,
            our_lines=run.our_lines,
            his_lines=run.his_lines,
            differences=[Difference(**msgspec.structs.asdict(one)) for _, one in found],
            total=run.differences,
            compared_at=dt.datetime.fromtimestamp(run.done_ms / 1000, self._context.hospital(call).zone),
            next=encode_cursor(run.run, last) if last < run.differences else None,
        )

    async def _made(self, hospital_id: str, date: dt.date) -> Run:
        """Have the books compared by whoever works the hospital, and wait for it."""
        store, loop = self._context.store, asyncio.get_running_loop()
        ends = loop.time() + MADE_WITHIN_S
        async with store.read(hospital_id) as tx:
            there = await whole_revisions(tx, date)
        if not there:
            raise ApiProblem("reconciliation_unknown", f"No merchant bill was sent for {date}.")
        async with store.write(hospital_id) as tx:
            number = await ask_run(tx, date)
        while True:
            rung = store.bell.listen(done_topic(hospital_id, date.isoformat()))
            async with store.read(hospital_id) as tx:
                run = await load_run(tx, date, number)
            if (run is not None and run.done_ms is not None) or loop.time() >= ends:
                rung.cancel()
                break
            await wait_for_ring(rung, LOOK_EVERY_S)
        if run is None or run.done_ms is None:
            raise ApiProblem("his_unavailable", f"The books of {date} are still being compared: ask again.")
        return run

    async def _read(self, hospital_id: str, run: Run, after: int, limit: int) -> list[tuple[int, Mismatch]]:
        found: list[tuple[int, Mismatch]] = []
        while len(found) < limit:
            wanted = min(CHUNK, limit - len(found))
            async with self._context.store.read(hospital_id) as tx:
                page = await page_of(tx, run, after=after, limit=wanted)
            found += page
            if len(page) < wanted:
                break
            after = page[-1][0]
        return found


def _taken(bill: MerchantBill, date: dt.date, zone: dt.tzinfo) -> tuple[list[Line], int]:
    """The lines as they are stored, and what they come to. Raises ApiProblem invalid_field for one of another day."""
    for number, line in enumerate(bill.lines):
        if line.at is not None and line.at.astimezone(zone).date() != date:
            expected = f"a time on {date} by the hospital's clock, the day of the bill, or none"
            raise ApiProblem("invalid_field", errors=(FieldError(path=f"$.lines[{number}].at", expected=expected),))
    lines: list[Line] = [
        (n.kind, n.channel, n.trade_no, n.amount_fen, None if n.at is None else round(n.at.timestamp() * 1000))
        for n in bill.lines
    ]
    return lines, sum(n.amount_fen if n.kind == "payment" else -n.amount_fen for n in bill.lines)


def _told_apart(data: bytes, date: dt.date, hospital: Hospital) -> Iterator[tuple[BillLine, bool]]:
    ours = is_ours(hospital.merchant_filter)
    for line in read_bill(data, date, hospital.zone):
        yield line, not ours(line)


def _date(date: dt.date) -> dt.date:
    """The day of the path. Raises ApiProblem invalid_field for one that is far beyond any bill."""
    try:
        check_years(date)
    except ValueError as e:
        raise ApiProblem("invalid_field", errors=(FieldError(path="{date}", expected=str(e)),)) from None
    return date


def money_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes, dates = MoneyHandlers(context), ("reconciliation",), {"date": dt.date}
    of = "/v1/hospitals/{hospital_id}"
    return [
        Route("PUT", of + "/merchant-bills/{date}", handlers.put_bill, summary="The merchant's bill of a day",
              tag="reconciliation",
              request_class=RequestClass.BULK, request=MerchantBill, response=MerchantBillView, scopes=scopes, path_types=dates,
              max_body_bytes=MAX_BILL_BYTES),
        Route("PUT", of + "/merchant-bills/{date}/{source}", handlers.put_file,
              summary="A bill file of a day, as WeChat Pay or Alipay gives it", tag="reconciliation",
              request_class=RequestClass.BULK, request=bytes, response=MerchantBillView, scopes=scopes, path_types=dates,
              accepts=FILES, max_body_bytes=MAX_BILL_BYTES, errors=("merchant_bill_invalid",)),
        Route("GET", of + "/reconciliations/{date}", handlers.reconcile, summary="The three books of a day compared",
              tag="reconciliation", request_class=RequestClass.BULK, query=ReconciliationQuery, response=ReconciliationView,
              scopes=scopes, path_types=dates,
              errors=("reconciliation_unknown", "his_unavailable", "his_refused", "his_reply_invalid", "cursor_invalid")),
    ]  # fmt: skip
