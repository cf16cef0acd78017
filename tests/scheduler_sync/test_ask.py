"""Live reads across processes: sealed, once, in time, and answered by whoever works the hospital now."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from sqlalchemy import update

from booking.ports import LiveFailed
from booking.settings import Hospital
from booking.store.crypto import SealBroken
from booking.store.engine import Store
from booking.store.tables import leases
from connectors.port import HisError, HisRefused, HisReplyInvalid, HisUnavailable, NotOffered
from mappings.canonical import Attachment, Bill, Observation, Patient, Report, ReportKind, ReportStatus, StatementLine
from scheduler_sync import ask
from scheduler_sync.ask import FRESH_S, PATH, Answer, Asking, QuestionRefused, Questions, StoreClock
from scheduler_sync.desk import Desk
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.leases import LEASES, Node, beat, leave
from scheduler_sync.live import LiveReads
from scheduler_sync.owners import AskedReads, LeaseBoard, offer_of
from tests.booking.world import HOSPITAL, ZHANG
from tests.scheduler_sync.peer import Peer
from tests.stores import Wall, make_vault

SHANGHAI = dt.timezone(dt.timedelta(hours=8))
REPORT = Report(
    id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1", name="血常规",
    observations=(Observation(name="白细胞", value="6.1"),), issued_at=dt.datetime(2031, 3, 3, 8, tzinfo=SHANGHAI),
    attachments=(Attachment(content_type="application/pdf", data=bytes(range(256)) * 4_000),),
)  # fmt: skip


class Clinic(Peer):
    """A HIS that answers every live read, or fails it."""

    def __init__(self) -> None:
        super().__init__()
        self.error: HisError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def _answer(self, found: Any) -> Any:
        if self.error is not None:
            raise self.error
        return found

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        await self.gate.wait()
        return self._answer([])  # type: ignore[no-any-return]

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        assert patient == ZHANG
        return self._answer([REPORT])  # type: ignore[no-any-return]

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        return self._answer(REPORT if report_id == "R1" else None)  # type: ignore[no-any-return]

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        return self._answer(REPORT.attachments[0])  # type: ignore[no-any-return]

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        return self._answer([])  # type: ignore[no-any-return]


class Sync:
    """A sync process: its desk on a real socket, and its lease."""

    def __init__(self, store: Store, node: Node, links: dict[str, HospitalLink]) -> None:
        self.store, self.node, self.links = store, node, links

    async def take(self) -> None:
        await beat(self.store, self.node, wanted=[HOSPITAL], avoid=(), statuses={})


@asynccontextmanager
async def sync_process(store: Store, name: str, link: HospitalLink) -> AsyncIterator[Sync]:
    clock = StoreClock()
    async with store.read() as tx:
        clock.note(tx.now_ms)
    links = {HOSPITAL: link}
    runner = web.AppRunner(Desk(store.vault, clock, name, LiveReads(links)).application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield Sync(store, Node(name, f"{host}:{port}"), links)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def api_process(store: Store, link: HospitalLink) -> AsyncIterator[tuple[AskedReads, LeaseBoard]]:
    clock = StoreClock()
    board = LeaseBoard(store, clock)
    await board.look()
    await board.start()
    reads = AskedReads(store, board, clock, {HOSPITAL: offer_of(link)}, patience_s=0.3)
    await reads.start()
    try:
        yield reads, board
    finally:
        await reads.close()
        await board.close()


@pytest.fixture
def clinic() -> Clinic:
    return Clinic()


@pytest.fixture
def link(hospital: Hospital, clinic: Clinic) -> HospitalLink:
    return HospitalLink(hospital, {"peer": clinic})


# --- across processes ----------------------------------------------------------------------------------------------


async def test_records_arrive_as_the_his_gave_them_when_another_process_asks(store: Store, link: HospitalLink) -> None:
    async with sync_process(store, "a", link) as sync:
        await sync.take()
        async with api_process(store, link) as (reads, _):
            [report] = await reads.reports(HOSPITAL, ZHANG)
            assert report == REPORT
            assert report.issued_at is not None
            assert report.issued_at.utcoffset() == dt.timedelta(hours=8)
            assert await reads.report(HOSPITAL, ZHANG, "R1") == REPORT
            assert await reads.report(HOSPITAL, ZHANG, "R2") is None
            assert (
                await reads.attachment(HOSPITAL, Attachment(content_type="application/pdf", url="A1"))
                == REPORT.attachments[0]
            )
            assert await reads.bills(HOSPITAL, ZHANG) == []


async def test_callers_time_travels_with_its_question(store: Store, link: HospitalLink, clinic: Clinic) -> None:
    """The owner itself says that it is over: another is not asked, and nobody waits for a time-out of the connection."""
    clinic.gate.clear()
    async with sync_process(store, "a", link) as sync:
        await sync.take()
        async with api_process(store, link) as (reads, _):
            with pytest.raises(LiveFailed, match="within the caller's time") as failed:
                await reads.bills(HOSPITAL, ZHANG, within_s=0.05)
            assert failed.value.code == "his_unavailable"
            clinic.gate.set()
            assert await reads.bills(HOSPITAL, ZHANG, within_s=30) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HisRefused("no", code="patient_unknown"), "his_refused"),
        (HisReplyInvalid("what"), "his_reply_invalid"),
        (HisUnavailable("away"), "his_unavailable"),
        (NotOffered("off"), "not_offered_by_hospital"),
    ],
)
async def test_the_reason_is_carried_through_when_the_his_does_not_answer(
    store: Store, link: HospitalLink, clinic: Clinic, error: HisError, code: str
) -> None:
    clinic.error = error
    async with sync_process(store, "a", link) as sync:
        await sync.take()
        async with api_process(store, link) as (reads, _):
            with pytest.raises(LiveFailed) as failed:
                await reads.reports(HOSPITAL, ZHANG)
    assert failed.value.code == code


async def test_his_is_unavailable_when_nobody_works_the_hospital(store: Store, link: HospitalLink, wall: Wall) -> None:
    async with api_process(store, link) as (reads, board):
        with pytest.raises(LiveFailed, match="his_unavailable"):
            await reads.reports(HOSPITAL, ZHANG)
        assert reads.his_status(HOSPITAL) == "down"
        async with sync_process(store, "a", link) as sync:
            await sync.take()
            await board.look()
            assert reads.his_status(HOSPITAL) == "up"
        with pytest.raises(LiveFailed, match="his_unavailable"):  # the lease still runs, its owner has gone
            await reads.reports(HOSPITAL, ZHANG)
        wall.turn(10)
        await board.look()
        assert reads.his_status(HOSPITAL) == "up"  # a change of hands is not a fault of the HIS
        wall.turn(15)
        await board.look()
        assert reads.his_status(HOSPITAL) == "down"


async def test_the_new_owner_is_asked_when_the_first_has_gone(store: Store, link: HospitalLink) -> None:
    async with AsyncExitStack() as stack:
        async with sync_process(store, "a", link) as first:
            await first.take()
            reads, board = await stack.enter_async_context(api_process(store, link))
        second = await stack.enter_async_context(sync_process(store, "b", link))
        async with store.write(LEASES) as tx:
            await tx.run(update(leases).values(until_ms=tx.now_ms))
        assert board.owner(HOSPITAL) == (first.node.id, first.node.address)  # nobody has told the board yet
        await second.take()
        assert await reads.reports(HOSPITAL, ZHANG) == [REPORT]


async def test_read_waits_for_the_next_owner_when_its_hospital_changes_hands(
    store: Store, link: HospitalLink, clinic: Clinic
) -> None:
    async with sync_process(store, "a", link) as first, sync_process(store, "b", link) as second:
        await first.take()
        clock = StoreClock()
        board = LeaseBoard(store, clock)
        await board.look()
        await board.start()
        reads = AskedReads(store, board, clock, {HOSPITAL: offer_of(link)}, patience_s=60)
        await reads.start()
        await leave(store, first.node.id)
        first.links.clear()  # drained
        asked = asyncio.create_task(reads.reports(HOSPITAL, ZHANG))
        await board.next_look()
        assert board.owner(HOSPITAL) is None
        assert not asked.done()
        await second.take()
        assert await asked == [REPORT]
        await reads.close()
        await board.close()


async def test_one_look_at_the_leases_serves_all_who_wait(
    store: Store, link: HospitalLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api_process(store, link) as (reads, board):
        looks = [0]
        look = board.look

        async def counted() -> None:
            looks[0] += 1
            await look()

        monkeypatch.setattr(board, "look", counted)
        failed = await asyncio.gather(*(reads.bills(HOSPITAL, ZHANG) for _ in range(50)), return_exceptions=True)
        assert {type(f) for f in failed} == {LiveFailed}
        assert looks[0] <= 20  # 0.3 s of patience with 0.1 s between two looks, and not fifty times that


# --- the envelope --------------------------------------------------------------------------------------------------


def asking(wall: Wall, *, node: str = "a", name: str = "bills", arguments: tuple[Any, ...] = (ZHANG,)) -> Asking:
    return Asking(make_vault(), clock_of(wall), node, HOSPITAL, name, arguments)


def clock_of(wall: Wall) -> StoreClock:
    clock = StoreClock()
    clock.note(wall())
    return clock


def questions(wall: Wall, *, node: str = "a") -> Questions:
    return Questions(make_vault(), clock_of(wall), node)


def test_question_is_opened_once_when_it_comes_twice(wall: Wall) -> None:
    desk, sealed = questions(wall), asking(wall).sealed
    question, arguments = desk.open(sealed)
    assert (question.hospital_id, question.name, arguments) == (HOSPITAL, "bills", (ZHANG,))
    with pytest.raises(QuestionRefused, match="before"):
        desk.open(sealed)


@pytest.mark.parametrize("turn_s", [FRESH_S + 1, -FRESH_S - 1])
def test_question_is_refused_when_it_is_old_or_from_the_future(wall: Wall, turn_s: float) -> None:
    sealed = asking(wall).sealed
    wall.turn(turn_s)
    with pytest.raises(QuestionRefused, match="old"):
        questions(wall).open(sealed)


def test_question_is_refused_when_it_was_for_another_node(wall: Wall) -> None:
    with pytest.raises(QuestionRefused, match="SealBroken"):
        questions(wall, node="b").open(asking(wall).sealed)


def test_question_is_refused_when_it_was_altered_or_is_none(wall: Wall) -> None:
    sealed = bytearray(asking(wall).sealed)
    sealed[-1] ^= 1
    for bad in (bytes(sealed), b"", b"hello", asking(wall, name="capabilities").sealed):
        with pytest.raises(QuestionRefused):
            questions(wall).open(bad)


def test_question_is_refused_when_its_arguments_do_not_fit(wall: Wall) -> None:
    with pytest.raises(QuestionRefused, match="ValidationError"):
        questions(wall).open(asking(wall, name="attachment", arguments=("tomorrow",)).sealed)


def test_no_more_questions_are_taken_when_the_memory_of_them_is_full(
    wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "MOST_REMEMBERED", 2)
    desk = questions(wall)
    for _ in range(2):
        desk.open(asking(wall).sealed)
    with pytest.raises(QuestionRefused, match="too many"):
        desk.open(asking(wall).sealed)


def test_answer_opens_only_for_its_own_question(wall: Wall) -> None:
    desk, one, other = questions(wall), asking(wall), asking(wall)
    question, _ = desk.open(one.sealed)
    sealed = desk.seal(question, Answer(failed="his_refused", detail="because"))
    assert one.read(sealed) == Answer(failed="his_refused", detail="because")
    with pytest.raises(SealBroken):
        other.read(sealed)


def test_nothing_of_the_patient_is_readable_on_the_way(wall: Wall) -> None:
    sealed = asking(wall).sealed
    for value in msgspec.structs.asdict(ZHANG).values():
        if isinstance(value, str) and len(value) > 3:
            assert value.encode() not in sealed


async def test_stranger_learns_nothing_when_it_asks(store: Store, link: HospitalLink) -> None:
    async with (
        sync_process(store, "a", link) as sync,
        aiohttp.ClientSession() as session,
        session.post(f"http://{sync.node.address}{PATH}", data=b"bills of everybody") as response,
    ):
        assert (response.status, await response.read()) == (403, b"")
