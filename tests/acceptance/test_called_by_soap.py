"""A hospital that calls us by SOAP (12320), whole: the real service as a process, its sockets and its store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtest.ports import free_port
from loadtest.simulators import soap
from loadtest.simulators.hospital import Hospital
from tests.acceptance.installation import (
    CALL_TIMEOUT_S,
    QUICK,
    Clinic,
    Installation,
    add_keys,
    made_up_person,
    run_process,
    to_toml,
    until,
    write_secrets,
)
from tests.connectors.soap.served.his import Said, call, document, envelope, opened, secret_files

PLATFORM = "platform-demo"
WRITES = ("lock_slot", "register", "cancel_registration", "create_patient", "fetch_registration", "settle_bill")
DONE, UNSIGNED, NOTHING, AWAY = "0", "100002", "100005", "100009"
KILLED_AFTER_S = (0.0, 0.004, 0.01, 0.03)


@contextlib.asynccontextmanager
async def laid_out(folder: Path) -> AsyncIterator[tuple[Installation, str]]:
    """The hospital, settings and keys, and where it calls us; the service does not run yet."""
    listen = free_port()
    simulator = await soap.start(dialect="jkt12320", hospital=Hospital("P", days=1, seats=30))
    settings: dict[str, Any] = {
        "profiles_dir": "profiles",
        "service": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "drain_s": 5, "key_cache_s": 1},
        "store": {
            "url": f"sqlite:///{folder.as_posix()}/hisbridge.db",
            "messages_url": f"sqlite:///{folder.as_posix()}/messages.db",
        },
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {
            PLATFORM: {
                "name": "平台医院",
                "reserve_by": "lock",
                **QUICK,
                "connector": {
                    "his": {
                        "protocol": "soap", "profile": "jkt12320@1", "endpoint": simulator.url,
                        "listen_host": "127.0.0.1", "listen_port": listen, "allow": ["127.0.0.1"],
                        "secret_files": secret_files(folder), "timeout_s": dict.fromkeys(WRITES, CALL_TIMEOUT_S),
                    }
                },
            }
        },
    }  # fmt: skip
    config = folder / "hisbridge.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    write_secrets(folder)
    clinic = Clinic(PLATFORM, simulator)
    try:
        await add_keys(config)
        yield Installation(folder, config, {PLATFORM: clinic}), f"http://127.0.0.1:{listen}/PubService"
    finally:
        await clinic.close()


async def command(site: Installation, *words: str) -> str:
    """What `hisbridge messages` prints for this hospital."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "messages", words[0], PLATFORM, *words[1:], "--config", str(site.config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, said.decode()
    return said.decode()


async def post(url: str, body: bytes) -> Said:
    """What the HIS is answered; it has all the time that it needs."""
    headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '""'}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return Said(response.status, response.headers["Content-Type"], await response.read())


def stop_of(booking: dict[str, Any]) -> bytes:
    return call("5001", f"<STOP_TYPE>3</STOP_TYPE><ORDER_ID>{booking['order_no']}</ORDER_ID>")


async def test_booking_is_told_what_the_hospital_calls_when_it_calls_by_soap(tmp_path: Path) -> None:
    async with laid_out(tmp_path) as (site, url), run_process(site):
        # 5001 停诊 of one order, and the same once more
        booking = await site.booked(PLATFORM)
        for _ in range(2):
            said = await post(url, stop_of(booking))
            assert (said.status, said.code) == (200, DONE)
        seen = await site.becomes(PLATFORM, booking, state="stopped", payment_state="refund_due", his_state="released")
        [refund] = seen["refunds"]

        # 5006: the hospital asks what became of the money, before and after the portal has given it back
        named = f"<ORDER_ID>{booking['order_no']}</ORDER_ID>"
        assert f"<REFUND_STATUS>0</REFUND_STATUS><REFUND_AMOUNT>{booking['fee_fen']}</REFUND_AMOUNT>" in await told(
            url, named
        )
        await site.portal().post(f"/v1/hospitals/{PLATFORM}/refunds/{refund['id']}/result", {"status": "refunded"})
        assert "<REFUND_STATUS>2</REFUND_STATUS>" in await told(url, named)
        assert (await post(url, call("5006", "<ORDER_ID>20260105000000000099</ORDER_ID>"))).code == NOTHING
        assert await site.metric("hisbridge_inbound_messages_total", type="5001", result="duplicate") == 1

        # What is not signed changes nothing
        booking = await site.booked(PLATFORM)
        forged = document("5002", f"<ORDER_ID>{booking['order_no']}</ORDER_ID>", sign="0" * 32)
        said = await post(url, envelope(f"<xml><![CDATA[{forged}]]></xml>").encode())
        assert (said.status, said.code) == (200, UNSIGNED)
        assert await site.metric("hisbridge_soap_calls_refused_total", reason="unsigned") == 1
        assert (await site.booking(PLATFORM, booking))["version"] == booking["version"]

        # 5004: the patient has checked in
        named = f"<ORDER_ID>{booking['order_no']}</ORDER_ID>"
        assert (await post(url, call("5004", f"{named}<HOSP_SERIAL_NUM>12</HOSP_SERIAL_NUM>"))).code == DONE
        await site.becomes(PLATFORM, booking, state="checked_in")

        # 5005: a seat that was only locked is paid at the window; 5002: the hospital cancels it
        held = await site.locked(PLATFORM)
        named = f"<ORDER_ID>{held['order_no']}</ORDER_ID>"
        assert (await post(url, call("5005", named))).code == DONE
        await site.becomes(PLATFORM, held, state="booked", payment_state="paid_at_window")
        assert (await post(url, call("5002", named))).code == DONE
        await site.becomes(PLATFORM, held, state="cancelled", his_state="released")

        # 7001: a bill appears
        person = made_up_person()
        await site.patient(PLATFORM, person)
        mrn = await site.clinics[PLATFORM].mrn_of(person)
        bill = f"<BILL_NO>W1</BILL_NO><BILL_AMOUNT>1250</BILL_AMOUNT><HOSP_PATIENT_ID>{mrn}</HOSP_PATIENT_ID>"
        assert (await post(url, call("7001", f"<BILL_LIST><BILL>{bill}</BILL></BILL_LIST>"))).code == DONE
        issued = await until(
            lambda: events_of(site, "bill.changed"), lambda seen: len(seen) > 0, what="the bill's event"
        )
        assert [one["data"]["status"] for one in issued] == ["open"]

        # What cannot be mapped waits for a person, and is answered as done
        assert (await post(url, call("5001", "<STOP_TYPE>9</STOP_TYPE>"))).code == DONE
        await until(
            lambda: site.metric("hisbridge_dead_letters", hospital=PLATFORM, box="inbox"),
            lambda waiting: waiting == 1,
            what="the message that waits for a person",
        )


