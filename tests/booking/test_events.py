"""The event feed: numbered after commit, without gaps or inversions, and the webhooks that push it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools

import msgspec
import pytest
from sqlalchemy import select

from booking.errors import Refusal
from booking.news import Pace, forget_events, number_events, tell
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.ids import first_id
from booking.store.tables import events, webhooks
from booking.webhooks import (
    NOT_TAKEN,
    SCOPE,
    TAKEN,
    Answer,
    Delivery,
    add_webhook,
    due_deliveries,
    record_delivery,
    resume_webhook,
    sign,
)
from monitoring import metrics
from tests.booking.world import CLIENT, HOSPITAL, LI, ZHANG, cancel, hold, put_patient, put_slot, send_and_answer
from tests.stores import BEGIN_MS, Wall


async def say(store: Store, word: str, *, client: str = CLIENT, hospital_id: str = HOSPITAL) -> None:
    async with store.write(hospital_id) as tx:
        await tell(tx, client, "test.said", {"word": word})


async def feed(store: Store) -> list[tuple[int, str, dict[str, object]]]:
    """(number, type, payload) of every numbered event."""
    async with store.read() as tx:
        rows = await tx.all(select(events).where(events.c.seq.is_not(None)).order_by(events.c.seq))
    return [(r["seq"], r["type"], msgspec.json.decode(r["payload"])) for r in rows]


async def test_numbers_follow_each_other_when_rounds_are_small(store: Store) -> None:
    for word in "abcde":
        await say(store, word)
    assert [await number_events(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [(seq, payload["word"]) for seq, _, payload in await feed(store)] == list(enumerate("abcde", 1))


async def test_order_is_that_of_the_commits_when_the_clocks_of_machines_differ(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """Events are numbered by their ids: those are of the store's time, as every process of every machine reads it."""
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send_and_answer(store, hospital, booking.id)
    wall.turn(0.001)
    await cancel(store, hospital, booking.id)
    async with store.read() as tx:
        rows = await tx.all(select(events).order_by(events.c.id))
    assert [msgspec.json.decode(r["payload"])["version"] for r in rows] == [1, 2, 3]
    assert [r["id"][:13] for r in rows] == [first_id(r["created_ms"])[:13] for r in rows]


async def test_order_has_no_gap_and_no_inversion_when_many_write_and_two_number(store: Store) -> None:
    """Each writer's own words keep their order, every word gets one number, whoever numbers in between."""

    async def write(name: str) -> None:
        for n in range(6):
            await say(store, f"{name}{n}", hospital_id=f"h-{name}")

    async def number(rounds: int) -> None:
        for _ in range(rounds):
            await number_events(store, limit=3)
            await asyncio.sleep(0)

    await asyncio.gather(*(write(name) for name in "abcd"), number(6), number(6))
    while await number_events(store):
        pass
    told = await feed(store)
    assert [seq for seq, _, _ in told] == list(range(1, 25))
    words = [str(payload["word"]) for _, _, payload in told]
    for name in "abcd":
        assert [w for w in words if w[0] == name] == [f"{name}{n}" for n in range(6)]


async def test_numbers_go_on_from_a_hold_that_numbered_its_own_event(store: Store, hospital: Hospital) -> None:
    """On SQLite the batch of holds numbers its events as it writes them; the others are numbered afterwards."""
    await say(store, "before")
    await number_events(store)
    await hold(store, hospital, await put_slot(store), await put_patient(store))
    await say(store, "after")
    while await number_events(store):
        pass
    told = await feed(store)
    assert [seq for seq, _, _ in told] == list(range(1, len(told) + 1))
    assert [kind for _, kind, _ in told] == ["test.said", "booking.changed", "test.said"]


