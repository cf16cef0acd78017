"""A day's books as they are read from the store: what is explained, what is not, and what is nobody's business."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import insert, update

from booking.asking_again import MOST_ASKED, Question
from booking.comparing import Compared, compare_day
from booking.merchant_bills import put_bill_file, put_merchant_bill
from booking.merchant_files.lines import BillLine
from booking.merchant_filter import MerchantFilter, filter_problems, is_ours
from booking.money import find_payment, owe_refund, record_payment, refund_id
from booking.reconciled import fail_run, finish_run, forget_reconciliations, load_run, next_asked, page_of
from booking.reconciliation import Mismatch
from booking.reopening import ask_run
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import payments, refunds
from mappings.canonical import Payment, StatementKind, StatementLine
from tests.booking.world import HOSPITAL, ZONE

DAY = dt.date(2031, 3, 3)
NEXT = DAY + dt.timedelta(days=1)
Line = tuple[str, str, int]
"""(payment or refund, trade number, fen)"""


def at(clock: str, day: dt.date = DAY) -> dt.datetime:
    return dt.datetime.combine(day, dt.time.fromisoformat(clock), ZONE)


def statement_lines(*lines: Line) -> list[StatementLine]:
    return [
        StatementLine(kind=StatementKind(kind), amount_fen=fen, trade_no=no, channel="wechat")
        for kind, no, fen in lines
    ]


class World:
    """The three books."""

    def __init__(self, store: Store, hospital: Hospital) -> None:
        self.store, self.hospital = store, hospital
        self.his: dict[dt.date, list[StatementLine]] | None = {}
        self.later: dict[dt.date, list[StatementLine]] = {}  # what the statement says when it is asked for again
        self.read: list[dt.date] = []
        self.has: set[Question] = set()
        self.asked: list[Question] = []

    async def bill(self, *lines: Line, day: dt.date = DAY, source: str = "lines") -> None:
        rows = [(kind, "wechat", no, fen, None) for kind, no, fen in lines]
        await put_merchant_bill(self.store, HOSPITAL, day, rows, source=source)

    async def paid(
        self, trade_no: str, fen: int, paid_at: dt.datetime | None = None, refund: str | None = None, on: dt.date = DAY
    ) -> None:
        """`refund`: it falls due, and comes to this status at noon of that day."""
        payment = Payment(channel="wechat", trade_no=trade_no, amount_fen=fen, paid_at=paid_at or at("10:00"))
        async with self.store.write(HOSPITAL) as tx:
            row = await record_payment(tx, payment, client_id="c", bill_id=f"b{trade_no}", unusable=None)
            if refund is not None:
                await owe_refund(tx, row, client_id="c", reason="patient")
                noon = round(at("12:00", on).timestamp() * 1000)
                await tx.run(
                    update(refunds).where(refunds.c.trade_no == trade_no).values(status=refund, updated_ms=noon)
                )

    def statement(self, *lines: Line, day: dt.date = DAY) -> None:
        assert self.his is not None
        self.his[day] = statement_lines(*lines)

    async def compare(self, day: dt.date = DAY) -> Compared | None:
        async def statement(date: dt.date) -> Sequence[StatementLine] | None:
            again = date in self.read
            self.read.append(date)
            if again and date in self.later:
                return self.later[date]
            return None if self.his is None else self.his.get(date, [])

        async def ask_again(question: Question) -> bool:
            self.asked.append(question)
            return question in self.has

        return await compare_day(self.store, self.hospital, day, statement=statement, ask_again=ask_again)

    async def kinds(self, day: dt.date = DAY) -> dict[str, str]:
        found = await self.compare(day)
        assert found is not None
        return {one.trade_no: one.kind for one in found.differences}


@pytest.fixture
def world(store: Store, hospital: Hospital) -> World:
    return World(store, hospital)


async def test_nothing_is_compared_when_no_bill_was_sent(world: World) -> None:
    await world.paid("T1", 5)
    assert await world.compare() is None


async def test_lines_are_counted_when_the_books_agree(world: World) -> None:
    await world.paid("T1", 1500)
    await world.paid("T2", 700, refund="refunded")
    await world.bill(("payment", "T1", 1500), ("payment", "T2", 700), ("refund", "T2", 700))
    world.statement(("payment", "T1", 1500))  # refunded on the same day, T2 never showed at the hospital
    assert await world.compare() == Compared(merchant_lines=3, our_lines=3, his_lines=1, differences=[])
    world.his = None
    assert await world.compare() == Compared(merchant_lines=3, our_lines=3, his_lines=None, differences=[])


async def test_bill_is_all_its_sources_when_they_are_several(world: World) -> None:
    world.his = None
    await world.bill(("payment", "T1", 5), source="wechat")
    await world.bill(("payment", "T2", 5), source="alipay")
    assert await world.kinds() == {"T1": "long", "T2": "long"}
    await world.bill(source="wechat")
    assert await world.kinds() == {"T2": "long"}


@pytest.mark.parametrize("status", ["refund_due", "refunding", "refund_unknown", "refund_failed"])
async def test_status_differs_when_a_refund_is_done_at_one_side_alone(world: World, status: str) -> None:
    world.his = None
    await world.paid("T1", 1500, refund=status)
    await world.bill(("payment", "T1", 1500), ("refund", "T1", 1500))
    assert await world.kinds() == {"T1": "status"}


BEFORE, LATER = DAY - dt.timedelta(days=1), DAY + dt.timedelta(days=3)
RETURNED = [
    # what happened; when it was paid; the refund: its status and when it came to it; the HIS took it, and took it back, on these
    # days; what is found on the day and on the next one: (kind) or None
    ("it is due, and the HIS never took what cannot be used", DAY, ("refund_due", DAY), None, None, "status", None),
    ("the HIS took it back, and it is on its way", DAY, ("refund_unknown", NEXT), DAY, DAY, "status", None),
    ("the HIS took it back, and it came the next day", DAY, ("refunded", NEXT), DAY, DAY, "timing", "timing"),
    ("the HIS took it back the next day, and it came then", DAY, ("refunded", NEXT), DAY, NEXT, None, None),
    ("the HIS took it back the next day, and it is due", DAY, ("refund_due", NEXT), DAY, NEXT, None, "status"),
    ("the HIS took it back, and it came days later", DAY, ("refunded", LATER), DAY, DAY, "timing", None),
    ("the HIS took today's back that was paid yesterday", BEFORE, ("refunded", NEXT), BEFORE, DAY, "timing", "timing"),
    ("it came the next day, and the HIS still has it", DAY, ("refunded", NEXT), DAY, None, None, "his_missing"),
]


@pytest.mark.parametrize(
    ("paid", "refund", "took", "gave", "kind", "kind_next"), [r[1:] for r in RETURNED], ids=[r[0] for r in RETURNED]
)
async def test_hospital_lacks_nothing_when_it_took_back_what_is_returned_later(
    world: World, paid: dt.date, refund: tuple[str, dt.date], took: dt.date | None, gave: dt.date | None,
    kind: str | None, kind_next: str | None,
) -> None:  # fmt: skip
    status, on = refund
    await world.paid("T1", 1500, at("10:00", paid), refund=status, on=on)
    for day in (BEFORE, DAY, NEXT):
        back = status == "refunded" and on == day
        bill: list[Line] = [("payment", "T1", 1500)] * (paid == day) + [("refund", "T1", 1500)] * back
        await world.bill(*bill, day=day)
        world.statement(*[("payment", "T1", 1500)] * (took == day), *[("refund", "T1", 1500)] * (gave == day), day=day)
    assert (await world.kinds()).get("T1") == kind
    assert (await world.kinds(NEXT)).get("T1") == kind_next


async def test_status_differs_when_the_channel_could_not_return_it(world: World) -> None:
    world.his = None
    await world.paid("T1", 1500, refund="refunded")
    lines = [
        BillLine("payment", "wechat", "T1", 1500, None),
        BillLine("refund", "wechat", "T1", 1500, None, status="failed"),
    ]
    told = await put_bill_file(world.store, HOSPITAL, DAY, iter([(line, False) for line in lines]), source="wechat")
    assert told == (2, 0, 1500)
    assert await world.kinds() == {"T1": "status"}


@pytest.mark.parametrize(
    ("ours", "merchant", "his"),
    [("23:59:58", NEXT, DAY), ("23:59:58", DAY, NEXT), ("00:00:01", DAY, DAY), ("00:00:01", DAY, NEXT)],
)
async def test_timing_is_told_when_money_went_over_midnight(
    world: World, ours: str, merchant: dt.date, his: dt.date
) -> None:
    await world.paid("T1", 1500, at(ours, DAY if ours.startswith("23") else NEXT))
    for day in (DAY, NEXT):
        await world.bill(*([("payment", "T1", 1500)] if day == merchant else []), day=day)
    world.statement(("payment", "T1", 1500), day=his)
    assert await world.kinds(DAY) == {"T1": "timing"}
    assert await world.kinds(NEXT) == {"T1": "timing"}  # the other half
    assert world.asked == []


async def test_difference_stays_when_the_neighbouring_day_has_another_amount(world: World) -> None:
    world.his = None
    await world.paid("T1", 1400, at("00:00:01", NEXT))
    await world.bill(("payment", "T1", 1500))
    assert await world.kinds() == {"T1": "long"}


async def test_hospital_is_asked_by_the_payment_before_it_is_said_to_lack_it(world: World) -> None:
    for n in range(1, 4):
        await world.paid(f"T{n}", n)
    await world.bill(*(("payment", f"T{n}", n) for n in range(1, 4)))
    world.statement(("payment", "T3", 3))
    world.has = {Question(bill_id="bT1")}
    assert await world.kinds() == {"T2": "his_missing"}
    assert world.asked == [Question(bill_id="bT1"), Question(bill_id="bT2")]


REFUND = Question(refund_id=refund_id(HOSPITAL, "wechat", "T1"))
PAYMENT, OF_AMOUNT = Question(bill_id="bT1"), Question(bill_id="bT1", amount_fen=1500)
# our refund, the merchant's lines, those of the statement; its answer when asked again, what is then asked; kinds if no, if yes
AGAIN: list[tuple[str, str | None, list[int], list[int], list[int] | None, list[Question], str | None, str | None]] = [
    ("payment is missing", None, [1500], [], None, [PAYMENT], "his_missing", None),
    ("payment has come meanwhile", None, [1500], [], [1500], [], None, None),
    ("refund is missing", "refunded", [1500, -1500], [1500], None, [REFUND], "his_only", None),
    ("refund has come meanwhile", "refunded", [1500, -1500], [1500], [1500, -1500], [], None, None),
    ("another amount", None, [1500], [1499], None, [OF_AMOUNT], "amount", None),
    ("another amount, put right meanwhile", None, [1500], [1499], [1500], [], None, None),
    ("another amount, missing now", None, [1500], [1499], [], [PAYMENT], "his_missing", None),
    ("missing, another amount now", None, [1500], [], [1501], [OF_AMOUNT], "amount", None),
    ("merchant has another amount", None, [1499], [1500], [1499], [], "amount", "amount"),
    ("merchant has none of it", None, [], [1500], None, [], "short", "short"),
    ("refund under way", "refunding", [1500, -1500], [1500], [1500, -1500], [], "status", "status"),
]


@pytest.mark.parametrize("case", AGAIN, ids=[case[0] for case in AGAIN])
@pytest.mark.parametrize("confirmed", [False, True], ids=["denied", "confirmed"])
async def test_difference_is_reported_when_the_hospital_asked_again_still_says_so(
    world: World, case: Any, confirmed: bool
) -> None:
    _, refund, merchant, his, again, asked, denied, settled = case

    def lines(amounts: list[int]) -> list[Line]:
        return [("payment" if fen > 0 else "refund", "T1", abs(fen)) for fen in amounts]

    await world.paid("T1", 1500, refund=refund)
    await world.bill(*lines(merchant))
    world.statement(*lines(his))
    if again is not None:
        world.later[DAY] = statement_lines(*lines(again))
    world.has = set(asked) if confirmed else set()
    kind = settled if confirmed else denied
    assert await world.kinds() == ({} if kind is None else {"T1": kind})
    assert world.asked == asked
    assert world.read.count(DAY) == 2


async def test_parts_that_went_back_are_each_asked_for_and_all_must_be_there(world: World) -> None:
    await world.paid("T1", 1500)
    async with world.store.write(HOSPITAL) as tx:
        payment = await find_payment(tx, "wechat", "T1")
        assert payment is not None
        ids = [
            await owe_refund(tx, payment, client_id="c", reason="r", amount_fen=fen, part=str(fen))
            for fen in (200, 300)
        ]
        noon = round(at("12:00").timestamp() * 1000)
        await tx.run(update(refunds).values(status="refunded", updated_ms=noon))
    await world.bill(("payment", "T1", 1500), ("refund", "T1", 200), ("refund", "T1", 300))
    world.statement(("payment", "T1", 1500))
    both = [Question(refund_id=one) for one in ids]
    world.has = {both[0]}
    assert await world.kinds() == {"T1": "amount"}
    assert world.asked == both
    world.has = set(both)
    assert await world.kinds() == {}
    world.statement(("payment", "T1", 1500), ("refund", "T1", 300))
    world.has, world.asked = {both[0]}, []
    assert await world.kinds() == {}
    assert world.asked == [both[0]]  # the one that is missing


async def test_no_more_is_asked_than_the_hospital_can_bear(world: World) -> None:
    count = MOST_ASKED + 3
    for n in range(count):
        await world.paid(f"T{n:03}", 5)
    await world.bill(*(("payment", f"T{n:03}", 5) for n in range(count)))
    world.statement()
    world.has = {Question(bill_id=f"bT{n:03}") for n in range(count)}
    assert sorted(await world.kinds()) == [f"T{n:03}" for n in range(MOST_ASKED, count)]
    assert (len(world.asked), world.read.count(DAY)) == (MOST_ASKED, 2)


# when it was paid here, on which days merchant and hospital have it, and of what amount; the kind on DAY
EDGES: list[tuple[str, dt.date, dt.date, int, str | None]] = [
    ("2031-03-03T23:59:59.999", DAY, DAY, 1500, None),
    ("2031-03-04T00:00:00.000", DAY, DAY, 1500, "timing"),
    ("2031-03-03T00:00:00.000", DAY, DAY, 1500, None),
    ("2031-03-02T23:59:59.999", DAY, DAY, 1500, "timing"),
    ("2031-03-04T01:59:59.999", DAY, DAY, 1500, "timing"),
    ("2031-03-04T02:00:00.000", DAY, DAY, 1500, "long"),
    ("2031-03-02T22:00:00.000", DAY, DAY, 1500, "timing"),
    ("2031-03-02T21:59:59.999", DAY, DAY, 1500, "long"),
    ("2031-03-04T00:00:00.000", DAY, DAY, 1499, "long"),
    ("2031-03-04T00:00:00.000", DAY, DAY, 1501, "long"),
    ("2031-03-03T23:59:59.999", NEXT, NEXT, 1500, "timing"),
    ("2031-03-03T23:59:59.999", NEXT, NEXT, 1499, "short"),
    ("2031-03-04T00:00:00.000", NEXT, NEXT, 1500, None),
]


@pytest.mark.parametrize(("paid_at", "merchant", "his", "fen", "kind"), EDGES)
async def test_midnight_parts_the_days_to_the_millisecond_and_the_fen(
    world: World, paid_at: str, merchant: dt.date, his: dt.date, fen: int, kind: str | None
) -> None:
    await world.paid("T1", 1500, dt.datetime.fromisoformat(paid_at).replace(tzinfo=ZONE))
    await world.bill(*([("payment", "T1", fen)] if merchant == DAY else []))
    await world.bill(*([("payment", "T1", fen)] if merchant == NEXT else []), day=NEXT)
    world.statement(("payment", "T1", fen), day=his)
    assert await world.kinds() == ({} if kind is None else {"T1": kind})


async def test_others_business_is_left_out_when_the_number_is_shared(world: World) -> None:
    world.his = None
    await world.paid("T3", 5)
    lines = [BillLine("payment", "wechat", f"T{n}", 5, None, order_no="SHOP") for n in range(1, 4)]
    told = await put_bill_file(world.store, HOSPITAL, DAY, iter([(line, True) for line in lines]), source="wechat")
    assert told == (3, 3, 0)
    found = await world.compare()
    # T3 is ours whatever its order number says: it is in our book.
    assert found == Compared(merchant_lines=0, our_lines=1, his_lines=None, differences=[])


FILTERS: list[tuple[dict[str, Any], dict[str, str], bool]] = [
    ({}, {}, True),
    ({"order_no": "HB[0-9]{3}"}, {"order_no": "HB123"}, True),
    ({"order_no": "HB[0-9]{3}"}, {"order_no": "XHB123"}, False),
    ({"order_no_prefixes": ("A", "HB")}, {"order_no": "HB"}, True),
    ({"order_no_prefixes": ("A", "HB")}, {"order_no": "B"}, False),
    ({"terminals": ("T7",)}, {"terminal": "T7"}, True),
    ({"terminals": ("T7",)}, {"terminal": "T70"}, False),
    ({"products": ("挂号",)}, {"product": "挂号费"}, True),
    ({"products": ("挂号",)}, {"product": "停车费"}, False),
    ({"terminals": ("T7",), "products": ("挂号",)}, {"product": "挂号费"}, True),
]


@pytest.mark.parametrize(("rule", "line", "ours"), FILTERS, ids=str)
def test_line_is_ours_when_the_filter_says_so(rule: dict[str, Any], line: dict[str, str], ours: bool) -> None:
    assert is_ours(MerchantFilter(**rule))(BillLine("payment", "wechat", "T1", 5, None, **line)) is ours


@pytest.mark.parametrize(
    ("source", "problem"), [("HB[0-9]+", None), ("HB[", "not a regular"), ("(a+)+", "for ever"), (r"(a)\1", "for ever")]
)
def test_expression_is_refused_when_it_could_take_for_ever(source: str, problem: str | None) -> None:
    found = list(filter_problems(MerchantFilter(order_no=source)))
    assert [key for key, _ in found] == ([] if problem is None else ["order_no"])
    assert all(problem is not None and problem in text for _, text in found)


async def test_every_page_is_read_once_when_many_rows_have_one_instant(world: World) -> None:
    """Also what lies within one millisecond is not lost between two pages."""
    world.his = None
    paid_at_ms = round(at("10:00").timestamp() * 1000)
    rows = [
        {
            "hospital_id": HOSPITAL, "channel": "wechat", "trade_no": f"T{n:05}", "client_id": "c", "bill_id": f"b{n}",
            "amount_fen": 5, "paid_at_ms": paid_at_ms + n // 2_000, "kept": True, "settlement": "pending", "created_ms": 1,
        }
        for n in range(2_500)
    ]  # fmt: skip
    async with world.store.write(HOSPITAL) as tx:
        await tx.run(insert(payments), rows)
    await world.bill(*(("payment", f"T{n:05}", 5) for n in range(2_500)))
    assert await world.compare() == Compared(merchant_lines=2_500, our_lines=2_500, his_lines=None, differences=[])


async def test_runs_are_kept_and_read_in_pages_until_their_days_are_over(store: Store) -> None:
    found = [
        Mismatch(kind="long", trade_no=f"T{n:04}", channel=None, merchant_fen=n, ours_fen=None, his_fen=None)
        for n in range(1_200)
    ]
    compared = Compared(merchant_lines=1_200, our_lines=0, his_lines=None, differences=found)
    for run in range(1, 4):
        async with store.write(HOSPITAL) as tx:
            assert [await ask_run(tx, DAY) for _ in range(2)] == [run, run]
            asked = await next_asked(tx)
        assert asked is not None
        assert (asked.date, asked.run, asked.done_ms) == (DAY.isoformat(), run, None)
        if run == 2:
            await fail_run(store, HOSPITAL, asked.date, run, "his_unavailable")
        else:
            for _ in range(2):  # as by a process that broke off, and the next one
                await finish_run(store, HOSPITAL, asked.date, run, compared)
    async with store.read(HOSPITAL) as tx:
        assert await next_asked(tx) is None
        kept = [await load_run(tx, DAY, run) for run in range(1, 4)]
        assert kept[0] is None  # two are enough
        assert kept[1] is not None
        assert kept[2] is not None
        assert (kept[1].failed, kept[2].failed, kept[2].differences) == ("his_unavailable", None, 1_200)
        first = await page_of(tx, kept[2], limit=700)
        rest = await page_of(tx, kept[2], after=first[-1][0], limit=700)
    assert [one for _, one in [*first, *rest]] == found
    assert await forget_reconciliations(store, HOSPITAL, before=DAY) == 0
    gone = 0
    while n := await forget_reconciliations(store, HOSPITAL, before=NEXT):
        gone += n
    assert gone == 1_202
