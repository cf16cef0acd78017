"""The chain of reads: rows are only added, a change of any kind is told with its place, and old ends can be cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import delete, insert, select, update

from booking.report_reads import (
    Fault,
    Outcome,
    ReadLog,
    ReportRead,
    WantedReads,
    What,
    chain,
    cut_reads,
    find_reads,
    verify_reads,
)
from booking.report_reads.chain import scope_of
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.tables import report_read_segments, report_reads
from tests.stores import Wall, unreachable

DAY_S = 24 * 3600
KEEP_DAYS = 184


def read(n: int, *, client: str = "portal", person: str | None = "p1") -> ReportRead:
    return ReportRead(
        client_id=client,
        user_ref="u1",
        patient_id="pt1",
        person_id=person,
        what=What.DETAIL,
        reports=(f"rp_{n}:1",),
        outcome=Outcome.GIVEN,
        request_id=f"r{n}",
    )


async def record(store: Store, *numbers: int, hospital: str = "h1") -> None:
    """One after the other, each in a transaction of its own."""
    log = ReadLog(store)
    for n in numbers:
        await log.record(hospital, read(n))


async def numbers(store: Store, hospital: str = "h1") -> list[int]:
    async with store.read(hospital) as tx:
        rows = await tx.all(
            select(report_reads.c.number).where(report_reads.c.hospital_id == hospital).order_by(report_reads.c.number)
        )
    return [row["number"] for row in rows]


async def faults(store: Store, hospital: str = "h1") -> list[Fault]:
    return list((await verify_reads(store, hospital)).faults)


async def test_reads_of_each_hospital_are_numbered_without_a_gap_and_verify(store: Store, wall: Wall) -> None:
    await record(store, 1, 2)
    wall.turn(DAY_S)
    await record(store, 3)
    await record(store, 1, hospital="h2")
    assert (await numbers(store), await numbers(store, "h2")) == ([1, 2, 3], [1])
    verdict = await verify_reads(store, "h1")
    assert (verdict.faults, verdict.rows, verdict.first, verdict.last) == ((), 3, 1, 3)
    async with store.read("h1") as tx:
        found = await find_reads(tx, WantedReads())
    assert [(row.number, row.reports, row.request_id) for row in found] == [
        (3, "rp_3:1", "r3"), (2, "rp_2:1", "r2"), (1, "rp_1:1", "r1"),
    ]  # fmt: skip
    assert found[0].at_ms - found[1].at_ms == DAY_S * 1000


async def test_all_are_recorded_in_few_transactions_when_many_arrive_at_once(store: Store) -> None:
    log, other = ReadLog(store), ReadLog(store)  # the second stands for another process
    await asyncio.gather(*((log if n % 2 else other).record("h1", read(n)) for n in range(64)))
    assert await numbers(store) == list(range(1, 65))
    assert await faults(store) == []
    async with store.read("h1") as tx:
        found = await find_reads(tx, WantedReads(), limit=100)
    assert {row.request_id for row in found} == {f"r{n}" for n in range(64)}


async def test_others_are_recorded_when_one_caller_goes_away(store: Store) -> None:
    log = ReadLog(store)
    tasks = [asyncio.ensure_future(log.record("h1", read(n))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[1:] == [None, None]
    assert await faults(store) == []


async def test_nobody_is_told_that_it_is_recorded_when_the_store_is_away(engine: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with unreachable(engine, tmp_path) as store:
        log = ReadLog(store)
        told = await asyncio.gather(*(log.record("h1", read(n)) for n in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [StoreUnavailable] * 3


Tamper = Callable[[Tx], Awaitable[object]]


def _row(number: int):  # type: ignore[no-untyped-def]
    return (report_reads.c.hospital_id == "h1", report_reads.c.number == number)


def change(column: str, value: object) -> Tamper:
    return lambda tx: tx.run(update(report_reads).where(*_row(2)).values({column: value}))


async def remove(tx: Tx) -> None:
    await tx.run(delete(report_reads).where(*_row(2)))


async def remove_first(tx: Tx) -> None:
    await tx.run(delete(report_reads).where(*_row(1)))


async def remove_last(tx: Tx) -> None:
    await tx.run(delete(report_reads).where(*_row(4)))


async def insert_behind(tx: Tx) -> None:
    row = await tx.first(select(report_reads).where(*_row(4)))
    assert row is not None
    await tx.run(insert(report_reads).values({**row, "number": 5}))


async def exchange(tx: Tx) -> None:
    for number, becomes in ((2, 99), (3, 2), (99, 3)):
        await tx.run(update(report_reads).where(*_row(number)).values(number=becomes))


async def remove_segment(tx: Tx) -> None:
    await tx.run(delete(report_read_segments).where(report_read_segments.c.segment == 1))
    await tx.run(delete(report_reads).where(report_reads.c.number <= 3))


async def pretend_cut(tx: Tx) -> None:
    segment = report_read_segments.c.segment == 1
    await tx.run(update(report_read_segments).where(segment).values(cut_ms=1))
    await tx.run(delete(report_reads).where(report_reads.c.number <= 3))


async def shorten(tx: Tx) -> None:
    """The end is cut off, and the segment's row says so."""
    await tx.run(delete(report_read_segments).where(report_read_segments.c.segment == 2))
    await tx.run(delete(report_reads).where(*_row(4)))
    row = await tx.first(select(report_reads).where(*_row(2)))
    assert row is not None
    await tx.run(delete(report_reads).where(*_row(3)))
    await tx.run(update(report_read_segments).values(last=2, closing=row["digest"]))