def test_round_of_numbering_follows_what_fits_into_its_time() -> None:
    pace = Pace()
    assert pace.limit == 200
    pace.note(200, 0.003)  # four times as many would fit: twice as many at once are enough
    assert pace.limit == 400
    pace.note(399, 1.0)  # not a full one: it tells nothing
    assert pace.limit == 400
    pace.note(400, 0.024)
    assert pace.limit == 200
    for _ in range(10):
        pace.note(pace.limit, 0.0001)
    assert pace.limit == Pace.MOST
    for _ in range(10):
        pace.note(pace.limit, 10.0)
    assert pace.limit == Pace.LEAST


async def test_reader_never_misses_an_event_when_a_write_commits_late(store: Store) -> None:
    """What is numbered is committed: a cursor that has passed a number will never see a smaller one appear."""
    async with store.write(HOSPITAL) as tx:
        await tell(tx, CLIENT, "test.said", {"word": "late"})
        if store.dialect != "sqlite":  # there, hospitals write beside each other
            await say(store, "early", hospital_id="h2")
            assert await number_events(store) == 1
    await number_events(store)
    assert [payload["word"] for _, _, payload in await feed(store)][-1] == "late"
    assert [seq for seq, _, _ in await feed(store)] == list(range(1, len(await feed(store)) + 1))


async def test_every_change_is_told_once_in_its_order_when_a_booking_lives(store: Store, hospital: Hospital) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store, ZHANG))
    await send_and_answer(store, hospital, booking.id)
    await cancel(store, hospital, booking.id)
    done = await send_and_answer(store, hospital, booking.id)
    await number_events(store)
    told = [payload for _, kind, payload in await feed(store) if kind == "booking.changed"]
    assert [(p["state"], p["his_state"]) for p in told] == [
        ("held", "none"), ("held", "locked"), ("cancelling", "locked"), ("cancelled", "released"),
    ]  # fmt: skip
    versions = [int(str(p["version"])) for p in told]
    assert versions == sorted(set(versions))
    assert versions[-1] == done.version


async def test_no_patient_data_is_in_the_feed_when_bookings_are_told(store: Store, hospital: Hospital) -> None:
    for person in (ZHANG, LI):
        booking = await hold(store, hospital, await put_slot(store), await put_patient(store, person))
        await send_and_answer(store, hospital, booking.id, "full")
    async with store.read() as tx:
        text = "".join(r["payload"] for r in await tx.all(select(events.c.payload)))
    assert "order_no" in text
    for person in (ZHANG, LI):
        assert person.name not in text
        assert str(person.id_number) not in text


async def test_old_events_go_but_numbers_are_never_reused_when_thirty_days_have_passed(
    store: Store, wall: Wall
) -> None:
    for word in "abc":
        await say(store, word)
    await number_events(store)
    wall.turn(30 * 24 * 3600 + 1)
    assert await forget_events(store, limit=1) == 1
    assert await forget_events(store) == 1
    assert await forget_events(store) == 0
    await say(store, "d")
    await number_events(store)
    assert [(seq, payload["word"]) for seq, _, payload in await feed(store)] == [(3, "c"), (4, "d")]


# --- webhooks ----------------------------------------------------------------------------------------------------------


