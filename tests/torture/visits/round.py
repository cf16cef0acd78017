"""One round: visits at two hospitals, and the service killed at several moments that were drawn beforehand."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from sqlalchemy import select

import service
from booking.store.engine import Store
from booking.store.tables import events, outbox
from tests.acceptance.installation import (
    KEY,
    Installation,
    Portal,
    until,
)
from tests.postgres import PostgresServer
from tests.torture.visits.asking import Asker, Told
from tests.torture.visits.moments import AT_HIS, Moment, Moments
from tests.torture.visits.others import Accountant, Laboratory, Reader, Receiver
from tests.torture.visits.people import Cashier
from tests.torture.visits.stage import BANKS, begin, gather_people
from tests.torture.visits.truth import faults

CALL_S = aiohttp.ClientTimeout(total=120)  # a dead process closes its connections; a busy one may take long
DRAIN_S = 480.0  # only ends a round that would never end
COMES_WITHIN_S = 5.0  # a moment; else the axe falls wherever they are
Look = Callable[[], Awaitable[bool]]
_OPEN = ("queued", "sent", "unknown", "dead")


@dataclass
class Blow:
    """One kill: at which moment, so much later."""

    moment: Moment
    later_s: float
    came: bool = False


@dataclass
class Round:
    """What one round has been like."""

    seed: int
    blows: list[Blow]
    faults: list[str] = field(default_factory=list)
    told: Told = field(default_factory=Told)

    def __str__(self) -> str:
        at = ", ".join(f"{b.moment}+{1000 * b.later_s:.0f}ms{'' if b.came else ' (did not come)'}" for b in self.blows)
        return (
            f"seed {self.seed}: killed at {at}; {len(self.told.held)} bookings, {len(self.told.paid)} payments,"
            f" {len(self.told.moved)} refunds, {len(self.told.accepted)} offers, {len(self.told.documents)} documents,"
            f" {self.told.unknowns} of unknown fate, {dict(self.told.done)}"
        )


def draw(seed: int, count: int) -> list[Blow]:
    """Seeds that follow each other go through all moments."""
    chance = random.Random(seed)
    moments = list(Moment)
    return [
        Blow(moments[(seed * count + n) % len(moments)], chance.choice((0.0, chance.uniform(0, 0.02), chance.uniform(0, 0.5))))
        for n in range(count)
    ]  # fmt: skip


async def run_round(folder: Path, seed: int, blows: int, lines: int, server: PostgresServer | None = None) -> Round:
    """Play one round, with so many lines in the merchant's bill."""
    done, moments = Round(seed, draw(seed, blows)), Moments()
    chance, enough = random.Random(f"visits {seed}"), asyncio.Event()
    async with AsyncExitStack() as stack:
        scene = await begin(stack, folder, server)
        site = scene.site
        session = await stack.enter_async_context(aiohttp.ClientSession(site.base_url, timeout=CALL_S))
        asker = Asker(Portal(session, KEY), done.told, moments)
        receiver, reader = Receiver(moments, chance), Reader(asker)
        stack.push_async_callback(receiver.close)
        assert (await asker.ask("POST", "/v1/webhooks", {"url": await receiver.start()}, key="hook")).status == 201
        cashiers = [Cashier(asker, f"/v1/hospitals/{one}", chance) for one in BANKS]
        accountant = Accountant(asker, "/v1/hospitals/soap-demo", lines)
        people, laboratory = await gather_people(site, asker, chance, enough)
        async with asyncio.TaskGroup() as group:
            for one in people:
                group.create_task(one.live())
            for life in (*(c.live for c in cashiers), laboratory.live, reader.live, accountant.live):
                group.create_task(life(enough))
            for blow in done.blows:
                await _aim(site, moments, blow)
                await scene.strike()
                for clinic in site.clinics.values():
                    await clinic.heal()
            await asyncio.sleep(0.5)
            enough.set()
        async with service.open_store(service.read_settings(site.config)) as store:
            await _settle(store, cashiers)
            await until(_read(reader, store), bool, what="the last event", within_s=DRAIN_S)
            done.faults = await faults(store, done.told, {h: site.clinics[h] for h in BANKS}, reader.rebuilt)
        done.faults += await _beside(asker, laboratory, accountant)
        await until(_pushed(receiver, reader), bool, what="the last webhook", within_s=DRAIN_S)
        firsts = list(dict.fromkeys(receiver.seqs))
        if firsts != sorted(firsts):
            done.faults.append("webhooks came out of order")
    return done


async def _aim(site: Installation, moments: Moments, blow: Blow) -> None:
    """Wait for the moment of a blow; where only the hospital sees it, it takes its time for it."""
    if blow.moment in AT_HIS:
        hospital_id, op = AT_HIS[blow.moment]
        clinic = site.clinics[hospital_id]
        before = await clinic.calls(op)
        await clinic.fault(op, "slow", delay_s=0.8)

        async def called() -> bool:
            return await clinic.calls(op) > before

        with suppress(AssertionError):
            await until(called, bool, what=op, within_s=COMES_WITHIN_S)
            blow.came = True
    else:
        blow.came = await moments.wait(blow.moment, COMES_WITHIN_S)
    await asyncio.sleep(blow.later_s)


async def _settle(store: Store, cashiers: list[Cashier]) -> None:
    """Until no command is under way, and nothing is to be given back any more."""

    async def under_way() -> list[str]:
        due = sum([await cashier.work() for cashier in cashiers])
        found = [f"{due} refunds"] if due else []
        for hospital_id in BANKS:
            async with store.read(hospital_id) as tx:
                rows = await tx.all(
                    select(outbox).where(outbox.c.hospital_id == hospital_id, outbox.c.status.in_(_OPEN))
                )
            found += [f"{hospital_id} {r['verb']} {r['subject_id']} {r['status']} {r['reason'] or ''}" for r in rows]
        return found

    await until(under_way, lambda left: not left, what="the drain", within_s=DRAIN_S)


def _read(reader: Reader, store: Store) -> Look:
    """Whether it has read whatever there is."""

    async def look() -> bool:
        await reader.read()
        async with store.read() as tx:
            return not [
                r for r in await tx.all(select(events.c.seq)) if r["seq"] is None or r["seq"] > reader.rebuilt.cursor
            ]

    return look


def _pushed(receiver: Receiver, reader: Reader) -> Look:
    async def look() -> bool:
        return set(reader.rebuilt.seqs) <= set(receiver.seqs)

    return look


async def _beside(asker: Asker, laboratory: Laboratory, accountant: Accountant) -> list[str]:
    """Every document that was acknowledged is read byte for byte, and every planted difference was found."""
    found, told = [], asker.told
    reports = f"{laboratory.of}/patients/{laboratory.patient_id}/reports"
    items = (await asker.get(reports))["items"]
    if len(items) != len(told.documents):
        found.append(f"{len(told.documents)} reports were acknowledged, {len(items)} are there")
    read = []
    for item in items:
        data = (await asker.ask("GET", f"{reports}/{item['id']}/attachments/1")).data
        read.append(hashlib.sha256(data).hexdigest())
    if sorted(read) != sorted(told.documents.values()):
        found.append("documents are not what was sent")
    if told.differences is not None and told.differences != [("long", number) for number in accountant.numbers]:
        found.append(f"{len(told.differences)} differences of {accountant.lines}, {told.differences[:3]}")
    return found
