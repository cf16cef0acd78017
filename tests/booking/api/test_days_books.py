"""The books of a day as the hospital's IT asks for them: bills in and differences out over HTTP, on both engines."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import update

from booking.settings import Hospital
from booking.stops import carry_stop
from booking.store.engine import Store
from booking.store.tables import payments
from mappings.canonical import StatementKind, StatementLine
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.reconcile import Reconciler
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.merchant_files import made
from tests.booking.test_moved import moved, put_next
from tests.booking.world import (
    CLIENT,
    FEE_FEN,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    hold,
    make_hospital,
    make_schedule,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.scheduler_sync.test_reconcile import Till

pytestmark = pytest.mark.usefixtures("engine")
OF = f"/v1/hospitals/{HOSPITAL}"
JSON = {"Content-Type": "application/json"}
DAY, EVE = "2031-03-03", "2031-03-02"
PAID_AT = "2031-03-03T06:00:00+08:00"
Found = tuple[str, str | None, str, int | None, int | None, int | None]
"""kind, channel, trade number, what the merchant, we and the hospital have"""


class Office:
    """Whoever reconciles, and the portal whose money it is."""

    def __init__(self, site: FhirSite, hospital: Hospital, till: Till) -> None:
        self.site, self.hospital, self.till = site, hospital, till

    async def paid(self, channel: str, trade_no: str, patient: Any = ZHANG, **slot: Any) -> str:
        """A booking paid over HTTP and registered; its id."""
        store = self.site.store
        slot_id = await put_slot(store, **slot)
        booking = await hold(store, self.hospital, slot_id, await put_patient(store, patient), client=CLIENT)
        await send_and_answer(store, self.hospital, booking.id)
        body = {"channel": channel, "trade_no": trade_no, "amount_fen": booking.fee_fen, "paid_at": PAID_AT}
        told = await self.site.ask(f"{OF}/bookings/{booking.id}/payments", "POST", body, headers=JSON)
        assert (told.status, told.json["payment_state"]) == (202, "paid")
        await send_and_answer(store, self.hospital, booking.id)
        return booking.id

    async def bill(self, *lines: tuple[str, str, int], day: str = DAY, at: str | None = None) -> Told:
        """Lines of payments: channel, trade number, fen."""
        told = [{"kind": "payment", "channel": c, "trade_no": no, "amount_fen": fen, "at": at} for c, no, fen in lines]
        return await self.site.ask(f"{OF}/merchant-bills/{day}", "PUT", {"lines": told}, headers=JSON)

    async def file(self, data: bytes, source: str, *, day: str = DAY) -> Told:
        headers = {"Content-Type": "application/octet-stream"}
        return await self.site.ask(f"{OF}/merchant-bills/{day}/{source}", "PUT", data, headers=headers)

    def statement(self, *lines: tuple[str | None, str, int]) -> None:
        """What the hospital has booked: its name of the channel, if it has one, the number, fen."""
        self.till.lines = [
            StatementLine(
                kind=StatementKind.PAYMENT if fen > 0 else StatementKind.REFUND,
                amount_fen=abs(fen),
                trade_no=no,
                channel=c,
            )
            for c, no, fen in lines
        ]

    async def differences(self, day: str = DAY) -> list[Found]:
        it = Reconciler(self.site.store, self.hospital, HospitalLink(self.hospital, {"peer": self.till}))
        asked = asyncio.create_task(self.site.ask(f"{OF}/reconciliations/{day}"))
        while not asked.done():
            await it.make_asked()
            await asyncio.sleep(0.01)
        told = asked.result()
        assert told.status == 200, told.body
        names = ("kind", "channel", "trade_no", "merchant_fen", "ours_fen", "his_fen")
        return [tuple(one[name] for name in names) for one in told.json["differences"]]


class DayTill(Till):
    """A HIS that has nothing on the days beside."""

    async def fetch_statement(self, date: dt.date) -> list[StatementLine]:
        return self.lines if date.isoformat() == DAY else []


@pytest.fixture
async def office(store: Store) -> AsyncIterator[Office]:
    hospital = make_hospital()
    async with serve_fhir(store, hospital) as site:
        yield Office(site, hospital, DayTill())


# --- (channel, trade_no) names a payment: two channels may count alike -----------------------------------------------


async def two_paid(office: Office) -> None:
    await office.paid("wechat", "T1")
    await office.paid("unionpay", "T1", LI, slot_id="2", hour=9)


BOTH = (("wechat", "T1", FEE_FEN), ("unionpay", "T1", FEE_FEN))


@pytest.mark.parametrize("words", [("wechat", "unionpay"), ("WX", "UP"), (None, None), ("wechat", None)], ids=str)
async def test_books_agree_when_two_channels_use_one_number(office: Office, words: tuple[str | None, ...]) -> None:
    await two_paid(office)
    await office.bill(*BOTH)
    office.statement(*((word, "T1", FEE_FEN) for word in words))
    assert await office.differences() == []


async def test_money_of_one_channel_does_not_make_up_for_that_of_another(office: Office) -> None:
    """By the number alone the books would agree: both have 3000 under it."""
    await two_paid(office)
    await office.bill(("wechat", "T1", 2 * FEE_FEN))
    office.statement(("wechat", "T1", FEE_FEN), ("unionpay", "T1", FEE_FEN))
    assert await office.differences() == [
        ("short", "unionpay", "T1", None, FEE_FEN, FEE_FEN),
        ("amount", "wechat", "T1", 2 * FEE_FEN, FEE_FEN, FEE_FEN),
    ]


async def test_payment_of_another_channel_at_the_merchant_is_not_ours(office: Office) -> None:
    await office.paid("wechat", "T1")
    await office.bill(("unionpay", "T1", FEE_FEN))
    office.statement(("wechat", "T1", FEE_FEN))
    assert await office.differences() == [
        ("long", "unionpay", "T1", FEE_FEN, None, None),
        ("short", "wechat", "T1", None, FEE_FEN, FEE_FEN),
    ]


@pytest.mark.parametrize("word", ["unionpay", None])
async def test_what_the_hospital_lacks_is_told_of_the_channel_that_it_lacks_it_of(
    office: Office, word: str | None
) -> None:
    """Where it names no channel, its amount tells which of the two it has."""
    await office.paid("wechat", "T1")
    await office.paid("unionpay", "T1", LI, schedule=make_schedule("S2", fee_fen=700), slot_id="2", hour=9)
    await office.bill(("wechat", "T1", FEE_FEN), ("unionpay", "T1", 700))
    office.statement((word, "T1", 700))
    assert await office.differences() == [("his_missing", "wechat", "T1", FEE_FEN, FEE_FEN, None)]


async def test_hospitals_own_word_for_a_channel_is_no_difference(office: Office) -> None:
    await office.paid("wechat", "T1")
    await office.bill(("wechat", "T1", FEE_FEN))
    office.statement(("01", "T1", FEE_FEN))
    assert await office.differences() == []
    office.statement(("01", "T1", FEE_FEN), ("01", "T8", 5), (None, "T8", 6))
    assert await office.differences() == [("his_only", "01", "T8", None, None, 11)]


async def test_other_name_of_ours_for_the_channel_is_another_payment_at_the_hospital(office: Office) -> None:
    await office.paid("wechat", "T1")
    await office.paid("unionpay", "T2", LI, slot_id="2", hour=9)
    await office.bill(("wechat", "T1", FEE_FEN), ("unionpay", "T2", FEE_FEN))
    office.statement(("unionpay", "T1", FEE_FEN), ("unionpay", "T2", FEE_FEN))
    assert await office.differences() == [
        ("his_only", "unionpay", "T1", None, None, FEE_FEN),
        ("his_missing", "wechat", "T1", FEE_FEN, FEE_FEN, None),
    ]


# --- a line of another day than the bill's ---------------------------------------------------------------------------

OTHER_DAYS = ["2031-03-02T23:59:59.999+08:00", "2031-03-04T00:00:00+08:00", "2031-03-03T16:00:00+00:00"]
THE_DAY = ["2031-03-03T00:00:00+08:00", "2031-03-03T23:59:59.999+08:00", "2031-03-02T16:00:00+00:00"]


def plain_of(at: str) -> bytes:
    rows = [
        "kind,channel,trade_no,amount_fen,at,order_no",
        f"payment,unionpay,T1,5,{at},A7",
        f"refund,unionpay,T1,5,{at},",
    ]
    return "\n".join([*rows, "total,,2,0,,"]).encode()


@pytest.mark.parametrize("at", OTHER_DAYS)
async def test_bill_with_a_line_of_another_day_is_refused_whole(office: Office, at: str) -> None:
    told = await office.file(plain_of(at), "unionpay")
    assert (told.status, told.json["code"], told.json["errors"][0]["path"]) == (422, "merchant_bill_invalid", "line 2")
    assert "2031-03-03" in told.json["errors"][0]["expected"]
    told = await office.bill(("unionpay", "T1", 5), ("unionpay", "T2", 5), at=at)
    assert (told.status, told.json["code"], told.json["errors"][0]["path"]) == (422, "invalid_field", "$.lines[0].at")
    absent = await office.site.ask(f"{OF}/reconciliations/{DAY}")
    assert (absent.status, absent.json["code"]) == (404, "reconciliation_unknown")


@pytest.mark.parametrize("at", [*THE_DAY, ""])
async def test_bill_is_taken_when_its_lines_are_of_its_day_or_say_none(office: Office, at: str) -> None:
    """The day is the hospital's own, whatever offset a line has."""
    assert (await office.file(plain_of(at), "unionpay")).status == 200
    assert (await office.bill(("unionpay", "T1", 5), at=at or None)).status == 200


