"""A hospital that speaks the Chinese dialect of HL7 v2 (profile hl7v2_cn), whole: the real service, sockets and store."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadtest.demo.walk import STEPS, Walk
from loadtest.ports import free_port
from loadtest.simulators import hl7_cn
from loadtest.simulators.hospital import Hospital
from loadtest.simulators.mllp import END, ER7, START, read_frame
from tests.acceptance.installation import (
    CALL_TIMEOUT_S,
    KEY,
    PATIENCE_S,
    QUICK,
    Clinic,
    Installation,
    add_keys,
    made_up_person,
    run_service,
    to_toml,
    until,
    write_secrets,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHINESE = "chinese-demo"
SETTLE_S = 3
LATE_S = 2.2  # after the first look back (about 1 s after the last byte) and well before silence is believed
WRITES = ("book", "register", "cancel_registration", "settle_bill", "create_patient", "fetch_registration")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder: Path = tmp_path_factory.mktemp("chinese")
    listen = free_port()
    simulator = await hl7_cn.start(hospital=Hospital("C", days=3, seats=20), push_port=listen, push_appointments=True)
    clinic = Clinic(CHINESE, simulator, push_port=listen)
    settings: dict[str, Any] = {
        "service": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "drain_s": 5, "key_cache_s": 1},
        "store": {
            "url": f"sqlite:///{folder.as_posix()}/hisbridge.db",
            "messages_url": f"sqlite:///{folder.as_posix()}/messages.db",
        },
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {
            CHINESE: {
                "name": "东镕医院",
                "reserve_by": "book",
                **QUICK,
                "rules": {"waitlist": {"accept_s": 600}},
                "his_settle_s": SETTLE_S,
                "connector": {
                    "his": {
                        "protocol": "hl7v2", "profile": "hl7v2_cn@1", "host": "127.0.0.1", "port": simulator.port,
                        "connections": 2, "listen_host": "127.0.0.1", "listen_port": listen,
                        "timeout_s": dict.fromkeys(WRITES, CALL_TIMEOUT_S),
                    }
                },
            }
        },
    }  # fmt: skip
    config = folder / "hisbridge.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    write_secrets(folder)
    site = Installation(folder, config, {CHINESE: clinic})
    try:
        await add_keys(config)
        async with run_service(site):
            yield site
    finally:
        await clinic.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Installation) -> AsyncIterator[Installation]:
    yield shared
    await shared.clinics[CHINESE].heal()


async def test_patient_is_served_when_the_hospital_speaks_the_chinese_dialect(site: Installation) -> None:
    assert site.session is not None
    clinic = site.clinics[CHINESE]
    control = f"http://127.0.0.1:{clinic.simulator.control_port}"
    texts = [text async for text in Walk(site.session, site.base_url, KEY, CHINESE, control).run()]
    assert len(texts) == len(STEPS)
    bookings = (await site.portal().get(f"/v1/hospitals/{CHINESE}/bookings", user_ref="demo-user"))["items"]
    assert sorted((b["state"], b["payment_state"]) for b in bookings) == [
        ("cancelled", "refunded"),
        ("cancelled", "void"),  # the seat that another patient waited for
        ("stopped", "refunded"),
    ]
    of_waiting = await site.portal().get(f"/v1/hospitals/{CHINESE}/bookings", user_ref="demo-user-2")
    [waited] = of_waiting["items"]
    assert (waited["state"], waited["payment_state"]) == ("fulfilled", "paid")
    for booking in bookings:
        await site.becomes(CHINESE, booking, his_state="released")
    state = await clinic.state()
    visits = {visit["key"]: visit["state"] for visit in state["visits"]}
    assert visits.pop(waited["order_no"]) == "registered"
    assert visits == {b["order_no"]: "released" for b in bookings}
    assert [charge["state"] for charge in state["charges"]] == ["paid"]
    assert state["oversold"] == 0


async def test_seat_is_held_paid_and_cancelled_when_the_name_needs_gbk(site: Installation) -> None:
    clinic = site.clinics[CHINESE]
    person = {**made_up_person(), "name": "東镕喆"}
    patient_id = await site.patient(CHINESE, person)
    held = await site.hold(CHINESE, patient_id=patient_id)
    held = await site.becomes(CHINESE, held, his_state="locked", payable=True)
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["locked"]
    await site.pay(CHINESE, held)
    await site.becomes(CHINESE, held, state="booked", his_state="registered", payment_state="paid")
    [visit] = await clinic.visits(held["order_no"])
    assert (visit["state"], visit["mrn"]) == ("registered", await clinic.mrn_of(person))
    await site.cancel(CHINESE, held)
    await site.becomes(CHINESE, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["released"]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("lose_reply", {}), ("late_commit", {"delay_s": LATE_S}), ("already_exists", {}), ("slow", {"delay_s": 2.0})],
    ids=["reply_lost", "late_commit", "already_exists", "slow_success"],
)
async def test_booking_lives_once_when_no_write_is_answered_well(
    site: Installation, mode: str, options: dict[str, Any]
) -> None:
    clinic = site.clinics[CHINESE]
    before = (await clinic.state())["calls"]
    await clinic.fault("book", mode, times=1, **options)
    held = await site.locked(CHINESE)
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["locked"]
    await clinic.fault("register", mode, times=1, **options)
    await site.pay(CHINESE, held)
    booked = await site.becomes(CHINESE, held, state="booked", his_state="registered", payment_state="paid")
    assert [payment["settlement"] for payment in booked["payments"]] == ["settled"]
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["registered"]
    if mode != "already_exists":
        await clinic.fault("cancel_registration", mode, times=1, **options)
    await site.cancel(CHINESE, held)
    over = await site.becomes(CHINESE, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert [(refund["status"], refund["amount_fen"]) for refund in over["refunds"]] == [("refund_due", held["fee_fen"])]
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["released"]
    after = (await clinic.state())["calls"]
    for op in ("book", "register", "cancel_registration"):
        assert after[op] - before.get(op, 0) == 1, op
    assert (await clinic.state())["oversold"] == 0


@pytest.mark.parametrize("mode", ["fault", "html", "garbage"])
async def test_payment_is_registered_once_when_the_first_answer_says_nothing(site: Installation, mode: str) -> None:
    clinic = site.clinics[CHINESE]
    before = (await clinic.state())["calls"].get("register", 0)
    held = await site.locked(CHINESE)
    await clinic.fault("register", mode, times=1)
    await site.pay(CHINESE, held)
    booked = await site.becomes(CHINESE, held, state="booked", his_state="registered")
    assert booked["refunds"] == []
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["registered"]
    assert await clinic.calls("register") == before + 2


async def tell(site: Installation, *lines: str) -> list[str]:
    """A message of the hospital's laboratory, over a connection of its own; MSA-1 of what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.clinics[CHINESE].push_port)
    writer.write(START + "\r".join([*lines, ""]).encode("gbk") + END)
    writer.write_eof()
    codes = []
    while (payload := await asyncio.wait_for(read_frame(reader), PATIENCE_S)) is not None:
        codes.append(ER7(payload.decode("gbk")).get("MSA", 1))
    writer.close()
    await writer.wait_closed()
    return codes


