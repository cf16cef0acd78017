"""SOAP dialects that know no lock, whole: the real service, sockets and store, and hospitals that book unpaid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadtest.simulators import soap
from loadtest.simulators.hospital import Hospital
from tests.acceptance.installation import (
    CALL_TIMEOUT_S,
    QUICK,
    Clinic,
    Installation,
    add_keys,
    made_up_person,
    money,
    run_service,
    to_toml,
    until,
    write_secrets,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIALECTS = ("zoesoft", "zysoft")
LATE_S = 1.2  # after the first look back, and well before silence is believed
WRITES = ("book", "register", "cancel_registration", "settle_bill", "create_patient", "fetch_registration")


def settings_of(dialect: str, clinic: Clinic) -> dict[str, Any]:
    assert isinstance(clinic.simulator, soap.SoapSimulator)
    return {
        "name": "東镕医院",
        "reserve_by": "book",
        **QUICK,
        "connector": {
            "his": {
                "protocol": "soap",
                "profile": f"{dialect}@1",
                "endpoint": clinic.simulator.url,
                "timeout_s": dict.fromkeys(WRITES, CALL_TIMEOUT_S),
            }
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder: Path = tmp_path_factory.mktemp("soap")
    clinics = {
        dialect: Clinic(
            dialect, await soap.start(dialect=dialect, hospital=Hospital(dialect[1].upper(), days=1, seats=20))
        )
        for dialect in DIALECTS
    }
    settings: dict[str, Any] = {
        "service": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "drain_s": 5, "key_cache_s": 1},
        "store": {
            "url": f"sqlite:///{folder.as_posix()}/hisbridge.db",
            "messages_url": f"sqlite:///{folder.as_posix()}/messages.db",
        },
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {dialect: settings_of(dialect, clinic) for dialect, clinic in clinics.items()},
    }
    config = folder / "hisbridge.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    write_secrets(folder)
    site = Installation(folder, config, clinics)
    try:
        await add_keys(config)
        async with run_service(site):
            yield site
    finally:
        for clinic in clinics.values():
            await clinic.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Installation) -> AsyncIterator[Installation]:
    yield shared
    for clinic in shared.clinics.values():
        await clinic.heal()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_seat_is_booked_paid_and_cancelled_when_the_hospital_knows_no_lock(
    site: Installation, dialect: str
) -> None:
    clinic = site.clinics[dialect]
    person = {**made_up_person(), "name": "東镕喆"}
    patient_id = await site.patient(dialect, person)
    held = await site.hold(dialect, patient_id=patient_id)
    held = await site.becomes(dialect, held, his_state="locked", payable=True)
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["locked"]
    await site.pay(dialect, held)
    await site.becomes(dialect, held, state="booked", his_state="registered", payment_state="paid")
    [visit] = await clinic.visits(held["order_no"])
    assert (visit["state"], visit["mrn"]) == ("registered", await clinic.mrn_of(person))
    await site.cancel(dialect, held)
    await site.becomes(dialect, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["released"]
    assert (await clinic.state())["oversold"] == 0


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("mode", "options"), [("lose_reply", {}), ("late_commit", {"delay_s": LATE_S}), ("already_exists", {})]
)
async def test_booking_lives_once_when_no_write_is_answered_well(
    site: Installation, dialect: str, mode: str, options: dict[str, Any]
) -> None:
    clinic = site.clinics[dialect]
    before = (await clinic.state())["calls"]
    await clinic.fault("book", mode, times=1, **options)
    held = await site.locked(dialect)
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["locked"]
    await clinic.fault("register", mode, times=1, **options)
    await site.pay(dialect, held)
    booked = await site.becomes(dialect, held, state="booked", his_state="registered", payment_state="paid")
    assert [payment["settlement"] for payment in booked["payments"]] == ["settled"]
    if mode != "already_exists":
        await clinic.fault("cancel_registration", mode, times=1, **options)
    await site.cancel(dialect, held)
    await site.becomes(dialect, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["released"]
    after = (await clinic.state())["calls"]
    for op in ("book", "register", "cancel_registration"):
        assert after[op] - before.get(op, 0) == 1, op


async def bill_paid(site: Installation, dialect: str) -> str:
    """Where a bill is that a new patient has paid to the portal."""
    person = {**made_up_person(), "name": f"東方{dialect}"}
    patient_id = await site.patient(dialect, person)
    mrn = await site.clinics[dialect].mrn_of(person)
    await site.clinics[dialect].do("/bill", {"mrn": mrn, "items": [{"name": "血常规", "amount_fen": 2500}]})
    of = f"/v1/hospitals/{dialect}/patients/{patient_id}/bills"
    [bill] = (await site.portal().get(of))["items"]
    assert (bill["amount_fen"], bill["items"][0]["name"]) == (2500, "血常规")
    await site.portal().post(f"{of}/{bill['id']}/payments", money(2500))
    return f"{of}/{bill['id']}"


@pytest.mark.parametrize(("dialect", "settled"), [("zoesoft", True), ("zysoft", False)])
async def test_settlement_is_looked_up_or_left_to_a_person_when_its_reply_is_lost(
    site: Installation, dialect: str, settled: bool
) -> None:
    clinic = site.clinics[dialect]
    before = await clinic.calls("settle_bill")
    await clinic.fault("settle_bill", "lose_reply", times=1)
    bill = await bill_paid(site, dialect)

    async def dead() -> float:
        return await site.metric("hisbridge_dead_letters", hospital=dialect, box="outbox")

    if settled:
        await until(
            lambda: site.portal().get(bill), lambda seen: seen["settlement"] == "settled", what="the settlement"
        )
    else:
        await until(dead, lambda count: count == 1, what="a command for a person")
        assert (await site.portal().get(bill))["settlement"] != "settled"
    assert await clinic.calls("settle_bill") == before + 1
    assert [charge["state"] for charge in (await clinic.state())["charges"]] == ["paid"]
