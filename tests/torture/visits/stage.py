"""An installation under the axe: two hospitals, the service as a process, and the people who live through it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from loadtest.ports import free_port
from tests.acceptance.installation import (
    Installation,
    ServiceProcess,
    lay_out,
    made_up_person,
    postgres_store,
    run_process,
)
from tests.acceptance.processes import all_ended, children_of
from tests.postgres import PostgresServer
from tests.torture.visits.asking import Asker
from tests.torture.visits.others import Laboratory, laboratory_port
from tests.torture.visits.people import Debtor, Leaver, Patient, Waiting

BANKS = ("soap-demo", "fhir-demo")
"""Registrations and their refunds over SOAP; bills and their refunds over FHIR, whose site's profile switches them on."""
RULES = {
    "lock_wait_s": 600,
    "his_queue_deadline_s": 1,
    "portal_refunds": True,
    "rules": {"waitlist": {"accept_s": 600, "cleared_at": "24:00"}},
}
PROFILE = """name: fhir_money
version: 1
protocol: fhir
extends: fhir_demo@1
verbs:
  refund: {capability: native}
  fetch_refund: {capability: native}
"""


class Scene:
    """A running installation, and its end again and again."""

    def __init__(self, site: Installation, stack: AsyncExitStack, process: ServiceProcess) -> None:
        self.site, self.stack, self.process = site, stack, process

    async def strike(self) -> None:
        """kill -9 of the service with all its processes, and its next start."""
        parent = self.process.process
        children = children_of(parent.pid).values()
        for pid in (parent.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await parent.wait()
        await all_ended(*children)
        self.process = await self.stack.enter_async_context(run_process(self.site))


async def begin(stack: AsyncExitStack, folder: Path, server: PostgresServer | None) -> Scene:
    # A port that stays: the service must come back where its clients look for it.
    table: dict[str, Any] = {"listen": f"127.0.0.1:{free_port()}"}
    store = None
    if server is not None:
        store, table["workers"] = await stack.enter_async_context(postgres_store(server)), 1
    site = await stack.enter_async_context(
        lay_out(folder, hospital=RULES, service_table=table, store=store, seats=1, days=2)
    )
    (folder / "profiles" / "fhir_money").mkdir(parents=True)
    (folder / "profiles" / "fhir_money" / "profile.yaml").write_text(PROFILE, encoding="utf-8")
    text = site.config.read_text(encoding="utf-8").replace("fhir_demo@1", "fhir_money@1")
    site.config.write_text('profiles_dir = "profiles"\n' + text, encoding="utf-8")
    return Scene(site, stack, await stack.enter_async_context(run_process(site)))


async def gather_people(
    site: Installation, asker: Asker, chance: random.Random, enough: asyncio.Event
) -> tuple[list[Patient | Debtor | Leaver | Waiting], Laboratory]:
    """Of each hospital the sessions of its last day: one is what people wait for, the others are for whoever comes."""
    people: list[Patient | Debtor | Leaver | Waiting] = []
    laboratory = None
    for hospital_id in BANKS:
        of, clinic = f"/v1/hospitals/{hospital_id}", site.clinics[hospital_id]
        sessions: dict[str, list[str]] = {}
        await site.fetched(hospital_id)
        for slot in sorted(await site.open_slots(hospital_id), key=lambda s: str(s["starts_at"])):
            sessions.setdefault(slot["schedule_id"], []).append(slot["id"])
        wanted, *others = [session for session, slots in reversed(sessions.items()) if len(slots) == 4]

        async def person() -> tuple[str, dict[str, Any]]:
            body = made_up_person()
            return await site.patient(hospital_id, body), body  # noqa: B023 - used at once

        def mind() -> random.Random:
            return random.Random(chance.getrandbits(64))

        for _ in range(3):
            slots = [slot for session in others[:2] for slot in sessions[session][:2]]
            people.append(Patient(asker, of, (await person())[0], mind(), enough, slots))
        if hospital_id == "fhir-demo":
            for _ in range(2):
                patient_id, body = await person()
                debtor = Debtor(asker, of, patient_id, mind(), enough, clinic, await clinic.mrn_of(body))
                people.append(debtor)
            continue
        leavers = [Leaver(asker, of, (await person())[0], mind(), enough, slot_id) for slot_id in sessions[wanted]]
        for leaver in leavers:
            await leaver.take()
        people += leavers[:2]  # the others stay
        people += [Waiting(asker, of, (await person())[0], mind(), enough, wanted) for _ in range(3)]
        patient_id, body = await person()
        laboratory = Laboratory(
            laboratory_port(site), of, patient_id, await clinic.mrn_of(body), asker.told, asker.moments, mind()
        )
    assert laboratory is not None
    return people, laboratory
