"""Numbered messages from the socket to the message store and back: MSA-4 is what the store knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from loadtest.simulators.mllp import ER7, read_frame
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.store import list_messages
from tests.booking.world import HOSPITAL
from tests.connectors.hl7v2.wire.rows import adt, framed

Ask = Callable[[str], Awaitable[ER7]]


def said(answer: ER7) -> tuple[str, str, str]:
    """MSA-1, MSA-2 and MSA-4."""
    return answer.get("MSA", 1), answer.get("MSA", 2), answer.get("MSA", 4)


@asynccontextmanager
async def connected(inbox: Inbox, hospital: Hospital, **options: object) -> AsyncIterator[Ask]:
    """A HIS that is connected to the inbox; what it asks is answered before it goes on."""
    context = HospitalContext(id=hospital.id, zone=hospital.zone, currency=hospital.currency)
    settings = Options(protocol="hl7v2", profile="hl7v2", listen_port=0, **options)  # type: ignore[arg-type]
    connector: HL7v2Connector = create(context, "his", settings)
    await connector.serve(inbox.handle)
    reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)

    async def ask(message: str) -> ER7:
        writer.write(framed(message))
        payload = await asyncio.wait_for(read_frame(reader), 20)
        assert payload is not None
        return ER7(payload.decode())

    yield ask
    writer.close()
    await writer.wait_closed()
    await connector.close()


async def test_numbers_are_kept_over_a_restart_a_gap_and_a_rejection(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital
) -> None:
    async with connected(inbox, hospital, sequence="check") as ask:
        assert said(await ask(adt("Q", sequence="0", body=""))) == ("AA", "Q", "-1")
        assert said(await ask(adt("M5", sequence="5"))) == ("AA", "M5", "5")
        assert said(await ask(adt("M7", sequence="7"))) == ("AE", "M7", "6")
        assert said(await ask(adt("M6", sequence="6", mode="T"))) == ("AR", "M6", "6")
        assert said(await ask(adt("M7", sequence="7"))) == ("AA", "M7", "7")
    await inbox.close()
    again = Inbox(store, messages, hospital)
    await again.heal()
    async with connected(again, hospital, sequence="check") as ask:
        assert said(await ask(adt("M7", sequence="7"))) == ("AA", "M7", "8")
        assert said(await ask(adt("Q", sequence="0"))) == ("AA", "Q", "8")
        assert said(await ask(adt("R", sequence="-1"))) == ("AA", "R", "-1")
        assert said(await ask(adt("M1", sequence="1"))) == ("AA", "M1", "1")
    await again.close()
    assert [one.control_id for one in reversed(await list_messages(messages, HOSPITAL))] == ["M5", "M7", "M1"]


async def test_numbers_of_a_batch_are_followed_within_it(inbox: Inbox, hospital: Hospital) -> None:
    async with connected(inbox, hospital, sequence="check") as ask:
        frame = (
            "BHS|^~\\&|HIS\r" + adt("M1", sequence="1") + adt("M2", sequence="2") + adt("M4", sequence="4") + "BTS|3\r"
        )
        answer = await ask(frame)
        outcomes = [(segment[1], segment[2], segment[4]) for segment in answer.segments if segment[0] == "MSA"]
        assert outcomes == [("AA", "M1", "1"), ("AA", "M2", "2"), ("AE", "M4", "3")]


@pytest.mark.parametrize(
    ("same_id", "states"), [("apply", ["applied", "applied"]), ("set_aside", ["applied", "quarantined"])]
)
async def test_other_message_of_a_known_control_id_is_taken_as_the_site_wants_it(
    inbox: Inbox, messages: Store, hospital: Hospital, same_id: str, states: list[str]
) -> None:
    other = adt("M1").replace("Wei", "Ming")
    async with connected(inbox, hospital, same_id=same_id) as ask:
        for message in (adt("M1"), other, adt("M1"), other):
            assert said(await ask(message)) == ("AA", "M1", "")
        await inbox.apply_all()
    assert [one.state for one in reversed(await list_messages(messages, HOSPITAL))] == states
