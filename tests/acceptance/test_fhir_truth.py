"""FHIR hospitals that fail in their own ways, whole: the real service, sockets and store. Each booking ends in one truth.

What the portal shows, and what the hospital has under our order number, is the same in the end: one visit, or none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from loadtest.simulators import fhir
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
from tests.connectors.fhir.spoken import PROFILES

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What the switchboard calls the message that takes a seat, by hospital; see `settings_of`.
TAKES = {"fhir-book": "book", "fhir-lock": "lock_slot", "fhir-ihe": "lock_slot"}
OFFERS = {"fhir-book": (), "fhir-lock": ("transaction",), "fhir-ihe": ("find", "hold", "book")}
SPEAKS = {"fhir-book": "fhir_demo", "fhir-lock": "demo_lock", "fhir-ihe": "demo_ihe"}
# A hold of IHE's carries no number of ours: one whose answer is lost cannot be looked up, and none is doubled under our number.
KEYED = pytest.mark.parametrize("hospital_id", ["fhir-book", "fhir-lock"])
WRITES = (
    "book",
    "lock_slot",
    "unlock_slot",
    "register",
    "cancel_registration",
    "settle_bill",
    "create_patient",
    "fetch_registration",
)
every_hospital = pytest.mark.parametrize("hospital_id", TAKES)


def settings_of(hospital_id: str, clinic: Clinic) -> dict[str, Any]:
    assert isinstance(clinic.simulator, fhir.FhirSimulator)
    return {
        "name": "東镕医院",
        "reserve_by": "book" if hospital_id == "fhir-book" else "lock",
        **QUICK,
        "connector": {
            "his": {
                "protocol": "fhir",
                "profile": SPEAKS[hospital_id],
                "base_url": clinic.simulator.base_url,
                "timeout_s": dict.fromkeys(WRITES, CALL_TIMEOUT_S),
            }
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("fhir")
    clinics = {one: Clinic(one, await fhir.start(days=1, seats=20, offers=OFFERS[one])) for one in TAKES}
    settings = {
        "profiles_dir": str(PROFILES),
        "service": {
            "listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "drain_s": 5,
            "key_cache_s": 1,
        },
        "store": {
            "url": f"sqlite:///{folder.as_posix()}/hisbridge.db",
            "messages_url": f"sqlite:///{folder.as_posix()}/messages.db",
        },
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {hospital_id: settings_of(hospital_id, clinic) for hospital_id, clinic in clinics.items()},
    }
    config = folder / "hisbridge.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    write_secrets(folder)
    await add_keys(config)
    site = Installation(folder, config, clinics)
    try:
        async with run_service(site):
            yield site
    finally:
        for clinic in clinics.values():
            await clinic.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Installation) -> AsyncIterator[Installation]:
    """The shared installation; whatever the test has broken is mended after it."""
    yield shared
    for clinic in shared.clinics.values():
        await clinic.heal()


async def visits(clinic: Clinic, order_no: str) -> list[str]:
    """The states of every visit under our order number, doubled ones included (the hospital numbers them `#1`, ...)."""
    found = (await clinic.state())["visits"]
    return sorted(visit["state"] for visit in found if visit["key"].partition("#")[0] == order_no)


@pytest.mark.parametrize(
    ("hospital_id", "mode"),
    [
        *(("fhir-book", mode) for mode in ("lose_reply", "fault_after", "truncated", "wrong_type")),
        *(("fhir-lock", mode) for mode in ("lose_reply", "fault_after")),
        ("fhir-ihe", "lose_reply"),
    ],
)
async def test_booking_lives_once_when_the_answers_are_lost_after_the_commit(
    site: Installation, hospital_id: str, mode: str
) -> None:
    clinic, takes = site.clinics[hospital_id], TAKES[hospital_id]
    before = (await clinic.state())["calls"]
    if hospital_id != "fhir-ihe":
        await clinic.fault(takes, mode, times=1)
    held = await site.locked(hospital_id)
    assert await visits(clinic, held["order_no"]) == (["locked"] if hospital_id != "fhir-ihe" else [])
    await clinic.fault("register", mode, times=1)
    await site.pay(hospital_id, held)
    booked = await site.becomes(hospital_id, held, state="booked", his_state="registered", payment_state="paid")
    assert [payment["settlement"] for payment in booked["payments"]] == ["settled"]
    assert await visits(clinic, held["order_no"]) == ["registered"]
    await clinic.fault("cancel_registration", mode, times=1)
    await site.cancel(hospital_id, held)
    await site.becomes(hospital_id, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert await visits(clinic, held["order_no"]) == ["released"]
    after = (await clinic.state())["calls"]
    for op in (takes, "register", "cancel_registration"):
        assert after[op] - before.get(op, 0) == 1, op


@every_hospital
async def test_booking_ends_in_one_truth_when_a_storm_of_version_conflicts_passes(
    site: Installation, hospital_id: str
) -> None:
    """Seven refusals in a row are more than one attempt takes: the outbox waits, and asks again."""
    clinic = site.clinics[hospital_id]
    held = await site.locked(hospital_id)
    await clinic.fault("register", "conflict", times=7)
    await site.pay(hospital_id, held)
    await site.becomes(hospital_id, held, state="booked", his_state="registered", payment_state="paid")
    assert await visits(clinic, held["order_no"]) == ["registered"]
    await clinic.fault("cancel_registration", "conflict", times=7)
    await site.cancel(hospital_id, held)
    await site.becomes(hospital_id, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert await visits(clinic, held["order_no"]) == ["released"]


@KEYED
@pytest.mark.parametrize("told", [True, False], ids=["told", "reply_lost"])
async def test_one_visit_is_left_when_the_server_creates_two(site: Installation, hospital_id: str, told: bool) -> None:
    clinic, takes = site.clinics[hospital_id], TAKES[hospital_id]
    await clinic.fault(takes, "double_create" if told else "double_lost", times=1)
    held = await site.locked(hospital_id)
    assert await visits(clinic, held["order_no"]) == ["locked", "locked"]
    await site.pay(hospital_id, held)
    await site.becomes(hospital_id, held, state="booked", his_state="registered", payment_state="paid")
    assert await visits(clinic, held["order_no"]) == ["registered", "released"]


@KEYED
async def test_no_visit_is_left_when_a_doubled_hold_is_cancelled(site: Installation, hospital_id: str) -> None:
    clinic = site.clinics[hospital_id]
    await clinic.fault(TAKES[hospital_id], "double_create", times=1)
    held = await site.locked(hospital_id)
    await site.cancel(hospital_id, held)
    await site.becomes(hospital_id, held, state="cancelled", his_state="released")
    assert await visits(clinic, held["order_no"]) == ["released", "released"]


async def test_booking_waits_for_a_token_and_is_made_once(site: Installation) -> None:
    hospital_id = "fhir-lock"
    clinic = site.clinics[hospital_id]
    await clinic.fault(TAKES[hospital_id], "unauthorised", times=2)
    held = await site.locked(hospital_id)
    assert await visits(clinic, held["order_no"]) == (["locked"] if hospital_id != "fhir-ihe" else [])


@pytest.mark.parametrize("mode", ["lose_reply", "fault_after"])
async def test_bill_is_paid_once_when_the_answer_is_lost(site: Installation, mode: str) -> None:
    hospital_id = "fhir-book"
    clinic = site.clinics[hospital_id]
    person = {**made_up_person(), "name": f"東方{hospital_id}{mode}"}
    patient_id = await site.patient(hospital_id, person)
    mrn = await clinic.mrn_of(person)
    await clinic.do("/bill", {"mrn": mrn, "items": [{"name": "血常规", "amount_fen": 2500}]})
    of = f"/v1/hospitals/{hospital_id}/patients/{patient_id}/bills"
    [bill] = (await site.portal().get(of))["items"]
    before = await clinic.calls("settle_bill")
    await clinic.fault("settle_bill", mode, times=1)
    paid = money(2500)
    await site.portal().post(f"{of}/{bill['id']}/payments", paid)
    await until(
        lambda: site.portal().get(f"{of}/{bill['id']}"), lambda seen: seen["settlement"] == "settled", what="settlement"
    )
    assert await clinic.calls("settle_bill") == before + 1
    settled = [charge for charge in (await clinic.state())["charges"] if charge["trade_no"] == paid["trade_no"]]
    assert [charge["state"] for charge in settled] == ["paid"]