async def test_channels_own_file_of_another_day_is_refused_as_before(office: Office) -> None:
    trades: list[made.Trade] = [("payment", "T1", 5)]
    told = await office.file(made.wechat(trades, lines=[made.wechat_line(trades[0], day=EVE)]), "wechat")
    assert told.json["code"] == "merchant_bill_invalid"


# --- a moved booking whose new session has another fee (改诊) ---------------------------------------------------------


@pytest.mark.parametrize(("new_fen", "booked"), [(2300, 2300), (900, 900), (2300, 800), (900, -600)])
async def test_fee_of_the_new_session_is_told_as_what_it_is(office: Office, new_fen: int, booked: int) -> None:
    """The hospital's statement has the new fee under the payment, or on another day only what it books on top, or gives back."""
    await office.paid("wechat", "T1")
    await put_next(office.site.store, fee_fen=new_fen)
    await _move(office)
    on_top = booked != new_fen
    if on_top:
        await office.bill(
            ("wechat", "T9", 5), day=DAY
        )  # T1 was paid on a day before: neither merchant nor we have it here
        await _paid_on_another_day(office)
    else:
        await office.bill(("wechat", "T1", FEE_FEN))
    office.statement(("WX", "T1", booked), *([("WX", "T9", 5)] if on_top else []))
    found = [one for one in await office.differences() if one[2] == "T1"]
    channel = "WX" if on_top else "wechat"
    ours = None if on_top else FEE_FEN
    assert found == [("moved_fee", channel, "T1", ours, ours, booked)]