async def test_report_is_replaced_by_its_correction_and_not_by_an_older_word(site: Installation) -> None:
    person = {**made_up_person(), "name": "东方朔"}
    patient_id = await site.patient(CHINESE, person)
    mrn = await site.clinics[CHINESE].mrn_of(person)
    of = f"/v1/hospitals/{CHINESE}/patients/{patient_id}/reports"
    document = b"%PDF-1.4 " + bytes(range(256)) * 4_096  # a megabyte
    data = base64.b64encode(document).decode()

    def oru(number: int, status: str, white: str) -> tuple[str, ...]:
        return (
            f"MSH|^~\\&|LIS|SIM|HISBRIDGE||2026010507{number:02d}00||ORU^R01|LIS{number}|P|2.4|||AL|AL|CHN|GBK",
            f"PID|1||{mrn}^^^SIM^PI||东方朔",
            f"OBR|1||L-7001|XCG^血常规|||20260105070000|||||||||||||||20260105072000||HM|{status}",
            f"OBX|1|NM|WBC^白细胞||{white}|10*9/L|3.5-9.5|H|||{status}",
            "NTE|1||已复核",
            f"OBX|2|ED|BG^报告单||^application^PDF^Base64^{data}||||||{status}",
        )

    async def whole() -> dict[str, Any]:
        items = (await site.portal().get(of))["items"]
        return await site.portal().get(f"{of}/{items[0]['id']}") if items else {"status": None, "observations": []}

    def is_now(status: str, white: str) -> Callable[[dict[str, Any]], bool]:
        return lambda seen: seen["status"] == status and [o["value"] for o in seen["observations"]] == [white]

    assert await tell(site, *oru(20, "F", "11.2")) == ["CA", "AA"]
    first = await until(whole, is_now("final", "11.2"), what="the report")
    assert (first["name"], first["observations"][0]["note"]) == ("血常规", "已复核")
    got = await site.portal().call("GET", f"{of}/{first['id']}/attachments/1")
    assert (got.status, got.headers["Content-Type"]) == (200, "application/pdf")
    assert got.data == document

    assert await tell(site, *oru(30, "C", "12.1")) == ["CA", "AA"]
    corrected = await until(whole, is_now("corrected", "12.1"), what="the corrected report")
    assert (corrected["id"], corrected["version"]) == (first["id"], first["version"] + 1)

    assert await tell(site, *oru(10, "P", "10.0")) == ["CA", "AA"]  # sent before both, and late
    assert await tell(site, *oru(40, "C", "12.2")) == ["CA", "AA"]
    last = await until(whole, is_now("corrected", "12.2"), what="the next correction")
    assert last["version"] == first["version"] + 2
    assert len((await site.portal().get(of))["items"]) == 1
