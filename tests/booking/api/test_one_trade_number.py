"""One (channel, trade_no) is one payment: what a second report of it is told. Over HTTP, on both engines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import put_bill
from booking.ledger import imbalances
from booking.people import link_person, own_patient
from booking.store.engine import Store
from booking.store.tables import payments, refunds
from mappings.canonical import Bill
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import CLIENT, FEE_FEN, HOSPITAL, LI, ZHANG, hold, make_hospital, put_patient, put_slot
from tests.booking.world import send_and_answer as answered

pytestmark = pytest.mark.usefixtures("engine")
OF = f"/v1/hospitals/{HOSPITAL}"
PORTALS = (CLIENT, "another")


class Town:
    """One patient of two portals, with a bill and a booking of each portal's; and another bill and booking."""

    def __init__(self, site: FhirSite, paths: dict[tuple[str, str], str]) -> None:
        self.site, self.paths = site, paths

    async def report(
        self, by: str, thing: str, *, amount_fen: int = FEE_FEN, channel: str = "wechat", trade_no: str = "T1"
    ) -> Told:
        body = {"channel": channel, "trade_no": trade_no, "amount_fen": amount_fen}
        body |= {"paid_at": "2031-03-03T06:00:00+08:00"}
        json = {"Content-Type": "application/json"}
        return await self.site.ask(self.paths[by, thing], "POST", body, by=by, headers=json)

    async def recorded(self) -> list[tuple[str, int]]:
        """(client, amount) of every payment, which the ledger must bear out."""
        store = self.site.store
        async with store.read(HOSPITAL) as tx:
            rows = await tx.all(select(payments).order_by(payments.c.created_ms))
        assert [one async for one in imbalances(store, HOSPITAL)] == []
        return [(row["client_id"], row["amount_fen"]) for row in rows]


@pytest.fixture
async def town(store: Store) -> AsyncIterator[Town]:
    hospital = make_hospital()
    patients = {by: await put_patient(store, ZHANG, client=by) for by in PORTALS}
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patients[CLIENT])
        await link_person(tx, person, msgspec.structs.replace(person.record, mrn="M1"))
        bills = {
            name: (await put_bill(tx, Bill(id=name, amount_fen=FEE_FEN, currency="CNY", mrn="M1"), currency="CNY")).id
            for name in ("bill", "other bill")
        }
    paths = {
        (by, name): f"{OF}/patients/{patients[by]}/bills/{bill_id}/payments"
        for by in PORTALS
        for name, bill_id in bills.items()
    }
    for n, (by, record, name) in enumerate(
        ((CLIENT, ZHANG, "booking"), (CLIENT, LI, "other booking"), ("another", LI, "booking"))
    ):
        slot_id = await put_slot(store, 1, slot_id=str(n), hour=8 + n, schedule=None)
        patient_id = await put_patient(store, record, client=by, user=f"u{n}")
        if by == "another":
            patient_id = await put_patient(
                store, msgspec.structs.replace(ZHANG, id_number="110101197001010040"), client=by
            )
        booking = await hold(store, hospital, slot_id, patient_id, client=by)
        await answered(store, hospital, booking.id)
        paths[by, name] = f"{OF}/bookings/{booking.id}/payments"
    async with serve_fhir(store, hospital) as site:
        yield Town(site, paths)


def code_of(told: Told) -> str:
    return "recorded" if told.status == 202 else str(told.json["code"])


# (who reports first and for what), (who reports then, for what, how much): what the second is told.
SAME, ELSE_FEN = FEE_FEN, FEE_FEN + 1
OURS_AGAIN, THEIRS, CONFLICT = "recorded", "payment_of_another_portal", "payment_conflict"
CASES = [
    ("bill", CLIENT, "bill", SAME, OURS_AGAIN),
    ("bill", CLIENT, "bill", ELSE_FEN, CONFLICT),
    ("bill", CLIENT, "other bill", SAME, CONFLICT),
    ("bill", CLIENT, "other bill", ELSE_FEN, CONFLICT),
    ("bill", CLIENT, "booking", SAME, CONFLICT),
    ("bill", "another", "bill", SAME, THEIRS),
    ("bill", "another", "bill", ELSE_FEN, THEIRS),
    ("bill", "another", "other bill", SAME, THEIRS),
    ("bill", "another", "booking", SAME, THEIRS),
    ("booking", CLIENT, "booking", SAME, OURS_AGAIN),
    ("booking", CLIENT, "booking", ELSE_FEN, CONFLICT),
    ("booking", CLIENT, "other booking", SAME, CONFLICT),
    ("booking", CLIENT, "other booking", ELSE_FEN, CONFLICT),
    ("booking", CLIENT, "bill", SAME, CONFLICT),
    ("booking", "another", "booking", SAME, THEIRS),
    ("booking", "another", "booking", ELSE_FEN, THEIRS),
    ("booking", "another", "bill", SAME, THEIRS),
]


