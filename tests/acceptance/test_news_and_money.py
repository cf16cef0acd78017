"""What a portal hears and settles besides the booking itself: the event feed, webhooks, refunds, the day's books."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hmac
import json
import sys
import uuid
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.acceptance.installation import OTHER_KEY, Installation, run_installation, until
from tests.booking.merchant_files import made

SOAP = "soap-demo"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Installation]:
    async with run_installation(tmp_path) as found:
        yield found


async def test_the_feed_tells_every_state_in_order_when_a_booking_lives(site: Installation) -> None:
    booking = await site.booked(SOAP)
    await site.cancel(SOAP, booking)
    await site.becomes(SOAP, booking, state="cancelled", payment_state="refund_due")

    async def feed() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor = 0
        while page := (await site.portal().get("/v1/events", after=cursor, limit=2))["items"]:
            items += page
            cursor = page[-1]["seq"]
        return [e for e in items if e["data"].get("booking_id") == booking["id"] and e["type"] == "booking.changed"]

    told = await until(feed, lambda e: bool(e) and e[-1]["data"]["state"] == "cancelled", what="the last event")
    states = [e["data"]["state"] for e in told]
    assert list(dict.fromkeys(states)) == ["held", "booked", "cancelling", "cancelled"]
    versions = [e["data"]["version"] for e in told]
    assert versions == sorted(versions)
    assert [e["seq"] for e in told] == sorted({e["seq"] for e in told})
    assert told[-1]["data"]["payment_state"] == "refund_due"
    # Another portal hears nothing of it.
    assert (await site.portal(OTHER_KEY).get("/v1/events", after=0))["items"] == []


class Receiver:
    """A portal's webhook endpoint that refuses the first delivery and takes the rest."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.refused = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.refused == 0:
            self.refused += 1
            return web.Response(status=500)
        self.taken.append((dict(request.headers), body))
        return web.Response(status=204)


async def test_webhooks_are_signed_ordered_and_sent_again_when_refused(site: Installation) -> None:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        made = await site.portal().post("/v1/webhooks", {"url": url})
        booking = await site.locked(SOAP)

        async def seen() -> list[tuple[dict[str, str], bytes]]:
            return receiver.taken

        def locked(taken: list[tuple[dict[str, str], bytes]]) -> bool:
            return any(json.loads(body)["data"].get("his_state") == "locked" for _, body in taken)

        await until(seen, locked, what="the webhook of the lock")
    finally:
        await runner.cleanup()
    assert receiver.refused == 1
    key = base64.b64decode(made["secret"].removeprefix("whsec_"))
    for headers, body in receiver.taken:
        # Standard Webhooks 1.0.0, "Signature scheme": HMAC-SHA256 over `id.timestamp.payload`, base64, prefixed `v1,`.
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
        assert headers["webhook-signature"] == expected
    numbers = [json.loads(body)["seq"] for _, body in receiver.taken]
    assert numbers == sorted(set(numbers))
    assert json.loads(receiver.taken[0][1])["data"]["booking_id"] == booking["id"]


async def test_a_refund_is_settled_once_when_the_portal_reports_it(site: Installation) -> None:
    booking = await site.booked(SOAP)
    await site.cancel(SOAP, booking)
    over = await site.becomes(SOAP, booking, payment_state="refund_due")
    (refund,) = over["refunds"]
    of = f"/v1/hospitals/{SOAP}/refunds/{refund['id']}"
    assert (refund["status"], refund["amount_fen"]) == ("refund_due", booking["fee_fen"])

    unknown = await site.portal().post(of + "/result", {"status": "unknown"})
    assert unknown["status"] == "refund_unknown"  # a time-out at the payment channel is never a failure
    assert (await site.booking(SOAP, booking))["payment_state"] == "refund_due"
    done = {"status": "refunded", "refund_trade_no": "R1"}
    for _ in range(2):
        assert (await site.portal().post(of + "/result", done))["status"] == "refunded"
    assert (await site.booking(SOAP, booking))["payment_state"] == "refunded"
    late = await site.portal().call("POST", of + "/result", {"status": "failed"}, key=uuid.uuid4().hex)
    assert (late.status, late.code) == (409, "refund_conflict")


