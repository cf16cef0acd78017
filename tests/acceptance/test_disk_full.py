"""The disk is full, or the database read-only, while a crowd books: clear refusals, nothing lost, and no restart afterwards."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installation import (
    Answer,
    Installation,
    ServiceProcess,
    lay_out,
    made_up_person,
    money,
    postgres_store,
    run_process,
    until,
)
from tests.acceptance.processes import children_of
from tests.acceptance.troubles import (
    IS_ROOT,
    FileLimit,
    FullDisk,
    Immutable,
    ReadOnlyServer,
    Trouble,
    knows_immutable,
    small_disk,
)
from tests.postgres import PostgresServer

HOSPITAL = "soap-demo"
OF = f"/v1/hospitals/{HOSPITAL}"
AGAIN_S = 0.1
HELD, PAID, CANCELLED = 4, 2, 2  # in each half of the crowd

# A disk that is really full needs root; a limit on the size of files plays it for everybody.
CASES = ["sqlite-limit", "sqlite-readonly", "postgresql-readonly"]
if IS_ROOT:
    CASES += ["sqlite-full", "postgresql-full"]


@dataclass
class Ask:
    """One change that a portal wants, repeated with its key until it succeeds. `answers` are all that it got."""

    path: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    answers: list[Answer] = field(default_factory=list)

    async def run(self, site: Installation) -> Answer:
        while True:
            answer = await site.portal().call("POST", self.path, self.body, key=self.key)
            self.answers.append(answer)
            if answer.status in (200, 201, 202):
                return answer
            check_refusal(answer)
            await asyncio.sleep(AGAIN_S)

    @property
    def refused(self) -> bool:
        """Whether it was ever turned away."""
        return any(answer.status == 503 for answer in self.answers)

    @property
    def granted(self) -> Answer | None:
        """The success, once it has it."""
        return next((answer for answer in self.answers if answer.status < 300), None)


def check_refusal(answer: Answer) -> None:
    """The only answer but success: the store is away, nothing was done, ask again later."""
    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json"), answer
    assert (answer.code, answer.headers["Retry-After"]) == ("store_unavailable", "2")


@dataclass
class Half:
    """Half of a crowd: some hold, some pay, some cancel."""

    holds: list[Ask]
    pays: list[Ask]
    cancels: list[Ask]
    booked: list[dict[str, Any]]
    given_up: list[dict[str, Any]]

    @property
    def asks(self) -> list[Ask]:
        return [*self.holds, *self.pays, *self.cancels]


async def gather_half(site: Installation) -> Half:
    """Patients whom the hospital knows, and bookings that wait for money."""
    patients = await asyncio.gather(*(site.patient(HOSPITAL) for _ in range(HELD)))
    booked = await asyncio.gather(*(site.locked(HOSPITAL) for _ in range(PAID)))
    given_up = await asyncio.gather(*(site.locked(HOSPITAL) for _ in range(CANCELLED)))
    slots = await site.open_slots(HOSPITAL)
    return Half(
        [
            Ask(f"{OF}/bookings", {"user_ref": "u", "slot_id": slots[n % len(slots)]["id"], "patient_id": patient_id})
            for n, patient_id in enumerate(patients)
        ],
        [Ask(f"{OF}/bookings/{b['id']}/payments", money(b["fee_fen"])) for b in booked],
        [Ask(f"{OF}/bookings/{b['id']}/cancel", {"reason": "plans changed"}) for b in given_up],
        booked,
        given_up,
    )


class Newcomers:
    """New patients without end: every one needs room."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    async def come(self, site: Installation, over: asyncio.Event) -> None:
        while not over.is_set():
            self.asks.append(ask := Ask(f"{OF}/patients", made_up_person()))
            await ask.run(site)


@asynccontextmanager
async def run_case(
    case: str, folder: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Installation, ServiceProcess, Trouble]]:
    """An installation that runs, and what will befall it."""
    engine, means = case.split("-")
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk")) if means == "full" else None
        options: dict[str, Any] = {"seats": 20}
        if engine == "sqlite":
            place = disk or folder
            trouble: Trouble = FileLimit()
            if disk is not None:
                trouble = FullDisk(disk)
            elif means == "readonly" and knows_immutable(folder):
                trouble = Immutable(folder)
        else:
            place = folder
            server: PostgresServer = request.getfixturevalue("postgres_server")
            space = None if disk is None else stack.enter_context(tablespace(server, disk))
            options |= {"store": await stack.enter_async_context(postgres_store(server))}
            options |= {"service_table": {"workers": 1}}
            for url in options["store"].values() if space else ():
                server.run_sql(f'alter database "{url.rpartition("/")[2]}" set tablespace {space}')
            trouble = ReadOnlyServer(server) if disk is None else FullDisk(disk)
        site = await stack.enter_async_context(lay_out(place, **options))
        process = await stack.enter_async_context(run_process(site))
        yield site, process, trouble