@pytest.mark.parametrize(("first", "by", "then", "amount_fen", "told"), CASES)
async def test_second_report_is_the_same_payment_or_is_told_that_it_is_not(
    town: Town, first: str, by: str, then: str, amount_fen: int, told: str
) -> None:
    assert (await town.report(CLIENT, first)).status == 202
    second = await town.report(by, then, amount_fen=amount_fen)
    assert code_of(second) == told
    assert await town.recorded() == [(CLIENT, FEE_FEN)]
    if told == OURS_AGAIN:
        assert [(p["trade_no"], p["amount_fen"]) for p in second.json["payments"]] == [("T1", FEE_FEN)]
    else:
        assert (second.status, second.json["retryable"]) == (409, False)
        assert FEE_FEN not in second.json.get("extra", {}).values()  # nothing of another portal's payment is told


@pytest.mark.parametrize(("by", "then"), [(CLIENT, "other bill"), ("another", "bill"), ("another", "booking")])
async def test_first_report_stands_whatever_amount_the_second_would_have(town: Town, by: str, then: str) -> None:
    """The other order: the wrong amount came first, and goes back; nobody else takes its number over."""
    assert (await town.report(CLIENT, "bill", amount_fen=ELSE_FEN)).json["payments"][0]["unusable"] == "wrong_amount"
    assert code_of(await town.report(by, then)) == (CONFLICT if by == CLIENT else THEIRS)
    assert await town.recorded() == [(CLIENT, ELSE_FEN)]
    async with town.site.store.read(HOSPITAL) as tx:
        assert [(r["client_id"], r["amount_fen"]) for r in await tx.all(select(refunds))] == [(CLIENT, ELSE_FEN)]


async def test_other_money_under_the_same_number_is_taken_under_a_channel_of_its_own(town: Town) -> None:
    """What the answer says to do where each portal has a merchant number of its own, and both count alike."""
    await town.report(CLIENT, "bill")
    assert code_of(await town.report("another", "booking")) == THEIRS
    assert code_of(await town.report("another", "booking", channel="wechat-app")) == "recorded"
    assert await town.recorded() == [(CLIENT, FEE_FEN), ("another", FEE_FEN)]


async def test_one_of_many_reports_at_once_is_recorded_and_all_are_told_the_truth(town: Town) -> None:
    for n in range(5):
        asked = [
            (by, thing)
            for by, thing in ((CLIENT, "bill"), (CLIENT, "other bill"), ("another", "bill"), ("another", "booking"),
                              (CLIENT, "booking"), (CLIENT, "other booking"))
            for _ in range(2)
        ]  # fmt: skip
        told = await asyncio.gather(*(town.report(by, thing, trade_no=f"R{n}") for by, thing in asked))
        winners = {one for one, answer in zip(asked, told, strict=True) if answer.status == 202}
        assert len(winners) == 1
        [(winner, _)] = winners
        expected = Counter("recorded" if one in winners else CONFLICT if one[0] == winner else THEIRS for one in asked)
        assert Counter(map(code_of, told)) == expected
    assert len(await town.recorded()) == 5


@pytest.mark.parametrize("amount_fen", [0, -1, 100_000_001, 2**53, 10**30, 1.5, "1500", None])
async def test_amount_that_no_payment_has_is_refused_and_leaves_the_number_free(town: Town, amount_fen: Any) -> None:
    for thing in ("bill", "booking"):
        assert (await town.report(CLIENT, thing, amount_fen=amount_fen)).json["code"] == "invalid_field"
    assert await town.recorded() == []
    assert code_of(await town.report("another", "bill")) == "recorded"


@pytest.mark.parametrize("amount_fen", [1, 100_000_000])
async def test_smallest_and_largest_amount_are_recorded_to_the_fen(town: Town, amount_fen: int) -> None:
    for by, thing, number in ((CLIENT, "bill", "A"), (CLIENT, "booking", "B")):
        told = await town.report(by, thing, amount_fen=amount_fen, trade_no=number)
        assert [(r["amount_fen"], r["reason"]) for r in told.json["refunds"]] == [(amount_fen, "wrong_amount")]
    assert await town.recorded() == [(CLIENT, amount_fen)] * 2
