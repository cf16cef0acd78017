"""The merchant's bill of a day, and the three-way reconciliation."""

from __future__ import annotations

import datetime as dt

from booking import reconciliation as books
from booking.api.context import Context
from booking.api.problems import ApiProblem, FieldError
from booking.api.routing import Call, RequestClass, Route
from booking.api.views import Difference, MerchantBill, MerchantBillView, ReconciliationView, check_years
from booking.ports import LiveFailed

MAX_BILL_BYTES = 30_000_000


class MoneyHandlers:
    """Reconciliation on demand."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def put_bill(self, call: Call[None, MerchantBill]) -> MerchantBillView:
        date = _date(call.path["date"])
        lines = call.body.lines
        await books.put_merchant_bill(
            self._context.store,
            call.hospital_id,
            date,
            [
                (n.kind, n.channel, n.trade_no, n.amount_fen, None if n.at is None else round(n.at.timestamp() * 1000))
                for n in lines
            ],
        )
        total = sum(n.amount_fen if n.kind == "payment" else -n.amount_fen for n in lines)
        return MerchantBillView(date=date, lines=len(lines), amount_fen=total)

    async def reconcile(self, call: Call[None, None]) -> ReconciliationView:
        date = _date(call.path["date"])
        starts_ms, ends_ms = books.day_bounds_ms(date, self._context.hospital(call).zone)
        async with self._context.store.read(call.hospital_id) as tx:
            merchant = await books.merchant_entries(tx, date)
            ours = await books.our_entries(tx, starts_ms, ends_ms)
        if merchant is None:
            raise ApiProblem("reconciliation_unknown", f"No merchant bill was sent for {date}.")
        his = await self._statement(call.hospital_id, date)
        return ReconciliationView(
            date=date,
            merchant_lines=len(merchant),
            our_lines=len(ours),
            his_lines=None if his is None else len(his),
            differences=[
                Difference(
                    kind=d.kind,
                    channel=d.channel,
                    trade_no=d.trade_no,
                    merchant_fen=d.merchant_fen,
                    ours_fen=d.ours_fen,
                    his_fen=d.his_fen,
                )
                for d in books.compare(merchant, ours, his)
            ],
        )

    async def _statement(self, hospital_id: str, date: dt.date) -> list[books.Entry] | None:
        try:
            return books.his_entries(await self._context.live.statement(hospital_id, date))
        except LiveFailed as e:
            if e.code == "not_offered_by_hospital":
                return None
            raise


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
        Route("GET", of + "/reconciliations/{date}", handlers.reconcile, summary="The three books of a day compared",
              tag="reconciliation", request_class=RequestClass.BULK, response=ReconciliationView, scopes=scopes, path_types=dates,
              errors=("reconciliation_unknown", "his_unavailable", "his_refused", "his_reply_invalid")),
    ]  # fmt: skip
