"""The messages of one frame go to the handler together, and each is answered as if it had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.hl7v2.filing import TOGETHER
from connectors.port import Inbound, InboundAnswer, Refused, Stored
from loadtest.simulators.mllp import ER7, read_frame

from .conftest import MakeConnector
from .wire.rows import adt, framed

BHS = "BHS|^~\\&|HIS|H1|HB|X|20260105080000||||B7\r"
AGAIN = Refused(code="store_down", text="", retryable=True)
NEVER = Refused(code="bad", text="", retryable=False)


class Handler:
    """Answers by control id; anything else is stored."""

    def __init__(self, connector: HL7v2Connector) -> None:
        self.connector = connector
        self.groups: list[list[str]] = []
        self.answers: dict[str, InboundAnswer | Exception] = {}
        connector.hand_on_together(self.take_together)

    async def take(self, inbound: Inbound) -> InboundAnswer:
        return (await self.take_together([inbound]))[0]

    async def take_together(self, inbounds: Sequence[Inbound]) -> list[InboundAnswer]:
        self.groups.append([one.control_id for one in inbounds])
        given: list[InboundAnswer] = []
        for one in inbounds:
            answer = self.answers.get(one.control_id, Stored())
            if isinstance(answer, Exception):
                raise answer
            given.append(answer)
            if answer is AGAIN:
                break
        return given

    async def ask(self, text: str) -> list[tuple[str, str]]:
        """MSA-1 and MSA-2 of each acknowledgement."""
        await self.connector.serve(self.take)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.connector.listen_port, limit=1 << 24)
        writer.write(framed(text))
        payload = await asyncio.wait_for(read_frame(reader), 30)
        writer.close()
        await writer.wait_closed()
        assert payload is not None
        return [(one[1], one[2]) for one in ER7(payload.decode()).segments if one[0] == "MSA"]


@pytest.fixture
def handler(make_connector: MakeConnector) -> Handler:
    return Handler(make_connector("hl7v2", listen_port=0))


def batch(*messages: str) -> str:
    return BHS + "".join(messages) + f"BTS|{len(messages)}\r"


async def test_messages_of_a_batch_are_handed_on_together(handler: Handler) -> None:
    ids = [f"M{n}" for n in range(TOGETHER + 5)]
    assert await handler.ask(batch(*map(adt, ids))) == [("AA", one) for one in ids]
    assert handler.groups == [ids[:TOGETHER], ids[TOGETHER:]]


async def test_message_by_itself_is_handed_on_alone(handler: Handler) -> None:
    assert await handler.ask(adt("M1")) == [("AA", "M1")]
    assert handler.groups == [["M1"]]


async def test_what_is_not_stored_stands_between_when_it_is_answered_from_its_place(handler: Handler) -> None:
    messages = [
        adt("M1"),
        adt("M2"),
        adt("M3", mode="T"),
        adt("M4"),
        adt("M5", kind="ACK", body="MSA|AA|X\r"),
        adt("M6"),
    ]
    assert await handler.ask(batch(*messages)) == [
        ("AA", "M1"), ("AA", "M2"), ("AR", "M3"), ("AA", "M4"), ("AA", "M6"),
    ]  # fmt: skip
    assert handler.groups == [["M1", "M2"], ["M4"], ["M6"]]


async def test_long_message_is_handed_on_by_itself_in_its_place(handler: Handler) -> None:
    long = adt("M2", body="PID|1||100^^^H^MR||Zhang^Wei\rNTE|1||" + "x" * 70_000 + "\r")
    assert await handler.ask(batch(adt("M1"), long, adt("M3"))) == [("AA", "M1"), ("AA", "M2"), ("AA", "M3")]
    assert handler.groups == [["M1"], ["M2"], ["M3"]]


async def test_rest_is_put_off_when_one_may_come_again(handler: Handler) -> None:
    handler.answers = {"M1": NEVER, "M3": AGAIN}
    ids = [f"M{n}" for n in range(TOGETHER + 5)]
    codes = [code for code, _ in await handler.ask(batch(*map(adt, ids)))]
    assert codes == ["AA", "AR", "AA"] + ["AE"] * (TOGETHER + 2)
    assert handler.groups == [ids[:TOGETHER]]


async def test_all_may_come_again_when_the_handler_fails(handler: Handler) -> None:
    handler.answers = {"M2": ValueError("nobody has thought of it")}
    assert await handler.ask(batch(adt("M1"), adt("M2"), adt("M3"))) == [("AE", "M1"), ("AE", "M2"), ("AE", "M3")]


async def test_messages_are_handed_on_one_by_one_when_the_handler_takes_no_more(make_connector: MakeConnector) -> None:
    connector = make_connector("hl7v2", listen_port=0)
    handler = Handler(connector)
    connector._handle_together = None
    assert await handler.ask(batch(adt("M1"), adt("M2"))) == [("AA", "M1"), ("AA", "M2")]
    assert handler.groups == [["M1"], ["M2"]]


async def test_answers_stand_in_their_batches_when_a_group_goes_over_several(handler: Handler) -> None:
    fhs = BHS.replace("BHS", "FHS")
    await handler.connector.serve(handler.take)
    reader, writer = await asyncio.open_connection("127.0.0.1", handler.connector.listen_port)
    writer.write(framed(fhs + batch(adt("M1"), adt("M2")) + batch(adt("M3")) + "FTS|2\r"))
    payload = await asyncio.wait_for(read_frame(reader), 30)
    writer.close()
    await writer.wait_closed()
    assert payload is not None
    answer = ER7(payload.decode())
    assert [one[0] if one[0] != "MSA" else one[2] for one in answer.segments if one[0] != "MSH"] == [
        "FHS", "BHS", "M1", "M2", "BTS", "BHS", "M3", "BTS", "FTS",
    ]  # fmt: skip
    assert handler.groups == [["M1", "M2", "M3"]]
