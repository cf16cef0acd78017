"""The release: the rule's openings, the fetches around them, and a HIS that has not opened yet."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Sequence

import pytest
from sqlalchemy import select, text

from booking.release import ReleaseRule
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import schedules
from connectors.port import HisUnavailable, Verb, Window
from mappings.canonical import Schedule
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.pull import Puller
from scheduler_sync.release import LATE_MS, ReleaseFetches, spread, stored_openings
from tests.booking.world import (
    DAY,
    HOSPITAL,
    ZONE,
    get,
    hold,
    make_hospital,
    make_schedule,
    make_slot,
    put_patient,
    put_slot,
)
from tests.scheduler_sync.peer import Peer, desk, refuse, until
from tests.stores import BEGIN_MS, UrlOf, Wall, opened

SEVEN_MS = BEGIN_MS + 3_600_000  # the store's clock begins at 06:00 in Shanghai, on the day before DAY
SEVEN = dt.datetime.combine(DAY - dt.timedelta(days=1), dt.time(7), ZONE)
RULE = ReleaseRule(time="07:00", days_ahead=1)
NEXT_DAY = Window(date_from=DAY, date_to=DAY)


class Watched(Peer):
    """A HIS that notes which days it is asked for, and when by the store's clock."""

    def __init__(self, wall: Wall) -> None:
        super().__init__()
        self.schedules, self.slots = [make_schedule()], [make_slot(3)]
        self.asked: list[tuple[int, Window]] = []
        self._wall = wall

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        self.asked.append((self._wall.now_ms, window))
        return await super().fetch_schedules(window)


def puller(store: Store, peer: Peer, hospital: Hospital) -> Puller:
    return Puller(store, hospital, HospitalLink(hospital, {peer.name: peer}))


async def tick(pull: Puller, wall: Wall, *, from_ms: int, to_ms: int, step_ms: int = 1_000) -> None:
    """Look for what is due, second by second."""
    for now_ms in range(from_ms, to_ms, step_ms):
        wall.now_ms = now_ms
        await pull.pull_releases()


async def opening_of(store: Store) -> int | None:
    async with store.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(schedules.c.opens_at_ms).where(schedules.c.hospital_id == HOSPITAL))
    found: int | None = row["opens_at_ms"]
    return found


# --- when schedules open -----------------------------------------------------------------------------------------------


async def test_schedule_opens_by_the_rule_when_the_his_does_not_say(store: Store, wall: Wall) -> None:
    await puller(store, Watched(wall), make_hospital(release=RULE)).pull_once()
    assert await opening_of(store) == SEVEN_MS