TAMPERS: list[tuple[Tamper, Fault]] = [
    *(
        (change(column, value), Fault("changed", 2))
        for column, value in (
            ("client_id", "other"), ("user_ref", None), ("person_id", "p2"), ("reports", ""), ("outcome", "unknown"),
            ("what", "list"), ("request_id", "x"), ("at_ms", 7), ("patient_id", "x"), ("digest", "0" * 64),
        )
    ),
    (remove, Fault("missing", 2)),
    (remove_first, Fault("missing", 1)),
    (remove_last, Fault("missing", 4)),
    (insert_behind, Fault("inserted", 5)),
    (exchange, Fault("changed", 2)),
    (remove_segment, Fault("segment", 1)),
    (pretend_cut, Fault("segment", 1)),
    (shorten, Fault("segment", 1)),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "fault"), TAMPERS)
async def test_place_is_told_when_somebody_has_tampered(store: Store, wall: Wall, tamper: Tamper, fault: Fault) -> None:
    await record(store, 1, 2, 3)
    wall.turn(DAY_S)
    await record(store, 4)
    async with store.write("h1") as tx:
        await tamper(tx)
    assert (await faults(store))[0] == fault
    await record(store, 5, 6)  # what is added later does not heal it
    assert fault in await faults(store)


async def test_row_of_another_hospital_does_not_fit_when_it_was_moved(store: Store) -> None:
    await record(store, 1, 2)
    await record(store, 1, 2, hospital="h2")
    async with store.write("h1") as tx:
        await tx.run(delete(report_reads).where(*_row(2)))
        moved = (report_reads.c.hospital_id == "h2", report_reads.c.number == 2)
        await tx.run(update(report_reads).where(*moved).values(hospital_id="h1"))
    assert await faults(store) == [Fault("changed", 2)]
    assert await faults(store, "h2") == [Fault("missing", 2)]


async def cut(store: Store, *, keep_days: int = KEEP_DAYS) -> None:
    for _ in range(1_000):
        if not await cut_reads(store, "h1", keep_days=keep_days, limit=2):
            return
    raise AssertionError("cutting does not end")


