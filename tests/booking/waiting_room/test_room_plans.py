"""No statement of a waiting room walks all of it, on either engine, whatever the planner believed when the room was empty."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from booking.store.engine import Store
from booking.waiting_room.ranks import FIRST_LATE
from tests.booking.waiting_room.site import put_patients, serve
from tests.booking.waiting_room.test_waiting_room import HOUR_S, gather, hospital_with, released_slot, states
from tests.booking.world import HOSPITAL
from tests.plans.findings import Cost, faults
from tests.plans.postgres_watch import MOST_ROWS, PostgresWatch
from tests.plans.sqlite_watch import MOST_STEPS, SqliteWatch
from tests.stores import UrlOf, Wall, opened

ROWS = 40_000
STEPS = 5_000


async def fill(store: Store, release_ms: int) -> None:
    """A crowd behind everybody, and the steps of an hour before them."""
    numbers = "with recursive i(n) as (select 1 union all select n + 1 from i where n < {0})"
    values = {"h": HOSPITAL, "r": release_ms}
    async with store.write(HOSPITAL) as tx:
        await tx.run(
            text(
                "insert into waiting_tickets (hospital_id, release_ms, person_id, rank, holds, changed)"
                f" {numbers.format(ROWS)} select :h, :r, 'fill' || n, {FIRST_LATE} + n, 0, 1 from i"
            ).bindparams(**values)
        )
        await tx.run(
            text(
                "insert into waiting_steps (hospital_id, release_ms, watermark, at_ms, admitted)"
                f" {numbers.format(STEPS)} select :h, :r, n, 1, 0 from i"
            ).bindparams(**values)
        )
        await tx.run(text(f"update waiting_rooms set arrivals = {ROWS}"))


@pytest.mark.usefixtures("spoilt")
async def test_no_statement_walks_a_whole_room_when_it_is_full(
    engine: str, database: UrlOf, wall: Wall, request: pytest.FixtureRequest
) -> None:
    url = database("store")
    if engine == "sqlite":
        watch = SqliteWatch()
        with watch.installed():
            await use(url, wall, watch)
        costs: list[Cost] = watch.costs()
    else:
        server = request.getfixturevalue("postgres_server")
        postgres = PostgresWatch(server, [url.rpartition("/")[2]], "force_generic_plan")
        await use(url, wall, postgres)
        costs = postgres.costs()
    told = "\n".join(cost.sql for cost in costs)
    assert "waiting_tickets" in told
    assert "waiting_steps" in told
    bad = faults(costs, MOST_STEPS if engine == "sqlite" else MOST_ROWS)
    assert not bad, "\n".join(str(cost) for cost in bad)


async def use(url: str, wall: Wall, watch: SqliteWatch | PostgresWatch) -> None:
    """Everything that happens in a room: once in an empty one, and once, watched, in a full one."""
    async with opened(url, wall=wall) as store:
        slot, patients = await released_slot(store), await put_patients(store, 30)
        async with serve(store, hospital_with(), wall) as site:
            await site.turn(HOUR_S - 300)
            tickets = await gather(site, patients[:20])
            await site.turn(300)
            await fill(store, wall.now_ms)
            await site.turn(20)  # no early place can come any more
            if isinstance(watch, SqliteWatch):
                watch.recording = True
            else:
                watch.record()
            for _ in range(3):
                await site.turn(1)
            await gather(site, patients[20:])
            assert (await site.join(patients[0])).status == 200
            assert set(await states(site, tickets)) == {"admitted"}
            assert (await site.hold(slot, patients[0], tickets[0])).status == 201
            if isinstance(watch, SqliteWatch):
                watch.recording = False
