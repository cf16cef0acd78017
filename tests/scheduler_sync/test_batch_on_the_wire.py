"""A night's batch from the socket to the stores: answered, in order, each message once, and not a commit for each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import HandsOnTogether, Inbound
from loadtest.simulators.mllp import ER7, read_frame
from scheduler_sync import inbox as module
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.journal import take_messages
from scheduler_sync.messages.tables import messages as message_table
from tests.connectors.hl7v2.wire.rows import adt, framed

MANY = 2_000
IDS = [f"S{n}" for n in range(MANY)]


def siu(control_id: str) -> str:
    number = int(control_id[1:])
    body = f"SCH|{20260105000000000000 + number}|V{number}" + "|" * 23 + "Booked\rPID|1||100^^^H^MR||Zhang^Wei\r"
    return adt(control_id, kind="SIU^S12", body=body)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each transaction was to store."""
    sizes: list[int] = []

    async def take(ledger: Any, inbounds: Sequence[Inbound], marks: Any) -> Any:
        sizes.append(len(inbounds))
        return await take_messages(ledger, inbounds, marks)

    monkeypatch.setattr(module, "take_messages", take)
    return sizes


async def test_batch_is_stored_in_order_and_once_with_few_commits_when_it_is_long(
    inbox: Inbox, messages: Store, hospital: Hospital, commits: list[int]
) -> None:
    context = HospitalContext(id=hospital.id, zone=hospital.zone, currency=hospital.currency)
    connector: HL7v2Connector = create(context, "his", Options(protocol="hl7v2", profile="hl7v2", listen_port=0))
    assert isinstance(connector, HandsOnTogether)
    connector.hand_on_together(inbox.handle_together)
    await connector.serve(inbox.handle)
    reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port, limit=1 << 24)
    frame = framed("BHS|^~\\&|HIS\r" + "".join(map(siu, IDS)) + f"BTS|{MANY}\r")
    turns = 0

    async def ask() -> list[tuple[str, str]]:
        writer.write(frame)
        payload = await asyncio.wait_for(read_frame(reader), 300)
        assert payload is not None
        return [(one[1], one[2]) for one in ER7(payload.decode()).segments if one[0] == "MSA"]

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    ticker = asyncio.create_task(tick())
    assert await ask() == [("AA", one) for one in IDS]
    ticker.cancel()
    assert turns > len(commits)  # whatever else there is to do goes on between them
    assert sum(commits) == MANY
    assert len(commits) < MANY / 20
    assert await ask() == [("AA", one) for one in IDS]  # a repeat of all of it
    writer.close()
    await writer.wait_closed()
    await connector.close()
    await inbox.apply_all()
    async with messages.read(hospital.id) as tx:
        rows = await tx.all(select(message_table.c.control_id, message_table.c.state).order_by(message_table.c.id))
    assert [(row["control_id"], row["state"]) for row in rows] == [(one, "applied") for one in IDS]