def test_signature_is_the_published_one_when_the_standard_webhooks_vector_is_signed() -> None:
    """The test vector of the Standard Webhooks reference libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


async def deliveries(store: Store) -> list[Delivery]:
    await number_events(store)
    return await due_deliveries(store)


async def hook(store: Store, url: str = "https://portal.example/hook", client: str = CLIENT) -> tuple[str, str]:
    async with store.write(SCOPE) as tx:
        return await add_webhook(tx, client, url)


async def test_delivery_can_be_verified_when_it_is_checked_as_the_standard_says(store: Store) -> None:
    _, secret = await hook(store)
    await say(store, "hello")
    (delivery,) = await deliveries(store)
    headers = delivery.headers
    key = base64.b64decode(secret.split("_", 1)[1])
    assert 24 <= len(key) <= 64
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), delivery.body])
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-timestamp"] == str(BEGIN_MS // 1000)
    assert msgspec.json.decode(delivery.body) == {
        "type": "test.said", "seq": 1, "hospital_id": HOSPITAL, "at_ms": BEGIN_MS, "data": {"word": "hello"},
    }  # fmt: skip


async def test_webhook_begins_with_the_next_event_of_its_own_client_when_it_is_added(store: Store) -> None:
    await say(store, "before")
    await number_events(store)
    await hook(store)
    await say(store, "theirs", client="another")
    assert await deliveries(store) == []
    await say(store, "mine")
    assert [msgspec.json.decode(d.body)["data"] for d in await deliveries(store)] == [{"word": "mine"}]


async def test_events_come_one_by_one_and_in_order_when_each_is_taken(store: Store) -> None:
    await hook(store)
    for word in "abc":
        await say(store, word)
    got = []
    while due := await deliveries(store):
        (delivery,) = due
        got.append(msgspec.json.decode(delivery.body)["data"]["word"])
        await record_delivery(store, delivery, TAKEN)
    assert got == ["a", "b", "c"]


async def test_same_event_is_tried_with_growing_pauses_when_it_is_not_taken(store: Store, wall: Wall) -> None:
    await hook(store)
    await say(store, "a")
    await say(store, "b")
    ids = set()
    for pause_s in (1, 4, 16, 64, 256, 1024, 3600, 3600):
        (delivery,) = await deliveries(store)
        ids.add(delivery.headers["webhook-id"])
        await record_delivery(store, delivery, NOT_TAKEN)
        wall.turn(pause_s - 0.001)
        assert await deliveries(store) == []
        wall.turn(0.001)
    assert len(ids) == 1
    (delivery,) = await deliveries(store)
    await record_delivery(store, delivery, TAKEN)
    (delivery,) = await deliveries(store)  # at once again
    assert msgspec.json.decode(delivery.body)["data"] == {"word": "b"}


async def test_cursor_does_not_go_back_when_a_late_result_is_recorded(store: Store) -> None:
    await hook(store)
    await say(store, "a")
    await say(store, "b")
    (first,) = await deliveries(store)
    await record_delivery(store, first, TAKEN)
    await record_delivery(store, first, NOT_TAKEN)
    async with store.read() as tx:
        assert [(w["cursor"], w["failures"]) for w in await tx.all(select(webhooks))] == [(1, 0)]


async def in_vain(store: Store, wall: Wall, hours: float) -> list[bool]:
    """Whether each try disabled it: the first, and one after so many hours."""
    (first,) = await deliveries(store)
    told = [await record_delivery(store, first, NOT_TAKEN)]
    wall.turn(hours * 3600)
    (again,) = await deliveries(store)
    return [*told, await record_delivery(store, again, NOT_TAKEN)]


async def test_webhook_is_disabled_when_nothing_was_taken_for_a_day_and_not_before(store: Store, wall: Wall) -> None:
    webhook_id, _ = await hook(store)
    await say(store, "a")
    before = metrics.REGISTRY.get_sample_value("hisbridge_webhooks_disabled_total") or 0.0
    assert await in_vain(store, wall, 23.999) == [False, False]
    assert await stands(store) == ("active", 2)
    wall.turn(3600)
    (last,) = await deliveries(store)
    assert await record_delivery(store, last, NOT_TAKEN)
    assert not await record_delivery(store, last, NOT_TAKEN)  # said once
    wall.turn(48 * 3600)
    assert await deliveries(store) == []
    assert await stands(store) == ("disabled", 3)
    assert metrics.REGISTRY.get_sample_value("hisbridge_webhooks_disabled_total") == before + 1
    async with store.write(SCOPE) as tx:
        assert await resume_webhook(tx, "another", webhook_id, after=None) is None
        assert await resume_webhook(tx, CLIENT, webhook_id, after=None)
    assert [d.seq for d in await deliveries(store)] == [1]
    assert await in_vain(store, wall, 23.999) == [False, False]  # the day begins anew


@pytest.mark.parametrize(("early_ms", "status"), [(1, "active"), (0, "disabled")])
async def test_day_ends_to_the_millisecond(store: Store, wall: Wall, early_ms: int, status: str) -> None:
    await hook(store)
    await say(store, "a")
    await in_vain(store, wall, 24 - early_ms / 3_600_000)
    assert await stands(store) == (status, 2)


@pytest.mark.parametrize(
    ("asked_s", "pause_s"), [(None, 1), (0, 1), (0.5, 1), (120, 120), (3600, 3600), (86_400, 3600)]
)
async def test_receiver_is_left_alone_as_long_as_it_asks_for_but_no_longer_than_an_hour(
    store: Store, wall: Wall, asked_s: float | None, pause_s: float
) -> None:
    await hook(store)
    await say(store, "a")
    (delivery,) = await deliveries(store)
    assert not await record_delivery(store, delivery, Answer(delivered=False, retry_after_s=asked_s))
    wall.turn(pause_s - 0.001)
    assert await deliveries(store) == []
    wall.turn(0.001)
    assert [d.seq for d in await deliveries(store)] == [1]


async def test_day_begins_anew_when_an_event_was_taken(store: Store, wall: Wall) -> None:
    await hook(store)
    await say(store, "a")
    await say(store, "b")
    await in_vain(store, wall, 23)
    wall.turn(3600)
    (taken,) = await deliveries(store)
    await record_delivery(store, taken, TAKEN)
    assert await in_vain(store, wall, 23) == [False, False]
    assert await stands(store) == ("active", 2)


async def stands(store: Store) -> tuple[str, int]:
    async with store.read(SCOPE) as tx:
        (row,) = await tx.all(select(webhooks))
    return row["status"], row["failures"]


async def test_events_come_again_from_where_it_is_resumed_also_while_one_is_under_way(store: Store) -> None:
    webhook_id, _ = await hook(store)
    for word in "abc":
        await say(store, word)
    for _ in "ab":
        (taken,) = await deliveries(store)
        await record_delivery(store, taken, TAKEN)
    (under_way,) = await deliveries(store)
    async with store.write(SCOPE) as tx:
        await resume_webhook(tx, CLIENT, webhook_id, after=1)
    await record_delivery(store, under_way, TAKEN)
    got = []
    while due := await deliveries(store):
        got.append(due[0].seq)
        await record_delivery(store, due[0], TAKEN)
    assert got == [2, 3]


@pytest.mark.parametrize(("after", "newest"), [(4, 3), (10**15, 3)])
async def test_webhook_is_not_resumed_beyond_what_there_is(store: Store, after: int, newest: int) -> None:
    webhook_id, _ = await hook(store)
    for word in "abc":
        await say(store, word)
    await number_events(store)
    with pytest.raises(Refusal) as refused:
        async with store.write(SCOPE) as tx:
            await resume_webhook(tx, CLIENT, webhook_id, after=after)
    assert (refused.value.code, refused.value.extra) == ("cursor_expired", {"newest": newest})


async def test_secret_is_sealed_when_it_is_stored(store: Store) -> None:
    _, secret = await hook(store)
    async with store.read(SCOPE) as tx:
        row = await tx.first(select(webhooks))
        assert row is not None
        assert secret.encode() not in row["sealed_secret"]
        assert tx.unseal(row["sealed_secret"], "webhooks", "secret").decode() == secret


@pytest.mark.parametrize(("webhook_id", "timestamp_s"), [*itertools.product(("msg_1", "msg_2"), (1, 2))])
def test_signature_differs_when_id_time_or_body_differ(webhook_id: str, timestamp_s: int) -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    others = {
        sign(secret, i, t, b)
        for i, t, b in itertools.product(("msg_1", "msg_2"), (1, 2), (b"a", b"b"))
        if (i, t, b) != (webhook_id, timestamp_s, b"a")
    }
    assert len(others) == 7
    assert sign(secret, webhook_id, timestamp_s, b"a") not in others
