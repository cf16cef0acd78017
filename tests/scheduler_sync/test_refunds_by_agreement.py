"""Refunds told over HL7 v2 and FHIR, which have no message for them: as a site's profile agrees on, and not before.

Against the simulated hospitals, over real sockets, with the faults of a bad day.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from fhir.resources.paymentreconciliation import PaymentReconciliation as R5Reconciliation
from fhir.resources.R4B.paymentreconciliation import PaymentReconciliation as R4Reconciliation

from booking.billing import pay_bill, put_bill, settle_payment
from booking.money import kept_payment
from booking.refunds import ask_refund, load_refund, report_refund
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import outbox
from connectors import fhir, hl7v2
from connectors.config import HospitalContext
from connectors.port import Accepted, Capability, HisRefused, Outcome, RefundOrder, Rejected, Verb
from loadtest.simulators import fhir as fhir_hospital
from loadtest.simulators import hl7, hl7_cn
from loadtest.simulators.control import Fault
from loadtest.simulators.fhir_r5 import to_r5
from loadtest.simulators.hospital import Charge
from mappings.canonical import Bill, Patient, Payment, Refund
from tests.booking.world import CLIENT, HOSPITAL
from tests.scheduler_sync.peer import desk, until
from tests.stores import Wall

CONTEXT = HospitalContext(id=HOSPITAL, zone=ZoneInfo("Asia/Shanghai"), currency="CNY")
TRADE_NO, PAID_FEN, BACK_FEN = "4200000001", 2550, 800
PAID = Payment(
    channel="wechat",
    trade_no=TRADE_NO,
    amount_fen=PAID_FEN,
    paid_at=dt.datetime(2026, 1, 5, 8, tzinfo=dt.timezone(dt.timedelta(hours=8))),
)
QUICK_S = {"refund": 0.5, "fetch_refund": 2.0}


@dataclass(frozen=True)
class Dialect:
    """A profile that a site extends by its agreement. `looks`: it can also ask for a refund."""

    extends: str
    looks: bool = True

    @property
    def protocol(self) -> str:
        return self.extends.split("_")[0].removesuffix("@1")

    def agreement(self, folder: Path) -> None:
        site = folder / "site"
        site.mkdir()
        verbs = ["refund", "fetch_refund"] if self.looks else ["refund"]
        lines = "".join(f"  {verb}: {{capability: native}}\n" for verb in verbs)
        (site / "profile.yaml").write_text(
            f"name: site\nversion: 1\nprotocol: {self.protocol}\nextends: {self.extends}\nverbs:\n{lines}"
        )

    @contextlib.asynccontextmanager
    async def hospital(self, folder: Path | None) -> AsyncIterator[tuple[Any, Any]]:
        """The simulator and the connector; by the shipped profile alone where there is no `folder` with an agreement."""
        profile = self.extends if folder is None else "site"
        simulator: Any
        connector: Any
        if self.protocol == "fhir":
            simulator = await fhir_hospital.start(days=1, release="R5" if "r5" in self.extends else "R4")
            options = fhir.Options(protocol="fhir", profile=profile, base_url=simulator.base_url, timeout_s=QUICK_S)
            connector = fhir.create(CONTEXT, "peer", options, profiles_dir=folder)
        else:
            simulator = await (hl7_cn if "cn" in self.extends else hl7).start()
            quick = hl7v2.Options(
                protocol="hl7v2", profile=profile, host="127.0.0.1", port=simulator.port, timeout_s=QUICK_S
            )
            connector = hl7v2.create(CONTEXT, "peer", quick, profiles_dir=folder)
        await connector.start()
        try:
            yield simulator, connector
        finally:
            await connector.close()
            await simulator.close()

    def __str__(self) -> str:
        return self.extends


DIALECTS = [
    Dialect("hl7v2_demo@1", looks=False),
    Dialect("hl7v2_cn@1"),
    Dialect("fhir_r4@1"),
    Dialect("fhir_r5@1"),
]


def paid_bill(simulator: Any) -> tuple[Charge, Bill]:
    """A bill that was settled with our money, as the hospital and as we know it."""
    mrn = simulator.hospital.create_person("张伟", "11010519491231002X", "13800000000", "1", "19491231").mrn
    charge: Charge = simulator.hospital.charge(mrn, [("血常规", 2500), ("挂号费", 50)])
    simulator.hospital.settle(charge.no, PAID_FEN, TRADE_NO)
    return charge, Bill(id=charge.no, amount_fen=PAID_FEN, currency="CNY", mrn=mrn)


def refund_of(bill: Bill, number: str = "rf_1", amount_fen: int = BACK_FEN) -> RefundOrder:
    refund = Refund(refund_no=number, payment=PAID, amount_fen=amount_fen, reason="patient")
    return RefundOrder(refund=refund, patient=Patient(name="张伟", mrn=bill.mrn), bill=bill)


def word(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, Rejected) else type(outcome).__name__


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_refund_is_not_offered_when_nothing_is_agreed(dialect: Dialect) -> None:
    async with dialect.hospital(None) as (simulator, his):
        _, bill = paid_bill(simulator)
        assert his.traits(Verb.REFUND).capability is Capability.OFF
        assert word(await his.refund(refund_of(bill))) == "not_offered"
        assert simulator.board.calls["refund"] == 0


# what the hospital does; the outcome; whether it has booked it by then, or a while later
FAULTS: list[tuple[str | None, str, bool]] = [
    (None, "Accepted", True),
    ("lose_reply", "Unknown", True),
    ("late_commit", "Unknown", True),
    ("already_exists", "already_exists", True),
    ("refuse", "refused", False),
    ("garbage", "Unknown", False),
    ("hang", "Unknown", False),
]


@pytest.mark.parametrize(("mode", "outcome", "booked"), FAULTS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_refund_has_the_outcome_that_the_hospital_gave_it(
    dialect: Dialect, mode: str | None, outcome: str, booked: bool, tmp_path: Path
) -> None:
    dialect.agreement(tmp_path)
    async with dialect.hospital(tmp_path) as (simulator, his):
        charge, bill = paid_bill(simulator)
        if dialect.looks:
            assert await his.fetch_refund(refund_of(bill)) is None  # the payment of the same bill is none
        if mode is not None:
            simulator.board.faults.append(Fault(mode=mode, op="refund", times=1, delay_s=0.6))
        assert word(await his.refund(refund_of(bill))) == outcome

        async def is_booked() -> bool:
            return charge.returned == {"rf_1": BACK_FEN}

        if booked:
            await until(is_booked)
        assert await is_booked() is booked
        if dialect.looks:
            found = await his.fetch_refund(refund_of(bill))
            assert (None if found is None else (found.order_no, found.amount_fen)) == (
                ("rf_1", BACK_FEN) if booked else None
            )
            assert await his.fetch_refund(refund_of(bill, "rf_2")) is None
        again = word(await his.refund(refund_of(bill)))  # FHIR: a conditional create finds what is there
        assert again == ("already_exists" if booked and dialect.protocol == "hl7v2" else "Accepted")
        assert charge.returned == {"rf_1": BACK_FEN}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_parts_add_up_to_the_payment_and_to_no_fen_more(dialect: Dialect, tmp_path: Path) -> None:
    dialect.agreement(tmp_path)
    async with dialect.hospital(tmp_path) as (simulator, his):
        charge, bill = paid_bill(simulator)
        assert isinstance(await his.refund(refund_of(bill, "rf_1", 1)), Accepted)
        assert isinstance(await his.refund(refund_of(bill, "rf_2", PAID_FEN)), Rejected)
        assert isinstance(await his.refund(refund_of(bill, "rf_3", PAID_FEN - 1)), Accepted)
        assert charge.returned == {"rf_1": 1, "rf_3": PAID_FEN - 1}
        if dialect.looks:
            with pytest.raises(HisRefused) as refused:
                await his.fetch_refund(refund_of(bill, "rf_1", 2))
            assert refused.value.code == "price_changed"


@pytest.mark.parametrize(
    ("dialect", "model"), [(DIALECTS[2], R4Reconciliation), (DIALECTS[3], R5Reconciliation)], ids=["R4", "R5"]
)
async def test_refund_is_a_payment_reconciliation_as_the_standard_has_it(
    dialect: Dialect, model: Any, tmp_path: Path
) -> None:
    dialect.agreement(tmp_path)
    async with dialect.hospital(tmp_path) as (simulator, his):
        _, bill = paid_bill(simulator)
        assert isinstance(await his.refund(refund_of(bill)), Accepted)
        [kept] = simulator.store.payments["PaymentReconciliation"].values()
    sent = to_r5(kept.resource) if model is R5Reconciliation else kept.resource
    read = model.model_validate(sent)
    [detail] = read.allocation if model is R5Reconciliation else read.detail
    assert detail.predecessor.value == TRADE_NO
    assert detail.amount.value == Decimal("8.00")
    assert detail.type.coding[0].code == "adjustment"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the dialects do not know of a store
@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_bill_refund_is_told_once_when_its_answer_was_lost(
    store: Store, wall: Wall, hospital: Hospital, dialect: Dialect, tmp_path: Path
) -> None:
    dialect.agreement(tmp_path)
    async with dialect.hospital(tmp_path) as (simulator, his):
        charge, bill = paid_bill(simulator)
        async with store.write(HOSPITAL) as tx:
            row = await put_bill(tx, bill, currency="CNY")
            await pay_bill(tx, row, msgspec.structs.replace(PAID), client_id=CLIENT, offered=True)
            await tx.run(outbox.update().values(status="done"))
            await settle_payment(tx, row, accepted=True, settlement=None, client_id=CLIENT, code=None)
            payment = await kept_payment(tx, bill_id=row.id)
            owed = await ask_refund(tx, payment, amount_fen=BACK_FEN, reason="r", part="a")
            await report_refund(tx, owed, word="refunded", refund_trade_no="R1", tells_his=True)
        simulator.board.faults.append(Fault(mode="lose_reply", op="refund", times=1))
        async with desk(store, hospital, his, wall) as at:
            line = f"refund:{owed['id']}"
            await at.until_row(line, status="unknown")
            at.turn(1)
            await at.until_row(line, status="done" if dialect.looks else "dead")
        async with store.read(HOSPITAL) as tx:
            told = await load_refund(tx, owed["id"])
        assert told is not None
        assert told["his"] == ("told" if dialect.looks else "unknown")
        assert charge.returned == {owed["id"]: BACK_FEN}
        assert simulator.board.calls["refund"] == 1