@contextmanager
def tablespace(server: PostgresServer, disk: Path) -> Iterator[str]:
    """Room for databases on this disk; the server's log of transactions stays where it is."""
    space = disk / "space"
    space.mkdir(mode=0o700)
    owner = Path(server.run_sql("show data_directory")).stat()
    os.chown(space, owner.st_uid, owner.st_gid)
    for parent in disk.parents:  # the server runs as somebody else, and pytest's folders are private
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    server.run_sql(f"create tablespace small location '{space}'")
    try:
        yield "small"
    finally:
        server.run_sql("drop tablespace small")


async def readiness(site: Installation) -> tuple[int, dict[str, str]]:
    """What /readyz says: status and reasons."""
    assert site.session is not None
    async with site.session.get(f"{site.admin_url}/readyz") as answer:
        return answer.status, (await answer.json())["reasons"]


async def see_trouble(site: Installation, halves: Sequence[Half]) -> None:
    """While nothing can be written: what is stored can be read, what was acknowledged is stored, /readyz names the cause."""
    status, reasons = await readiness(site)
    assert status == 503
    assert "cannot be written" in " ".join(reasons.values()), reasons
    assert (await site.portal().get(f"{OF}/slots"))["items"]
    for half in halves:
        for ask in half.holds:
            if (granted := ask.granted) is not None:
                assert (await site.booking(HOSPITAL, granted.body))["id"] == granted.body["id"]
        for booking in (*half.booked, *half.given_up):
            assert (await site.booking(HOSPITAL, booking))["order_no"] == booking["order_no"]


async def see_all_done(site: Installation, half: Half) -> None:
    """Every ask had its effect once, here and at the hospital; a repeat of it changes nothing."""
    for ask in half.holds:
        [first] = [answer for answer in ask.answers if answer.status == 201]
        again = await site.portal().call("POST", ask.path, ask.body, key=ask.key)
        assert (again.status, again.data) == (201, first.data)
        found = (await site.portal().get(f"{OF}/bookings", patient_id=ask.body["patient_id"]))["items"]
        assert [booking["id"] for booking in found] == [first.body["id"]]
        await site.becomes(HOSPITAL, first.body, his_state="locked")
        visits = await site.clinics[HOSPITAL].visits(first.body["order_no"])
        assert [visit["state"] for visit in visits] == ["locked"]
    for booking in half.booked:
        await site.becomes(HOSPITAL, booking, state="booked", his_state="registered", payment_state="paid")
        assert len(await site.clinics[HOSPITAL].visits(booking["order_no"])) == 1
    for booking in half.given_up:
        await site.becomes(HOSPITAL, booking, state="cancelled", his_state="released")


@pytest.mark.timeout(400)  # several processes on a busy machine
@pytest.mark.parametrize("case", CASES)
async def test_store_that_cannot_be_written_refuses_clearly_and_recovers_without_a_restart(
    tmp_path: Path, case: str, request: pytest.FixtureRequest
) -> None:
    async with run_case(case, tmp_path, request) as (site, process, trouble):
        first, second = [await gather_half(site) for _ in range(2)]
        assert await readiness(site) == (200, {})
        children = children_of(process.process.pid)
        newcomers, over = Newcomers(), asyncio.Event()
        async with asyncio.TaskGroup() as crowd:
            for ask in first.asks:
                crowd.create_task(ask.run(site))
            await asyncio.sleep(0)  # the first half is on its way when it happens
            trouble.strike(process)
            try:
                crowd.create_task(newcomers.come(site, over))
                for ask in second.asks:
                    crowd.create_task(ask.run(site))

                async def all_met() -> bool:
                    needed = second.asks if trouble.total else newcomers.asks[-1:]
                    return len(needed) > 0 and all(ask.refused for ask in needed)

                await until(all_met, bool, what="refusals")
                await see_trouble(site, (first, second))
            finally:
                over.set()
                trouble.lift(process)
        for half in (first, second):
            await see_all_done(site, half)
        await until(lambda: readiness(site), lambda seen: seen == (200, {}), what="readiness")
        await site.walk(HOSPITAL)
        assert process.process.returncode is None
        assert children_of(process.process.pid) == children