@pytest.mark.parametrize("his_fen", [2299, 2301, 1499, 1])
async def test_another_amount_than_the_new_fee_stays_a_difference_of_amounts(office: Office, his_fen: int) -> None:
    await office.paid("wechat", "T1")
    await put_next(office.site.store, fee_fen=2300)
    await _move(office)
    await office.bill(("wechat", "T1", FEE_FEN))
    office.statement(("wechat", "T1", his_fen))
    assert await office.differences() == [("amount", "wechat", "T1", FEE_FEN, FEE_FEN, his_fen)]


async def test_fee_of_a_session_that_nobody_was_moved_to_explains_nothing(office: Office) -> None:
    await office.paid("wechat", "T1", WANG)
    await put_next(office.site.store, fee_fen=2300)
    await office.bill(("wechat", "T1", FEE_FEN))
    office.statement(("wechat", "T1", 2300))
    assert await office.differences() == [("amount", "wechat", "T1", FEE_FEN, FEE_FEN, 2300)]


async def _move(office: Office) -> None:
    assert await carry_stop(office.site.store, office.hospital, moved(date=dt.date(2031, 3, 5))) == 1


async def _paid_on_another_day(office: Office) -> None:
    async with office.site.store.write(HOSPITAL) as tx:
        earlier = payments.c.paid_at_ms - 5 * 86_400_000
        await tx.run(update(payments).where(payments.c.trade_no == "T1").values(paid_at_ms=earlier))
