"""One client against the steps of another, over real sockets: it cannot take all places, nor all memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from booking.api import application
from booking.api.admission import LONGEST_ID, Admission
from booking.api.application import ApiOptions, build_server
from booking.api.auth import ApiClient, Authenticator, digest_api_key
from booking.api.classes import RequestClass
from booking.api.places import Places, Shares
from booking.api.routing import Call, Route
from booking.api.views.bookings import BookingView
from booking.api.views.money import NewPayment
from tests.booking.api.raw import until_metric

PAYMENT = {"channel": "wx", "trade_no": "1", "amount_fen": 100, "paid_at": "2031-03-03T07:00:00+08:00"}
PATH = "/v1/hospitals/h1/bookings/{}/payments"
ALL = 40


class Clients:
    """Whoever has a key is called like it."""

    async def lookup(self, digest: str) -> ApiClient | None:
        known = {digest_api_key(name): name for name in ("greedy", "other")}
        name = known.get(digest)
        return None if name is None else ApiClient(id=name, name=name, scopes=frozenset({"booking"}))


async def pay(call: Call[None, NewPayment]) -> web.Response:
    return web.Response(status=204)


@asynccontextmanager
async def serving(options: ApiOptions) -> AsyncIterator[tuple[str, int]]:
    route = Route(
        "POST", "/v1/hospitals/{hospital_id}/bookings/{booking_id}/payments", pay, summary="x", tag="x",
        request_class=RequestClass.STEP, request=NewPayment, response=BookingView, status=202, scopes=("booking",),
        identified_by=("booking_id",),
    )  # fmt: skip
    runner = web.ServerRunner(build_server([route], authenticator=Authenticator(Clients()), options=options))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield host, port
    await runner.cleanup()


async def paid(address: tuple[str, int], booking_id: str, key: str) -> int:
    url, fields = f"http://{address[0]}:{address[1]}{PATH.format(booking_id)}", {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=PAYMENT, headers=fields) as answer:
        return answer.status


async def test_payment_is_answered_when_another_client_does_not_end_its_own() -> None:
    async with serving(ApiOptions(max_in_flight=ALL)) as (host, port):
        head = (
            f"POST {PATH.format('b')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer greedy\r\n"
            "Content-Type: application/json\r\nContent-Length: 200\r\n\r\n{"
        ).encode()
        writers = []
        for _ in range(ALL):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(head)
            writers.append(writer)
        await until_metric("hisbridge_http_requests_in_flight", ALL - 1)
        assert await paid((host, port), "b1", "other") == 204
        for writer in writers:
            writer.close()


def test_steps_of_one_client_leave_a_place_to_others_beside_whatever_else_it_does() -> None:
    pool = Places(Shares(max_in_flight=ALL, client_share=0.5)).pool(waits=False)
    assert [pool.enter_client("greedy") for _ in range(ALL)].count(True) == ALL // 2
    assert [pool.enter_client("greedy", is_step=True) for _ in range(ALL)].count(True) == ALL // 2 - 1
    assert pool.enter_client("other", is_step=True)
    pool.leave_client("greedy", is_step=True)
    assert pool.enter_client("greedy", is_step=True)
    assert not pool.enter_client("greedy", is_step=True)


def test_only_client_has_a_place_for_its_step_when_there_is_one() -> None:
    assert Places(Shares(max_in_flight=1)).pool(waits=False).enter_client("only", is_step=True)


async def test_long_ids_that_are_made_up_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Admission] = []

    class Seen(Admission):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(application, "Admission", Seen)
    async with serving(ApiOptions(identity_rate_per_s=1, identity_burst=20)) as address:
        for number in range(5):
            assert await paid(address, f"{number:08d}{'x' * 4000}", "greedy") == 204
    kept = made[0]._identities
    assert kept is not None
    assert [len(str(part)) for key in kept._buckets for part in key][2::3] == [LONGEST_ID] * 5  # type: ignore[attr-defined]