async def test_rest_verifies_when_old_segments_are_cut(store: Store, wall: Wall) -> None:
    for n in range(3):
        await record(store, *range(5 * n, 5 * n + 5))
        wall.turn(DAY_S)
    wall.turn((KEEP_DAYS - 2) * DAY_S)
    await cut(store)
    assert await numbers(store) == list(range(6, 16))  # the day that is older than the days that are kept
    verdict = await verify_reads(store, "h1")
    assert (verdict.faults, verdict.rows, verdict.first, verdict.last) == ((), 10, 6, 15)
    await record(store, 15)
    assert await faults(store) == []
    async with store.write("h1") as tx:
        await tx.run(delete(report_reads).where(*_row(7)))
    assert await faults(store) == [Fault("missing", 7)]


async def test_everything_may_go_and_the_chain_goes_on_when_nobody_reads_for_years(store: Store, wall: Wall) -> None:
    await record(store, 1, 2, 3)
    wall.turn(400 * DAY_S)
    await cut(store)
    assert await numbers(store) == []
    assert await faults(store) == []
    await record(store, 4)
    assert (await numbers(store), await faults(store)) == ([4], [])
    async with store.write("h1") as tx:  # the row that says that all before is over
        await tx.run(delete(report_read_segments).where(report_read_segments.c.segment == 1))
    assert await faults(store) == [Fault("segment", 1)]


async def test_it_verifies_when_a_cut_has_not_ended(store: Store, wall: Wall) -> None:
    await record(store, *range(6))
    wall.turn(400 * DAY_S)
    await record(store, 6)
    for _ in range(3):  # marked, and some of its rows deleted
        await cut_reads(store, "h1", keep_days=KEEP_DAYS, limit=2)
    assert await numbers(store) == [5, 6, 7]
    assert await faults(store) == []


async def test_what_was_altered_is_not_cut(store: Store, wall: Wall) -> None:
    await record(store, 1, 2)
    wall.turn(400 * DAY_S)
    async with store.write("h1") as tx:
        await tx.run(update(report_read_segments).values(last_ms=3))
    await cut(store)
    assert await numbers(store) == [1, 2]


async def test_segment_ends_when_it_has_its_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MOST_ROWS", 2)
    await record(store, 1, 2, 3, 4, 5)
    async with store.read("h1") as tx:
        rows = await tx.all(select(report_read_segments).order_by(report_read_segments.c.segment))
    assert [(row["first"], row["last"]) for row in rows] == [(1, 2), (3, 4), (5, 5)]
    assert await faults(store) == []


async def written_in_vain(store: Store) -> None:
    async with store.write(scope_of("h1")) as tx:
        await chain.append_reads(tx, "h1", [read(2), read(3)])
        raise ZeroDivisionError


async def test_write_that_was_rolled_back_has_left_nothing(store: Store) -> None:
    await record(store, 1)
    with pytest.raises(ZeroDivisionError):
        await written_in_vain(store)
    await record(store, 4)
    assert (await numbers(store), await faults(store)) == ([1, 2], [])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (WantedReads(client_id="other"), [3]),
        (WantedReads(person_ids=("p2",)), [2]),
        (WantedReads(person_ids=()), []),
        (WantedReads(report_id="rp_1"), [1]),
        (WantedReads(before=3), [2, 1]),
    ],
)
async def test_reads_are_found_by_what_is_asked(store: Store, wanted: WantedReads, expected: list[int]) -> None:
    log = ReadLog(store)
    for one in (read(1), read(2, person="p2"), read(3, client="other")):
        await log.record("h1", one)
    async with store.read("h1") as tx:
        assert [row.number for row in await find_reads(tx, wanted)] == expected


async def test_reads_are_found_by_their_time(store: Store, wall: Wall) -> None:
    begin_ms = wall.now_ms
    for n in range(3):
        await record(store, n)
        wall.turn(60)
    async with store.read("h1") as tx:
        for since, until, expected in (
            (1, None, [3, 2]),
            (None, 1, [1]),
            (1, 2, [2]),
            (9, None, []),
            (None, 9, [3, 2, 1]),
        ):
            ms = [None if minute is None else begin_ms + minute * 60_000 for minute in (since, until)]
            found = await find_reads(tx, WantedReads(since_ms=ms[0], until_ms=ms[1]))
            assert [row.number for row in found] == expected, (since, until)
