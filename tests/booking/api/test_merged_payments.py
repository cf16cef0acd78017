"""合并支付: one payment of the channel's for several bills, as a portal reports it and gives it back. On both engines."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.asking_again import Question
from booking.billing import load_bill, put_bill, settle_payment
from booking.comparing import Compared, compare_day
from booking.ledger import balances, imbalances
from booking.people import link_person, own_patient
from booking.store.engine import Store
from booking.store.tables import events, outbox, payments, refunds
from mappings.canonical import Bill, BillStatus, Settlement, StatementKind, StatementLine
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.merchant_files import made
from tests.booking.world import CLIENT, HOSPITAL, ZHANG, make_hospital, put_patient

pytestmark = pytest.mark.usefixtures("engine")
OF = f"/v1/hospitals/{HOSPITAL}"
JSON = {"Content-Type": "application/json"}
DAY = dt.date(2031, 3, 3)
OWED = {"B1": 8800, "B2": 1, "B3": 3199}  # 12000 in all


class Cashier:
    """A patient of two portals with three bills at the cashier's."""

    def __init__(self, site: FhirSite, patients: dict[str, str], ids: dict[str, str]) -> None:
        self.site, self.patients, self.ids = site, patients, ids

    def path(self, name: str, more: str = "", *, by: str = CLIENT) -> str:
        return f"{OF}/patients/{self.patients[by]}/bills/{self.ids[name]}{more}"

    async def pay(self, owed: dict[str, Any] = OWED, *, by: str = CLIENT, trade_no: str = "T1", **changes: Any) -> Told:
        money = {"channel": "wechat", "trade_no": trade_no, "paid_at": "2031-03-03T06:00:00+08:00"}
        bills = [{"bill_id": self.ids.get(name, name), "amount_fen": fen} for name, fen in owed.items()]
        body = {**money, "amount_fen": sum(owed.values()), "bills": bills, **changes}
        return await self.site.ask(
            f"{OF}/patients/{self.patients[by]}/bill-payments", "POST", body, by=by, headers=JSON
        )

    async def pay_one(self, name: str, amount_fen: int, *, by: str = CLIENT, trade_no: str = "T1") -> Told:
        body = {
            "channel": "wechat",
            "trade_no": trade_no,
            "amount_fen": amount_fen,
            "paid_at": "2031-03-03T06:00:00+08:00",
        }
        return await self.site.ask(self.path(name, "/payments", by=by), "POST", body, by=by, headers=JSON)

    async def settled(self, name: str, code: str | None = None) -> None:
        async with self.site.store.write(HOSPITAL) as tx:
            bill = await load_bill(tx, self.ids[name])
            assert bill is not None
            await tx.run(outbox.update().where(outbox.c.line == bill.line).values(status="done"))
            await settle_payment(tx, bill, accepted=code is None, settlement=None, client_id=CLIENT, code=code)

    async def give_back(self, name: str, amount_fen: int, key: str) -> Told:
        body = {"amount_fen": amount_fen, "reason": "退一项"}
        return await self.site.ask(
            self.path(name, "/refunds"), "POST", body, headers=JSON | {"Idempotency-Key": f'"{key}"'}
        )

    async def returned(self, refund_id: str) -> dict[str, Any]:
        told = await self.site.ask(f"{OF}/refunds/{refund_id}/result", "POST", {"status": "refunded"}, headers=JSON)
        return dict(told.json)

    async def see(self, name: str) -> dict[str, Any]:
        return dict((await self.site.ask(self.path(name))).json)

    async def recorded(self) -> list[tuple[str, str, int]]:
        """(client, trade number, amount) of what is recorded, which the ledger bears out to the fen."""
        assert [one async for one in imbalances(self.site.store, HOSPITAL)] == []
        async with self.site.store.read(HOSPITAL) as tx:
            rows = await tx.all(select(payments))
        return sorted((row["client_id"], row["trade_no"], row["amount_fen"]) for row in rows)

    async def accounts(self) -> dict[str, int]:
        async with self.site.store.read(HOSPITAL) as tx:
            return {one.account: one.amount_fen for one in await balances(tx)}


