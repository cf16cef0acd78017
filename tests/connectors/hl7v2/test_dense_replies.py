"""What a HIS answers may be as dense as it likes: the event loop is not held while it is read and mapped."""

from __future__ import annotations

import asyncio

import pytest

from connectors.hl7v2.batches import MOST_MESSAGES
from connectors.hl7v2.weight import OFF_LOOP_BYTES
from connectors.port import Accepted, Acknowledged, Exchanged, HisUnavailable, Order
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import Patient

from .conftest import ZHANG, MakeConnector
from .loop_turns import turns_are_short
from .peers.test_servers import order


async def his(*lines: str, most_bytes: int = OFF_LOOP_BYTES) -> asyncio.Server:
    """A HIS that answers everything with AA and these segments."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            top = ["MSH|^~\\&|H|||||RSP^K22^RSP_K21|1|P|2.5.1", f"MSA|AA|{ER7(payload.decode()).get('MSH', 10)}"]
            text = "\r".join([*top, *lines]) + "\r"
            assert len(text) <= most_bytes
            writer.write(START + text.encode() + END)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


MANY = "~1" * 7500


@pytest.mark.parametrize(
    "line", [f"PID|1||100^^^H^MR{MANY}||张伟", "PID|1||100^^^H^MR||张伟" + "\r" * 15_000], ids=["repetitions", "lines"]
)
async def test_event_loop_is_not_held_when_the_list_of_patients_is_dense(
    make_connector: MakeConnector, line: str
) -> None:
    server = await his(line)
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    with turns_are_short():
        (found,) = await connector.find_patient(ZHANG)
    assert isinstance(found, Patient)
    assert found.mrn == "100"
    await connector.close()
    server.close()
    await server.wait_closed()


async def test_event_loop_is_not_held_when_the_answer_to_a_booking_is_dense(make_connector: MakeConnector) -> None:
    asked: Order = order(1)
    server = await his(f"SCH|{asked.order_no}|V1" + "|" * 23 + "Booked", f"PID|1||{MANY[1:]}~100^^^H^MR")
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    with turns_are_short():
        outcome = await connector.book(asked)
    assert isinstance(outcome, Accepted)
    assert outcome.his_refs == {"appointment": "V1"}
    await connector.close()
    server.close()
    await server.wait_closed()


async def test_event_loop_is_not_held_when_an_answer_of_many_segments_is_kept(make_connector: MakeConnector) -> None:
    server = await his("PID|1||100^^^H^MR||张伟", *["NTE|1||x"] * 15_000, most_bytes=200_000)
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    kept: list[Exchanged | Acknowledged] = []
    connector.record_exchanges(kept.append)
    with turns_are_short():
        (found,) = await connector.find_patient(ZHANG)
    assert isinstance(found, Patient)
    (one,) = kept
    assert isinstance(one, Exchanged)
    assert one.answer is not None
    assert one.answer.endswith("PID|1||100^^^H^MR||张伟\r".encode() + b"NTE|1||x\r" * 15_000)
    await connector.close()
    server.close()
    await server.wait_closed()


async def test_answer_is_none_when_its_frame_holds_more_messages_than_a_frame_may(
    make_connector: MakeConnector,
) -> None:
    server = await his(*["MSH|^~\\&|H|||||ACK|2|P|2.5.1"] * MOST_MESSAGES, most_bytes=1_000_000)
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    with turns_are_short(), pytest.raises(HisUnavailable, match="more than 10000 messages in one frame"):
        await connector.find_patient(ZHANG)
    await connector.close()
    server.close()
    await server.wait_closed()
