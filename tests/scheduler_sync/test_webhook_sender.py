"""Webhooks on real sockets: each by itself, in order, and none in the way of another; and what the clock does at rest."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from sqlalchemy import select, text, update

from booking.errors import Refusal
from booking.idempotency import remember
from booking.keys import SCOPE as KEYS
from booking.keys import add_key, end_key
from booking.news import NUMBERED, SEQUENCER, number_all, tell
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import idempotency_keys, webhooks
from booking.webhook_targets import networks_of
from booking.webhooks import (
    MOST_PER_CLIENT,
    SCOPE,
    add_webhook,
    due_deliveries,
    remove_webhook,
    resume_webhook,
    webhooks_of,
)
from monitoring import metrics
from scheduler_sync.sweeps import Forgetting, repeat
from scheduler_sync.webhooks import WebhookSender
from tests.booking.world import CLIENT, HOSPITAL
from tests.scheduler_sync.peer import until
from tests.stores import Wall


class Receiver:
    """Takes what is pushed; a path in `stuck` takes nothing until `release` is set, one in `broken` answers with that."""

    def __init__(self) -> None:
        self.got: defaultdict[str, list[int]] = defaultdict(list)
        self.stuck: set[str] = set()
        self.broken: dict[str, tuple[int, dict[str, str]]] = {}
        self.release = asyncio.Event()
        self.cookies: list[str | None] = []
        self.base = ""

    async def take(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name in self.stuck:
            await self.release.wait()
        if name in self.broken:
            status, headers = self.broken[name]
            return web.Response(status=status, headers=headers)
        self.cookies.append(request.headers.get("Cookie"))
        self.got[name].append(msgspec.json.decode(await request.read())["data"]["n"])
        return web.Response(headers={"Set-Cookie": f"seen={name}"})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    it = Receiver()
    app = web.Application()
    app.router.add_post("/{name}", it.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    it.base = f"http://{host}:{port}/"
    yield it
    it.release.set()
    await runner.cleanup()


@asynccontextmanager
async def sending(store: Store, *networks: str) -> AsyncIterator[WebhookSender]:
    """The numbering and the sending, as the service runs them."""
    stopping = asyncio.Event()
    sender = WebhookSender(store, networks=networks_of(networks))
    loops = [
        asyncio.create_task(work)
        for work in (
            repeat(stopping, 1.0, lambda: number_all(store), name="number", bell=store.bell, topic=SEQUENCER),
            repeat(stopping, 1.0, sender.send_due, name="webhooks", bell=store.bell, topic=NUMBERED),
        )
    ]
    try:
        yield sender
    finally:
        stopping.set()
        await asyncio.gather(*loops)
        await sender.close()


async def say(store: Store, *numbers: int, client: str = CLIENT) -> None:
    async with store.write(HOSPITAL) as tx:
        for n in numbers:
            await tell(tx, client, "test.said", {"n": n})


async def hook(store: Store, receiver: Receiver, name: str, client: str = CLIENT) -> str:
    async with store.write(SCOPE) as tx:
        return (await add_webhook(tx, client, receiver.base + name))[0]


def has(receiver: Receiver, name: str, numbers: list[int]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return receiver.got[name] == numbers

    return look


async def test_webhook_delivers_when_many_others_have_nothing_to_send(store: Store, receiver: Receiver) -> None:
    for n in range(25):
        await hook(store, receiver, f"idle{n}", client=f"quiet{n}")
    await hook(store, receiver, "mine")
    await say(store, 1)
    await number_all(store)
    assert [d.url for d in await due_deliveries(store, limit=1)] == [receiver.base + "mine"]


async def test_events_come_in_order_when_there_are_many(store: Store, receiver: Receiver) -> None:
    await hook(store, receiver, "a")
    async with sending(store):
        await say(store, *range(130))
        await until(has(receiver, "a", list(range(130))))


async def test_others_get_their_events_when_one_receiver_is_stuck(store: Store, receiver: Receiver) -> None:
    await hook(store, receiver, "stuck")
    await hook(store, receiver, "well", client="another")
    receiver.stuck.add("stuck")
    async with sending(store):
        await say(store, 1)
        for n in range(5):
            await say(store, n, client="another")
            await until(has(receiver, "well", list(range(n + 1))))
        assert receiver.got["stuck"] == []
        receiver.release.set()
        await until(has(receiver, "stuck", [1]))


async def test_event_waits_for_its_turn_when_it_was_not_taken(store: Store, receiver: Receiver, wall: Wall) -> None:
    await hook(store, receiver, "a")
    receiver.broken["a"] = (500, {})
    async with sending(store):
        await say(store, 1, 2)

        async def tried() -> bool:
            async with store.read() as tx:
                return [w["failures"] for w in await tx.all(select(webhooks))] == [1]

        await until(tried)
        receiver.broken.clear()
        wall.turn(1)
        store.bell.ring(NUMBERED)
        await until(has(receiver, "a", [1, 2]))


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"Retry-After": "90"}, 90),
        ({"Date": "Mon, 03 Mar 2031 01:00:00 GMT", "Retry-After": "Mon, 03 Mar 2031 01:02:00 GMT"}, 120),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "99999999"}, 3600),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_busy_receiver_is_left_alone_as_long_as_it_asks_for(
    store: Store, receiver: Receiver, wall: Wall, status: int, headers: dict[str, str], pause_s: int
) -> None:
    await hook(store, receiver, "a")
    receiver.broken["a"] = (status, headers)
    async with sending(store):
        await say(store, 1)

        async def tried() -> bool:
            async with store.read() as tx:
                return [(w["failures"], w["due_ms"]) for w in await tx.all(select(webhooks))] == [
                    (1, wall.now_ms + pause_s * 1000)
                ]

        await until(tried)


async def test_webhook_is_disabled_at_once_when_its_receiver_is_gone_and_goes_on_when_it_is_resumed(
    store: Store, receiver: Receiver
) -> None:
    webhook_id = await hook(store, receiver, "a")
    receiver.broken["a"] = (410, {})
    before = metrics.REGISTRY.get_sample_value("hisbridge_webhooks_disabled_total") or 0.0
    async with sending(store):
        await say(store, 1, 2)

        async def disabled() -> bool:
            async with store.read() as tx:
                return [w["status"] for w in await tx.all(select(webhooks))] == ["disabled"]

        await until(disabled)
        assert metrics.REGISTRY.get_sample_value("hisbridge_webhooks_disabled_total") == before + 1
        receiver.broken.clear()
        async with store.write(SCOPE) as tx:
            await resume_webhook(tx, CLIENT, webhook_id, after=None)
        await until(has(receiver, "a", [1, 2]))


async def test_others_get_their_events_when_the_secret_of_one_is_lost(store: Store, receiver: Receiver) -> None:
    lost = await hook(store, receiver, "lost")
    await hook(store, receiver, "well")
    async with store.write(SCOPE) as tx:
        await tx.run(update(webhooks).where(webhooks.c.id == lost).values(sealed_secret=b"\x01\x04gone" + b"x" * 40))
    async with sending(store):
        await say(store, 1, 2)
        await until(has(receiver, "well", [1, 2]))
    async with store.read() as tx:
        row = await tx.first(select(webhooks).where(webhooks.c.id == lost))
    assert row is not None
    assert row["failures"] == 1
    assert receiver.got["lost"] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_webhook_leads_nowhere_but_where_the_installation_lets_it(
    store: Store, receiver: Receiver, host: str
) -> None:
    """Whatever its name leads to: it is judged when it is called."""
    receiver.base = receiver.base.replace("127.0.0.1", host)
    await hook(store, receiver, "a")
    await say(store, 1)
    async with sending(store, "10.0.0.0/8", "::1/128"):

        async def tried() -> bool:
            async with store.read() as tx:
                return [w["failures"] for w in await tx.all(select(webhooks))] == [1]

        await until(tried)
        assert receiver.got["a"] == []
    async with store.write(SCOPE) as tx:
        await tx.run(update(webhooks).values(due_ms=0))
    async with sending(store, "127.0.0.0/8"):
        await until(has(receiver, "a", [1]))


async def test_receiver_hears_no_cookie_of_its_own_or_of_another(store: Store, receiver: Receiver) -> None:
    receiver.base = receiver.base.replace("127.0.0.1", "localhost")  # cookies of addresses are not kept by themselves
    await hook(store, receiver, "a")
    await hook(store, receiver, "b")
    async with sending(store):
        await say(store, 1, 2)
        for name in "ab":
            await until(has(receiver, name, [1, 2]))
    assert receiver.cookies == [None] * 4


async def test_client_has_so_many_webhooks_and_no_more(store: Store, receiver: Receiver) -> None:
    for n in range(MOST_PER_CLIENT):
        await hook(store, receiver, f"a{n}")
    with pytest.raises(Refusal, match="limit_reached"):
        await hook(store, receiver, "b")
    await hook(store, receiver, "c", client="another")


async def test_nothing_more_is_pushed_when_the_last_key_of_a_client_is_revoked(
    store: Store, receiver: Receiver
) -> None:
    await hook(store, receiver, "a")
    await hook(store, receiver, "b", client="another")
    async with store.write(KEYS) as tx:
        one, two = [await add_key(tx, k, client_id=CLIENT, name=k, scopes=[], hospitals=None) for k in ("k1", "k2")]
    assert await end_key(store, one) == 0
    async with store.read() as tx:
        assert {w["status"] for w in await tx.all(select(webhooks))} == {"active"}
    assert await end_key(store, two) == 1
    assert await end_key(store, two) is None
    await say(store, 1)
    await say(store, 2, client="another")
    async with sending(store):
        await until(has(receiver, "b", [2]))
    assert receiver.got["a"] == []


async def do(store: Store, *statements: str) -> None:
    async with store.write(SCOPE) as tx:
        for statement in statements:
            await tx.conn.execute(text(statement))


@asynccontextmanager
async def refusing_updates(store: Store) -> AsyncIterator[None]:
    """The store reads, and takes no change of a webhook, as on a full disk."""
    if store.dialect == "sqlite":
        await do(store, "create trigger broken before update on webhooks begin select raise(abort, 'no'); end")
    else:
        await do(
            store,
            "create function broken() returns trigger as 'begin raise exception ''no''; end' language plpgsql",
            "create trigger broken before update on webhooks for each row execute function broken()",
        )
    try:
        yield
    finally:
        await do(store, "drop trigger broken" + ("" if store.dialect == "sqlite" else " on webhooks"))
        if store.dialect != "sqlite":
            await do(store, "drop function broken")


async def test_receiver_is_not_stormed_when_what_it_has_taken_cannot_be_noted(store: Store, receiver: Receiver) -> None:
    """The event comes again with every look, which is one a second, and no more often than that."""
    await hook(store, receiver, "a")
    await say(store, 1)

    async def came() -> bool:
        return bool(receiver.got["a"])

    async with refusing_updates(store), sending(store):
        await until(came)
        await asyncio.sleep(1.5)
    assert len(receiver.got["a"]) <= 4
    before = len(receiver.got["a"])
    async with sending(store):  # and it goes on when it can be noted
        await say(store, 2)
        await until(has(receiver, "a", [1] * (before + 1) + [2]))


async def test_removed_webhook_gets_nothing_more_when_events_follow(store: Store, receiver: Receiver) -> None:
    gone, kept = await hook(store, receiver, "gone"), await hook(store, receiver, "kept")
    async with store.write(SCOPE) as tx:
        assert not await remove_webhook(tx, "another", gone)
        assert await remove_webhook(tx, CLIENT, gone)
        assert not await remove_webhook(tx, CLIENT, gone)
        assert [w["id"] for w in await webhooks_of(tx, CLIENT)] == [kept]
    async with sending(store):
        await say(store, 1)
        await until(has(receiver, "kept", [1]))
    assert receiver.got["gone"] == []


async def test_database_is_left_alone_when_nothing_happens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions a second at most, where there were fifteen."""
    asked = 0
    begin = Store._transaction

    def count(*call: Any) -> Any:
        nonlocal asked
        asked += 1
        return begin(*call)

    async with sending(store):
        await asyncio.sleep(0.3)  # the first round of each
        monkeypatch.setattr(Store, "_transaction", count)
        await asyncio.sleep(1.5)
    assert 1 <= asked <= 4


async def test_loop_ends_at_once_when_the_service_stops() -> None:
    stopping = asyncio.Event()
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    loop = asyncio.create_task(repeat(stopping, 3600, work, name="test"))
    await done.wait()
    stopping.set()
    async with asyncio.timeout(10):
        await loop


async def test_all_that_is_old_goes_in_one_round_when_the_clock_says_so(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    """Keys of webhooks too, which belong to no hospital."""
    for scope in (SCOPE, HOSPITAL):
        async with store.write(scope) as tx:
            for n in range(250):
                await remember(tx, CLIENT, f"k{n}", "d", 201, b"{}")
    wall.turn(24 * 3600)
    forgetting = Forgetting(store, messages, [hospital], asyncio.Event(), keep_messages_days=180)
    await forgetting.forget_old()
    async with store.read() as tx:
        assert await tx.all(select(idempotency_keys.c.key)) == []