@pytest.fixture
async def cashier(store: Store) -> AsyncIterator[Cashier]:
    patients = {by: await put_patient(store, ZHANG, client=by) for by in (CLIENT, "another")}
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patients[CLIENT])
        await link_person(tx, person, msgspec.structs.replace(person.record, mrn="M1"))
        ids = {}
        for name, fen in OWED.items():
            ids[name] = (await put_bill(tx, Bill(id=name, amount_fen=fen, currency="CNY", mrn="M1"), currency="CNY")).id
        somebody = Bill(id="X", amount_fen=100, currency="CNY", mrn="M2")
        ids["somebody's"] = (await put_bill(tx, somebody, currency="CNY")).id
    async with serve_fhir(store, make_hospital(portal_refunds=True)) as site:
        yield Cashier(site, patients, ids)


WHOLE = [(CLIENT, "T1", 1), (CLIENT, "T1", 3199), (CLIENT, "T1", 8800)]


async def test_each_bill_is_settled_by_itself_with_its_piece_of_one_payment(cashier: Cashier) -> None:
    told = await cashier.pay()
    assert told.status == 202, told.body
    assert {name: told.json[name] for name in ("channel", "trade_no", "amount_fen")} == {
        "channel": "wechat", "trade_no": "T1", "amount_fen": 12000,
    }  # fmt: skip
    assert [(bill["id"], bill["settlement"], bill["payments"][0]["amount_fen"]) for bill in told.json["bills"]] == [
        (cashier.ids["B1"], "pending", 8800), (cashier.ids["B2"], "pending", 1), (cashier.ids["B3"], "pending", 3199),
    ]  # fmt: skip
    async with cashier.site.store.read(HOSPITAL) as tx:
        sent = await tx.all(select(outbox.c.line, outbox.c.verb).where(outbox.c.verb == "settle_bill"))
    assert {row["line"] for row in sent} == {f"bill:{cashier.ids[name]}" for name in OWED}
    assert len(sent) == 3
    await cashier.settled("B1")
    assert [(await cashier.see(name))["settlement"] for name in OWED] == ["settled", "pending", "pending"]
    waiting = (await cashier.site.ask(f"{OF}/unsettled-payments")).json["items"]
    assert {(one["bill_id"], one["trade_no"], one["amount_fen"]) for one in waiting} == {
        (cashier.ids["B2"], "T1", 1), (cashier.ids["B3"], "T1", 3199),
    }  # fmt: skip
    assert await cashier.recorded() == WHOLE
    assert await cashier.accounts() == {"merchant_clearing": 12000, "receipts": 3200, "his_settlement": 8800}


async def test_same_report_is_the_same_payment_in_whatever_order_the_bills_are_named(cashier: Cashier) -> None:
    first = await cashier.pay()
    await cashier.settled("B3")
    again = await cashier.pay(dict(reversed(OWED.items())), paid_at="2031-03-03T06:00:01+08:00")
    assert (first.status, again.status) == (202, 202)
    assert [bill["settlement"] for bill in again.json["bills"]] == ["settled", "pending", "pending"]
    assert await cashier.recorded() == WHOLE


TOO_MANY = {f"bl_{n}": 1 for n in range(21)}


@pytest.mark.parametrize(
    ("owed", "changes", "code"),
    [
        (OWED, {"amount_fen": 11999}, "invalid_field"),
        (OWED, {"amount_fen": 12001}, "invalid_field"),
        (OWED, {"amount_fen": 0}, "invalid_field"),
        ({}, {"amount_fen": 1}, "invalid_field"),
        ({"B1": 8800, "B2": 0}, {}, "invalid_field"),
        ({"B1": 8801, "B2": -1}, {}, "invalid_field"),
        ({"B1": 2**53, "B2": 1}, {}, "invalid_field"),
        ({"B1": 100_000_000, "B2": 1}, {}, "invalid_field"),  # one payment is 1,000,000 yuan at the most
        (TOO_MANY, {}, "invalid_field"),
        ({**OWED, "bl_unknown": 1}, {}, "bill_unknown"),
        ({**OWED, "somebody's": 100}, {}, "bill_unknown"),
    ],
)
async def test_nothing_is_recorded_when_one_piece_cannot_be(
    cashier: Cashier, owed: dict[str, int], changes: dict[str, Any], code: str
) -> None:
    told = await cashier.pay(owed, **changes)
    assert (told.json["code"], await cashier.recorded()) == (code, [])
    assert (await cashier.pay()).status == 202  # and the number is free