async def test_schedule_opens_when_the_his_says_so_whatever_the_rule(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    peer.schedules = [make_schedule(opens_at=SEVEN + dt.timedelta(minutes=30))]
    await puller(store, peer, make_hospital(release=RULE)).pull_once()
    assert await opening_of(store) == SEVEN_MS + 1_800_000


async def test_schedule_is_open_when_there_is_neither(store: Store, wall: Wall) -> None:
    await puller(store, Watched(wall), make_hospital()).pull_once()
    assert await opening_of(store) is None


# --- fetches around an opening -----------------------------------------------------------------------------------------


async def test_opening_is_fetched_once_before_and_once_after_when_the_rule_names_it(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    pull = puller(store, peer, make_hospital(release=RULE))
    await tick(pull, wall, from_ms=SEVEN_MS - 300_000, to_ms=SEVEN_MS + LATE_MS + 60_000)
    before, after = peer.asked  # nothing was stored before: the rule alone names the day
    assert SEVEN_MS - 120_000 <= before[0] <= SEVEN_MS - 60_000
    assert SEVEN_MS + 5_000 <= after[0] <= SEVEN_MS + 11_000
    assert before[1] == after[1] == NEXT_DAY


async def test_opening_is_fetched_when_only_a_stored_schedule_names_it(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    peer.schedules = [
        make_schedule(opens_at=SEVEN),
        make_schedule("S2", date=DAY + dt.timedelta(days=3), opens_at=SEVEN),
    ]
    pull = puller(store, peer, make_hospital())
    await pull.pull_once()
    peer.asked.clear()
    await tick(pull, wall, from_ms=SEVEN_MS - 300_000, to_ms=SEVEN_MS + 60_000)
    assert [at < SEVEN_MS for at, _ in peer.asked] == [True, False]
    assert {window for _, window in peer.asked} == {Window(date_from=DAY, date_to=DAY + dt.timedelta(days=3))}


async def test_regular_fetch_does_for_an_opening_when_it_comes_at_the_right_time(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    pull = puller(store, peer, make_hospital(release=RULE))
    for seconds in (-50, 12):
        wall.now_ms = SEVEN_MS + seconds * 1_000
        await pull.pull_once()
    assert len(peer.asked) == 2
    await tick(pull, wall, from_ms=wall.now_ms, to_ms=SEVEN_MS + 60_000)
    assert len(peer.asked) == 2


async def wanted_after(store: Store, wall: Wall, *, began_s: float, ended_s: float, now_s: float) -> Window | None:
    """What an opening at 07:00 still wants after a fetch that ran from and to so many seconds of it."""
    fetches = ReleaseFetches(make_hospital(release=RULE))
    fetches.note(NEXT_DAY, SEVEN_MS + int(began_s * 1000), SEVEN_MS + int(ended_s * 1000))
    wall.now_ms = SEVEN_MS + int(now_s * 1000)
    async with store.read(HOSPITAL) as tx:
        window, _ = await fetches.wanted(tx)
    return window


async def test_fetch_that_is_under_way_does_before_an_opening_and_not_after_it(store: Store, wall: Wall) -> None:
    assert await wanted_after(store, wall, began_s=-200, ended_s=-59, now_s=-58) is None
    assert await wanted_after(store, wall, began_s=-200, ended_s=-121, now_s=-58) == NEXT_DAY
    assert await wanted_after(store, wall, began_s=4, ended_s=30, now_s=31) == NEXT_DAY
    assert await wanted_after(store, wall, began_s=11, ended_s=30, now_s=31) is None


async def test_fetch_is_tried_again_after_a_pause_when_it_failed(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    pull = puller(store, peer, make_hospital(release=RULE))
    peer.read_errors[Verb.FETCH_SCHEDULES].extend([HisUnavailable("away")] * 2)
    wall.now_ms = SEVEN_MS - 59_000
    with pytest.raises(HisUnavailable):
        await pull.pull_releases()
    asked = len(peer.asked)
    await tick(pull, wall, from_ms=wall.now_ms + 1_000, to_ms=wall.now_ms + 5_000)
    assert len(peer.asked) == asked
    await tick(pull, wall, from_ms=wall.now_ms + 1_000, to_ms=wall.now_ms + 10_000)
    assert len(peer.asked) == asked + 1


async def test_fetch_is_not_made_up_for_when_the_opening_is_long_past(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    pull = puller(store, peer, make_hospital(release=RULE))
    await tick(pull, wall, from_ms=SEVEN_MS + LATE_MS + 11_000, to_ms=SEVEN_MS + LATE_MS + 60_000)
    assert peer.asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "paused"},
        {"release": ReleaseRule(time="07:00", days_ahead=1, sync_before_s=0, sync_after_s=0)},
        {"release": ReleaseRule()},
    ],
)
async def test_nothing_is_fetched_when_nothing_is_to_be(store: Store, wall: Wall, changes: dict[str, object]) -> None:
    peer = Watched(wall)
    pull = puller(store, peer, make_hospital(**{"release": RULE, **changes}))
    await tick(pull, wall, from_ms=SEVEN_MS - 130_000, to_ms=SEVEN_MS + 20_000)
    assert peer.asked == []


async def test_days_of_all_openings_are_fetched_together_when_several_are_due(store: Store, wall: Wall) -> None:
    peer = Watched(wall)
    last = DAY + dt.timedelta(days=6)
    peer.schedules = [make_schedule("S2", date=last, opens_at=SEVEN + dt.timedelta(seconds=20))]
    pull = puller(store, peer, make_hospital(release=RULE))
    await pull.pull_once()
    peer.asked.clear()
    wall.now_ms = SEVEN_MS - 30_000
    await pull.pull_releases()
    assert [window for _, window in peer.asked] == [Window(date_from=DAY, date_to=last)]


def test_fetches_of_many_hospitals_are_spread_when_all_open_at_seven() -> None:
    names = [f"hospital-{n}" for n in range(50)]
    assert all(0 <= spread(name) < 1 for name in names)
    assert [spread(name) for name in names] == [spread(name) for name in names]
    # Within the minute of the fetches before, and the five seconds of those after.
    assert max(Counter(int(spread(name) * 60) for name in names).values()) <= 5
    assert max(Counter(int(spread(name) * 5) for name in names).values()) <= 20


async def test_opening_is_fetched_by_the_running_puller_when_nobody_asks(database: UrlOf) -> None:
    """On the real clock: the HIS names an opening half a second from now."""
    async with opened(database("store")) as store:
        peer = Watched(Wall())
        peer.schedules = [make_schedule(opens_at=dt.datetime.now(ZONE) + dt.timedelta(seconds=0.5))]
        rule = ReleaseRule(sync_before_s=0, sync_after_s=0.1)
        task = asyncio.create_task(
            puller(store, peer, make_hospital(release=rule, sync_every_s=3_600)).run(asyncio.Event())
        )

        async def twice() -> bool:
            return len(peer.calls(Verb.FETCH_SLOTS)) == 2

        try:
            await until(twice)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert peer.asked[1][1] == NEXT_DAY


async def test_stored_openings_are_found_by_their_index(store: Store) -> None:
    query = str(
        stored_openings(HOSPITAL, 1, 2).compile(store.reader.sync_engine, compile_kwargs={"literal_binds": True})
    )
    async with store.read(HOSPITAL) as tx:
        if store.dialect == "postgresql":
            await tx.run(text("set local enable_seqscan = off"))
        explain = "explain query plan " if store.dialect == "sqlite" else "explain "
        plan = await tx.all(text(explain + query))
    assert "ix_schedules_opens" in str(plan)


# --- a HIS that opens late ---------------------------------------------------------------------------------------------


async def test_lock_is_tried_until_the_his_opens_when_it_is_late(store: Store, hospital: Hospital, wall: Wall) -> None:
    peer = Peer()
    peer.script(Verb.LOCK_SLOT, *[refuse("not_open_yet", retryable=True)] * 3)
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    async with desk(store, hospital, peer, wall) as at:
        for tries in range(1, 4):
            await at.until_row(booking.line, status="queued", tries=tries)
            at.turn(10)
        await at.until_row(booking.line, status="done")
    assert peer.calls(Verb.LOCK_SLOT) == ["lock_slot"] * 4
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_state) == ("held", "locked")


async def test_hold_expires_when_the_his_has_not_opened_in_time(store: Store, hospital: Hospital, wall: Wall) -> None:
    peer = Peer()
    peer.script(Verb.LOCK_SLOT, *[refuse("not_open_yet", retryable=True)] * 50)
    booking = await hold(store, hospital, await put_slot(store, 1), await put_patient(store))
    async with desk(store, hospital, peer, wall) as at:
        await at.until_row(booking.line, status="queued", tries=1)
        at.turn(hospital.lock_wait_s - 1)
        await at.until_row(booking.line, status="queued", tries=2)
        assert await at.expire() == 0
        wall.turn(2)
        assert await at.expire() == 1
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_state, seen.occupies) == ("expired", "none", False)
    assert (await hold(store, hospital, booking.slot_id, await put_patient(store))).state == "held"