async def told(url: str, named: str) -> str:
    """The document of the answer to 5006."""
    said = await post(url, call("5006", named))
    assert (said.status, said.code) == (200, DONE)
    return opened(said.parts["RES_ENCRYPTED"])


async def events_of(site: Installation, kind: str) -> list[dict[str, Any]]:
    items = (await site.portal().get("/v1/events", limit="200"))["items"]
    return [one for one in items if one["type"] == kind]


async def test_call_is_replayed_when_the_site_has_corrected_its_profile(tmp_path: Path) -> None:
    async with laid_out(tmp_path) as (site, url), run_process(site):
        booking = await site.booked(PLATFORM)
        stop = f"<MSG_ID>M9</MSG_ID><STOP_TYPE>9</STOP_TYPE><ORDER_ID>{booking['order_no']}</ORDER_ID>"
        assert (await post(url, call("5001", stop))).code == DONE
        assert (await post(url, call("5001", stop).replace(b"5001", b"5002"))).code == UNSIGNED

        async def listed() -> list[dict[str, Any]]:
            return [
                json.loads(line) for line in (await command(site, "list", "--json", "--direction", "in")).splitlines()
            ]

        refused, waits = await until(
            listed, lambda found: [one["answer"] for one in found] == [UNSIGNED, DONE], what="both"
        )
        assert (refused["state"], refused["order_no"]) == ("refused", None)
        assert (waits["state"], waits["message_type"], waits["control_id"]) == ("quarantined", "5001", "M9")
        assert waits["order_no"] == booking["order_no"]
        shown = await command(site, "show", waits["id"])
        assert "inbound.5001.stop.fields.scope" in shown
        assert "PubService" in shown
        # At this hospital 9 is an order.
        own = "name: own\nversion: 1\nprotocol: soap\nextends: jkt12320@1\ntables: {stop_scope: {'9': order}}\n"
        (tmp_path / "profiles" / "own").mkdir(parents=True)
        (tmp_path / "profiles" / "own" / "profile.yaml").write_text(own, encoding="utf-8")
        site.config.write_text(site.config.read_text("utf-8").replace("jkt12320@1", "own@1"), encoding="utf-8")
        await command(site, "replay", waits["id"])
        await site.becomes(PLATFORM, booking, state="stopped", payment_state="refund_due")


async def test_call_is_to_come_again_when_the_message_store_is_away(tmp_path: Path) -> None:
    async with laid_out(tmp_path) as (site, url), run_process(site):
        booking = await site.booked(PLATFORM)
        # Somebody else holds the file, for longer than a writer waits.
        with contextlib.closing(sqlite3.connect(tmp_path / "messages.db", isolation_level=None)) as other:
            other.execute("begin exclusive")
            said = await post(url, stop_of(booking))
            assert (said.status, said.code) == (200, AWAY)
            other.execute("rollback")
        assert (await site.booking(PLATFORM, booking))["state"] == "booked"

        async def again() -> str:
            return (await post(url, stop_of(booking))).code

        await until(again, lambda code: code == DONE, what="the repeat")
        seen = await site.becomes(PLATFORM, booking, state="stopped")
        assert len(seen["refunds"]) == 1


@pytest.mark.parametrize("killed_after_s", KILLED_AFTER_S)
async def test_stop_is_carried_out_once_when_the_service_is_killed_before_it_has_answered(
    killed_after_s: float, tmp_path: Path
) -> None:
    async with laid_out(tmp_path) as (site, url):
        async with run_process(site) as process:
            booking = await site.booked(PLATFORM)
            calling = asyncio.create_task(post(url, stop_of(booking)))
            await asyncio.sleep(killed_after_s)
            await process.kill()
            with contextlib.suppress(aiohttp.ClientError):
                assert (await calling).code == DONE
        async with run_process(site):
            # The hospital has no answer, and repeats.
            assert (await post(url, stop_of(booking))).code == DONE
            seen = await site.becomes(PLATFORM, booking, state="stopped", payment_state="refund_due")
            assert len(seen["refunds"]) == 1
            # In the feed it stands once, when it is numbered: the killed process had the turn for that.
            due = await until(lambda: events_of(site, "refund.changed"), lambda seen: len(seen) > 0, what="the event")
            assert [one["data"]["status"] for one in due] == ["refund_due"]