async def test_bill_that_is_named_twice_is_refused(cashier: Cashier) -> None:
    piece = {"bill_id": cashier.ids["B1"], "amount_fen": 4400}
    assert (await cashier.pay({"B1": 8800}, bills=[piece, piece])).json["code"] == "invalid_field"
    assert await cashier.recorded() == []


MORE, OTHER_SPLIT = {**OWED, "B1": 8801}, {"B1": 8799, "B2": 2, "B3": 3199}
CONFLICTS = [
    ("fewer bills", {"B1": 8800, "B2": 1}, CLIENT, "payment_conflict"),
    ("another amount", MORE, CLIENT, "payment_conflict"),
    ("the same sum, split otherwise", OTHER_SPLIT, CLIENT, "payment_conflict"),
    ("another portal, the same", OWED, "another", "payment_of_another_portal"),
    ("another portal, another amount", MORE, "another", "payment_of_another_portal"),
]


@pytest.mark.parametrize(("of", "owed", "by", "code"), CONFLICTS, ids=[case[0] for case in CONFLICTS])
async def test_first_report_of_a_number_stands_against_another(
    cashier: Cashier, of: str, owed: dict[str, int], by: str, code: str
) -> None:
    await cashier.pay()
    assert (await cashier.pay(owed, by=by)).json["code"] == code
    assert await cashier.recorded() == WHOLE


@pytest.mark.parametrize(("by", "code"), [(CLIENT, "payment_conflict"), ("another", "payment_of_another_portal")])
async def test_number_of_one_bill_and_of_several_are_not_mixed(cashier: Cashier, by: str, code: str) -> None:
    await cashier.pay()
    assert (await cashier.pay_one("B1", 8800, by=by)).json["code"] == code
    assert (await cashier.pay_one("B1", 12000, by=by)).json["code"] == code
    await cashier.pay_one("B1", 8800, trade_no="T2")
    assert (await cashier.pay(by=by, trade_no="T2")).json["code"] == code
    assert len(await cashier.recorded()) == 4


async def test_payment_for_one_bill_is_the_same_by_either_address(cashier: Cashier) -> None:
    assert (await cashier.pay({"B1": 8800})).status == 202
    told = await cashier.pay_one("B1", 8800)
    assert (told.status, [p["trade_no"] for p in told.json["payments"]]) == (202, ["T1"])
    assert await cashier.recorded() == [(CLIENT, "T1", 8800)]


async def test_piece_that_cannot_pay_goes_back_and_the_others_stand(cashier: Cashier) -> None:
    """B1 was paid at the window meanwhile, B2 is over another amount."""
    async with cashier.site.store.write(HOSPITAL) as tx:
        paid = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1", status=BillStatus.PAID)
        await put_bill(tx, paid, currency="CNY")
    told = await cashier.pay({"B1": 8800, "B2": 2, "B3": 3199})
    shown = [[(p["unusable"], p["settlement"]) for p in bill["payments"]] for bill in told.json["bills"]]
    assert shown == [[("bill_paid", "none")], [("wrong_amount", "none")], [(None, "pending")]]
    owed = [[(r["amount_fen"], r["reason"], r["status"]) for r in bill["refunds"]] for bill in told.json["bills"]]
    assert owed == [[(8800, "bill_paid", "refund_due")], [(2, "wrong_amount", "refund_due")], []]
    await cashier.settled("B3")
    assert (await cashier.pay_one("B2", 1, trade_no="T2")).json["payments"][1]["unusable"] is None
    assert await cashier.recorded() == [
        (CLIENT, "T1", 2),
        (CLIENT, "T1", 3199),
        (CLIENT, "T1", 8800),
        (CLIENT, "T2", 1),
    ]
    assert await cashier.accounts() == {
        "merchant_clearing": 12002, "receipts": 1, "his_settlement": 3199, "refunds_payable": 8802,
    }  # fmt: skip