async def test_the_books_of_a_day_agree_until_one_line_is_missing(site: Installation) -> None:
    booking = await site.locked(SOAP)
    paid = await site.pay(SOAP, booking, trade_no="T-1")
    await site.becomes(SOAP, booking, state="booked")
    date = dt.datetime.fromisoformat(paid["payments"][0]["paid_at"]).date().isoformat()
    of = f"/v1/hospitals/{SOAP}"
    line = {"kind": "payment", "channel": "test-pay", "trade_no": "T-1", "amount_fen": booking["fee_fen"]}
    stray = {"kind": "payment", "channel": "test-pay", "trade_no": "T-9", "amount_fen": 100}

    absent = await site.portal().call("GET", f"{of}/reconciliations/{date}")
    assert (absent.status, absent.code) == (404, "reconciliation_unknown")
    assert (await site.portal().call("PUT", f"{of}/merchant-bills/{date}", {"lines": [line]})).status == 200
    assert (await site.portal().get(f"{of}/reconciliations/{date}"))["differences"] == []
    assert (await site.portal().call("PUT", f"{of}/merchant-bills/{date}", {"lines": [line, stray]})).status == 200
    (found,) = (await site.portal().get(f"{of}/reconciliations/{date}"))["differences"]
    assert (found["kind"], found["trade_no"], found["merchant_fen"]) == ("long", "T-9", 100)


async def test_the_channels_file_is_compared_and_read_in_pages(site: Installation) -> None:
    date = "2026-01-05"
    of, headers = f"/v1/hospitals/{SOAP}", {"Content-Type": "application/zip"}
    trades: list[made.Trade] = [("payment", "2088A", 100), ("payment", "2088B", 5), ("payment", "2088C", 7)]
    put = f"{of}/merchant-bills/{date}"
    data = made.alipay(trades, tail=["#cut off"])
    refused = await site.portal().call("PUT", f"{put}/alipay", data=data, headers=headers)
    assert (refused.status, refused.code) == (422, "merchant_bill_invalid")
    assert refused.body["errors"][0]["path"] == "line 11"  # the last one
    assert (await site.portal().call("GET", f"{of}/reconciliations/{date}")).code == "reconciliation_unknown"
    for source, file, kind in (
        ("alipay", made.alipay(trades), "application/zip"),
        ("wechat", made.gzipped(made.wechat([("payment", "4200D", 9)])), "application/gzip"),
    ):
        taken = await site.portal().call("PUT", f"{put}/{source}", data=file, headers={"Content-Type": kind})
        assert taken.status == 200
    assert (taken.body["lines"], taken.body["amount_fen"], taken.body["foreign_lines"]) == (1, 9, 0)
    wrong = await site.portal().call("PUT", f"{put}/WX!", data=data, headers=headers)
    assert (wrong.status, wrong.code) == (422, "invalid_field")

    first = await site.portal().get(f"{of}/reconciliations/{date}", limit=3)
    assert (first["total"], first["merchant_lines"], len(first["differences"])) == (4, 4, 3)
    rest = await site.portal().get(f"{of}/reconciliations/{date}", cursor=first["next"])
    assert (rest["next"], rest["compared_at"]) == (None, first["compared_at"])
    seen = [(one["trade_no"], one["kind"]) for page in (first, rest) for one in page["differences"]]
    assert seen == [("2088A", "long"), ("2088B", "long"), ("2088C", "long"), ("4200D", "long")]
    odd = await site.portal().call("GET", f"{of}/reconciliations/{date}?cursor=WzksOV0")  # [9,9]
    assert odd.code == "cursor_invalid"

    files = (site.folder / "d.csv", site.folder / "d.xlsx")
    said = await command(
        site, 1, "reconcile", date, "--hospital", SOAP, "--csv", str(files[0]), "--xlsx", str(files[1])
    )
    assert "2088A" in said
    assert "carry out the refund" in " ".join(said.split())  # what to do about a long one
    assert "4200D" in files[0].read_text(encoding="utf-8-sig")
    assert files[1].stat().st_size > 500
    assert "agrees" in await command(site, 0, "ledger", SOAP)
    assert f"{date[:-2]}04/SOURCE" in await command(site, 1, "reconcile", f"{date[:-2]}04", "--hospital", SOAP)
    assert "None is open." in await command(site, 0, "refunds", "list", SOAP)
    assert "no refund rf_x" in await command(site, 2, "refunds", "booked", SOAP, "rf_x")


async def command(site: Installation, code: int, *words: str) -> str:
    """What `hisbridge` prints, beside the running service."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *words, "--config", str(site.config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == code, said.decode()
    return said.decode()