async def test_piece_is_the_patient_s_share_while_the_insurance_pays_the_rest(cashier: Cashier) -> None:
    cashier.site.ward.presettled = Settlement(amount_fen=1000, fund_fen=7800)
    await cashier.site.ask(cashier.path("B1", "/presettlement"), "POST")
    told = await cashier.pay({"B1": 1000, "B3": 3199})
    assert [[p["unusable"] for p in bill["payments"]] for bill in told.json["bills"]] == [[None], [None]]
    whole = await cashier.pay({"B1": 8800, "B2": 1}, trade_no="T2")  # B1 is on its way, and over another amount now
    assert [[p["unusable"] for p in bill["payments"]] for bill in whole.json["bills"]] == [
        [None, "second_payment"], [None],
    ]  # fmt: skip
    assert await cashier.recorded() == [
        (CLIENT, "T1", 1000), (CLIENT, "T1", 3199), (CLIENT, "T2", 1), (CLIENT, "T2", 8800),
    ]  # fmt: skip


async def test_refused_settlement_returns_its_piece_and_no_other(cashier: Cashier) -> None:
    await cashier.pay()
    for name, code in (("B1", None), ("B2", "busy_till"), ("B3", None)):
        await cashier.settled(name, code)
    seen = [await cashier.see(name) for name in OWED]
    assert [bill["settlement"] for bill in seen] == ["settled", "rejected", "settled"]
    assert [[r["amount_fen"] for r in bill["refunds"]] for bill in seen] == [[], [1], []]
    done = await cashier.returned(seen[1]["refunds"][0]["id"])
    assert (done["status"], done["his"]) == ("refunded", "none")  # the hospital never had it
    assert await cashier.recorded() == WHOLE
    assert await cashier.accounts() == {
        "merchant_clearing": 11999, "receipts": 0, "his_settlement": 11999, "refunds_payable": 0,
    }  # fmt: skip


async def test_parts_of_each_piece_go_back_and_never_more_than_it(cashier: Cashier) -> None:
    """What is left of one bill's piece pays for no refund of another's, though the number has money enough."""
    await cashier.pay()
    for name in OWED:
        await cashier.settled(name)
    assert (await cashier.give_back("B2", 2, "k1")).json["extra"] == {"left_fen": 1}
    parts = [
        (await cashier.give_back(name, fen, key)).json
        for name, fen, key in (("B2", 1, "k2"), ("B1", 800, "k3"), ("B3", 3199, "k4"), ("B1", 8000, "k3b"))
    ]
    assert len({part["id"] for part in parts}) == 4
    assert {part["trade_no"] for part in parts} == {"T1"}
    for name in OWED:
        assert (await cashier.give_back(name, 1, f"more-{name}")).json["code"] == "refund_too_large"
    for part in parts:
        done = await cashier.returned(part["id"])
        assert (done["status"], done["his"]) == ("refunded", "pending")  # told of each bill by itself
    async with cashier.site.store.read(HOSPITAL) as tx:
        assert sum(row["amount_fen"] for row in await tx.all(select(refunds))) == 12000
        assert len(await tx.all(select(outbox.c.id).where(outbox.c.verb == "refund"))) == 4
    assert await cashier.recorded() == WHOLE
    assert set((await cashier.accounts()).values()) == {0}


async def test_events_tell_each_piece_by_its_bill(cashier: Cashier) -> None:
    await cashier.pay()
    await cashier.settled("B1")
    async with cashier.site.store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == "payment.changed").order_by(events.c.id))
    told = [msgspec.json.decode(row["payload"]) for row in rows]
    last = {one["bill_id"]: (one["trade_no"], one["amount_fen"], one["settlement"]) for one in told}
    assert last == {
        cashier.ids["B1"]: ("T1", 8800, "settled"),
        cashier.ids["B2"]: ("T1", 1, "pending"),
        cashier.ids["B3"]: ("T1", 3199, "pending"),
    }


async def test_one_of_many_reports_at_once_is_recorded_whole(cashier: Cashier) -> None:
    for n in range(4):
        number = f"R{n}"
        told = await asyncio.gather(
            *(
                cashier.pay(owed, by=by, trade_no=number)
                for owed in (OWED, MORE, OTHER_SPLIT)
                for by in (CLIENT, "another")
            ),
            *(
                cashier.pay_one("B1", fen, by=by, trade_no=number)
                for fen in (8800, 12000)
                for by in (CLIENT, "another")
            ),
            *(cashier.pay(trade_no=number) for _ in range(2)),
        )
        codes = Counter("done" if one.status == 202 else one.json["code"] for one in told)
        assert codes.keys() <= {"done", "payment_conflict", "payment_of_another_portal"}
        assert codes["payment_of_another_portal"] in (5, 7)  # those of the portal that was second
        mine = [fen for _, no, fen in await cashier.recorded() if no == number]
        assert sorted(mine) in ([1, 3199, 8800], [1, 3199, 8801], [2, 3199, 8799], [8800], [12000])


# --- the day's books ---------------------------------------------------------------------------------------------------


async def compared(cashier: Cashier, his: Sequence[tuple[str, int]], has: Sequence[Question] = ()) -> Compared:
    """`has`: what the hospital says yes to when it is asked again."""
    lines = [
        StatementLine(kind=StatementKind(kind), amount_fen=fen, trade_no="T1", channel="微信") for kind, fen in his
    ]

    async def statement(date: dt.date) -> Sequence[StatementLine]:
        return lines if date == DAY else []

    async def ask_again(question: Question) -> bool:
        asked.append(question)
        return question in has

    asked: list[Question] = []
    hospital = make_hospital()
    found = await compare_day(cashier.site.store, hospital, DAY, statement=statement, ask_again=ask_again)
    assert found is not None
    return found


@pytest.mark.parametrize("channel", ["wechat", "alipay"])
async def test_one_line_of_the_merchant_is_the_sum_of_the_pieces(cashier: Cashier, channel: str) -> None:
    """And a refund's line is one bill's part of it."""
    await cashier.pay(channel=channel)
    for name in OWED:
        await cashier.settled(name)
    part = (await cashier.give_back("B1", 800, "k1")).json
    await cashier.returned(part["id"])
    day = DAY.isoformat()
    trades: list[made.Trade] = [("payment", "T1", 12000), ("refund", "T1", 800)]
    if channel == "wechat":
        data = made.wechat(trades, lines=[made.wechat_line(trade, day=day) for trade in trades])
    else:
        text = made.alipay_text(trades, lines=[made.alipay_line(trade, day=day) for trade in trades])
        data = made.zipped({"details.csv": text.encode("gbk")})
    put = f"{OF}/merchant-bills/{day}/{channel}"
    kind = "text/csv" if channel == "wechat" else "application/zip"
    taken = await cashier.site.ask(put, "PUT", data, headers={"Content-Type": kind})
    assert (taken.status, taken.json["lines"]) == (200, 2), taken.body
    booked = [("payment", 8800), ("payment", 1), ("payment", 3199), ("refund", 800)]
    agreed = await compared(cashier, booked)
    assert (agreed.merchant_lines, agreed.our_lines, agreed.his_lines, agreed.differences) == (2, 4, 4, [])
    # One bill's piece is missing at the hospital: the number differs by just that.
    [one] = (await compared(cashier, [("payment", 8800), ("payment", 1), ("refund", 800)])).differences
    assert (one.kind, one.trade_no, one.merchant_fen, one.ours_fen, one.his_fen) == ("amount", "T1", 11200, 11200, 8001)


@pytest.mark.parametrize(("his", "with_amounts"), [([("payment", 8800), ("payment", 1)], True), ([], False)])
async def test_hospital_is_asked_of_each_piece_before_a_difference_is_told(
    cashier: Cashier, his: list[tuple[str, int]], with_amounts: bool
) -> None:
    await cashier.pay()
    for name in OWED:
        await cashier.settled(name)
    line = {"kind": "payment", "channel": "wechat", "trade_no": "T1", "amount_fen": 12000}
    await cashier.site.ask(f"{OF}/merchant-bills/{DAY}", "PUT", {"lines": [line]}, headers=JSON)
    has = [Question(bill_id=cashier.ids[name], amount_fen=fen if with_amounts else None) for name, fen in OWED.items()]
    assert (await compared(cashier, his, has)).differences == []
    assert len((await compared(cashier, his, has[:2])).differences) == 1  # of one piece it does not say so
