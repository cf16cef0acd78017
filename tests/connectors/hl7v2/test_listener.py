"""The listener over real sockets: who gets which acknowledgement, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.port import Inbound, InboundAnswer, Refused, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import PatientChanged
from monitoring.logs import configure_logging
from monitoring.metrics import REGISTRY

from .conftest import MakeConnector

PID = "PID|1||100^^^H^MR||Zhang^Wei\r"


def adt(control_id: str = "M1", *, kind: str = "ADT^A08", mode: str = "P", accept: str = "", app: str = "") -> str:
    return f"MSH|^~\\&|HIS|H1|HB|X|20260105080000||{kind}|{control_id}|{mode}|2.5.1|||{accept}|{app}\r{PID}"


class Peer:
    """The other end: sends bytes, reads acknowledgements."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, text: str | bytes) -> None:
        self.writer.write(START + (text.encode() if isinstance(text, str) else text) + END)
        await self.writer.drain()

    async def ack(self) -> ER7:
        payload = await asyncio.wait_for(read_frame(self.reader), 5)
        assert payload is not None
        return ER7(payload.decode())

    async def ask(self, text: str | bytes) -> ER7:
        await self.send(text)
        return await self.ack()

    async def is_silent(self) -> bool:
        """Nothing was answered: the next message's answer is the next thing that comes."""
        return (await self.ask(adt("PROBE"))).get("MSA", 2) == "PROBE"


class Handler:
    """Takes what comes; answers what it is told to."""

    def __init__(self) -> None:
        self.taken: list[Inbound] = []
        self.result: InboundAnswer | Exception = Stored()
        self.gate: asyncio.Event | None = None

    async def __call__(self, inbound: Inbound) -> InboundAnswer:
        if self.gate is not None:
            await self.gate.wait()
        self.taken.append(inbound)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def handler() -> Handler:
    return Handler()


Connect = Callable[..., Awaitable[Peer]]


@pytest.fixture
async def connect(make_connector: MakeConnector, handler: Handler) -> AsyncIterator[Connect]:
    peers: list[Peer] = []
    connectors: dict[str, HL7v2Connector] = {}

    async def open_peer(**options: object) -> Peer:
        key = repr(sorted(options.items()))
        if key not in connectors:
            connectors[key] = make_connector("hl7v2", listen_port=0, **options)
            await connectors[key].serve(handler)
        peer = Peer(*await asyncio.open_connection("127.0.0.1", connectors[key].listen_port))
        peers.append(peer)
        return peer

    yield open_peer
    for peer in peers:
        peer.writer.close()
        await asyncio.gather(peer.writer.wait_closed(), return_exceptions=True)


# --- the acknowledgement table: v2.5.1 ch. 2.9.2 and 2.9.3, table 0155 ---------------------------------------------------

GOOD = Stored()
AGAIN = Refused(code="store_down", text="", retryable=True)
NEVER = Refused(code="bad", text="", retryable=False)


@pytest.mark.parametrize(
    ("accept", "app", "result", "expected"),
    [
        ("", "", GOOD, ["AA"]),
        ("", "", AGAIN, ["AE"]),
        ("", "", NEVER, ["AR"]),
        ("AL", "NE", GOOD, ["CA"]),
        ("AL", "NE", AGAIN, ["CE"]),
        ("AL", "NE", NEVER, ["CR"]),
        ("NE", "NE", GOOD, []),
        ("NE", "NE", AGAIN, []),
        ("AL", "AL", GOOD, ["CA", "AA"]),
        ("AL", "AL", NEVER, ["CR"]),
        ("NE", "AL", GOOD, ["AA"]),
        ("NE", "AL", AGAIN, ["AE"]),
        ("", "AL", GOOD, ["AA"]),
        ("AL", "", GOOD, ["CA"]),
        ("ER", "NE", GOOD, []),
        ("ER", "NE", AGAIN, ["CE"]),
        ("SU", "NE", GOOD, ["CA"]),
        ("SU", "NE", NEVER, []),
        ("SU", "ER", NEVER, ["AR"]),
        ("ER", "AL", GOOD, ["AA"]),
    ],
)
async def test_acknowledgement_follows_msh_15_and_16(
    connect: Connect, handler: Handler, accept: str, app: str, result: InboundAnswer, expected: list[str]
) -> None:
    peer: Peer = await connect()
    handler.result = result
    await peer.send(adt("M7", accept=accept, app=app))
    for code in expected:
        ack = await peer.ack()
        assert (ack.get("MSA", 1), ack.get("MSA", 2)) == (code, "M7")
        assert (ack.get("ERR", 3) == "207") == (code[1] != "A")
    assert await peer.is_silent()
    assert handler.taken[0].control_id == "M7"


async def test_acknowledgement_is_sent_to_the_sender_with_an_id_of_ours(connect: Connect) -> None:
    peer: Peer = await connect()
    one, two = await peer.ask(adt("M1")), await peer.ask(adt("M2"))
    assert [one.get("MSH", n) for n in (3, 4, 5, 6)] == ["HB", "X", "HIS", "H1"]
    assert (one.get("MSH", 9), one.get("MSH", 9, 2), one.get("MSH", 9, 3)) == ("ACK", "A08", "ACK")
    assert (one.get("MSH", 11), one.get("MSH", 12)) == ("P", "2.5.1")
    assert one.get("MSH", 10) not in ("", "M1", two.get("MSH", 10))
    assert len(one.get("MSH", 10)) <= 20


@pytest.mark.parametrize(
    ("text", "code", "error", "named"),
    [
        (adt("M1", mode="T"), "AR", "202", "M1"),
        (adt("M1", kind="ADT^A99"), "AR", "201", "M1"),
        (adt("M1", kind="ZZZ^Z01"), "AR", "200", "M1"),
        (adt("M1", kind="ADT"), "AR", "201", "M1"),
        (adt("M1", kind=""), "AR", "101", "M1"),
        (adt(""), "AR", "101", ""),
        (adt("M" * 500), "AA", "", "M" * 500),
        (adt("M" * 501), "AR", "102", "M" * 501),
        ("PID|1||100\r", "AR", "100", ""),
        ("hello", "AR", "100", ""),
        (adt("M1") + "this is no segment\r", "AR", "100", "M1"),
        (adt("M1").replace("2.5.1||||", "2.5.1||||||UNICODE UTF-8"), "AA", "", "M1"),
        (adt("M1").replace("2.5.1||||", "2.5.1||||||KLINGON"), "AR", "102", "M1"),
    ],
)
async def test_bad_message_is_rejected_with_its_reason_and_the_connection_lives(
    connect: Connect, handler: Handler, text: str, code: str, error: str, named: str
) -> None:
    peer: Peer = await connect()
    ack = await peer.ask(text)
    assert (ack.get("MSA", 1), ack.get("ERR", 3), ack.get("MSA", 2)) == (code, error, named)
    assert await peer.is_silent()
    if code != "AA":
        assert [inbound.control_id for inbound in handler.taken] == ["PROBE"]


async def test_processing_id_is_taken_when_the_option_lists_it(connect: Connect) -> None:
    peer: Peer = await connect(accept_processing_ids=["P", "T"])
    assert (await peer.ask(adt("M1", mode="T"))).get("MSA", 1) == "AA"
    assert (await peer.ask(adt("M2", mode="D"))).get("ERR", 3) == "202"


async def test_message_is_acknowledged_and_dropped_when_its_type_is_ignored(connect: Connect, handler: Handler) -> None:
    peer: Peer = await connect(ignore=["ADT^A01"])
    assert (await peer.ask(adt("M1", kind="ADT^A01^ADT_A01"))).get("MSA", 1) == "AA"
    assert handler.taken == []


async def test_peer_that_wants_none_is_answered_when_ack_is_always(connect: Connect) -> None:
    peer: Peer = await connect(ack="always")
    assert (await peer.ask(adt("M1", accept="NE", app="NE"))).get("MSA", 1) == "AA"


async def test_acknowledgement_waits_when_the_handler_has_not_returned(connect: Connect, handler: Handler) -> None:
    peer: Peer = await connect()
    handler.gate = asyncio.Event()
    await peer.send(adt("M1"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.reader.read(1), 0.1)
    handler.gate.set()
    assert (await peer.ack()).get("MSA", 2) == "M1"


async def test_message_is_answered_as_an_error_when_its_handler_fails(
    connect: Connect, handler: Handler, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging()  # to this test's stderr, wherever an earlier test sent it
    labels = {"hospital": "hl7-demo", "connector": "hl7", "type": "ADT^A08", "result": "failed"}
    before = REGISTRY.get_sample_value("hisbridge_inbound_messages_total", labels) or 0.0
    peer: Peer = await connect()
    handler.result = RuntimeError("the store is gone")
    ack = await peer.ask(adt("M1"))
    assert (ack.get("MSA", 1), ack.get("MSA", 2), ack.get("ERR", 3)) == ("AE", "M1", "207")
    assert (await peer.ask(adt("M2", accept="AL", app="NE"))).get("MSA", 1) == "CE"
    assert REGISTRY.get_sample_value("hisbridge_inbound_messages_total", labels) == before + 2
    assert capfd.readouterr().err.count("hl7_message_not_handled") == 2
    # The connection lives, and the message is taken when the peer sends it again.
    handler.result = GOOD
    assert (await peer.ask(adt("M1"))).get("MSA", 1) == "AA"


async def test_message_is_handed_on_with_its_problem_when_it_cannot_be_mapped(
    connect: Connect, handler: Handler
) -> None:
    peer: Peer = await connect()
    secret = "Zhang^Wei"
    ack = await peer.ask(adt("M1").replace(f"||{secret}", "||"))
    assert ack.get("MSA", 1) == "AA"
    (inbound,) = handler.taken
    assert inbound.events == ()
    assert inbound.problem is not None
    assert "profile.yaml" in inbound.problem
    assert secret not in inbound.problem


async def test_message_is_mapped_when_it_is_good(connect: Connect, handler: Handler) -> None:
    peer: Peer = await connect()
    text = adt("M1")
    await peer.ask(text)
    (inbound,) = handler.taken
    assert (inbound.message_type, inbound.raw, inbound.problem) == ("ADT^A08", text.encode(), None)
    (event,) = inbound.events
    assert isinstance(event, PatientChanged)
    assert (event.patient.mrn, event.patient.name) == ("100", "Wei Zhang")


@pytest.mark.parametrize(
    ("result", "counted"),
    [
        (Stored(duplicate=True), "duplicate"),
        (Refused(code="x", text="", retryable=True), "refused"),
        (Stored(), None),  # whoever applies it counts what became of it
    ],
)
async def test_answer_is_counted_when_it_ends_the_matter(
    connect: Connect, handler: Handler, result: InboundAnswer, counted: str | None
) -> None:
    def count() -> dict[str, float]:
        labels = {"hospital": "hl7-demo", "connector": "hl7", "type": "ADT^A08"}
        return {
            r: REGISTRY.get_sample_value("hisbridge_inbound_messages_total", {**labels, "result": r}) or 0.0
            for r in ("applied", "duplicate", "quarantined", "refused")
        }

    before = count()
    peer: Peer = await connect()
    handler.result = result
    await peer.ask(adt("M1"))
    changed = {r: n - before[r] for r, n in count().items() if n != before[r]}
    assert changed == ({} if counted is None else {counted: 1})


async def test_answer_speaks_the_set_of_the_message(connect: Connect) -> None:
    peer: Peer = await connect()
    text = f"MSH|^~\\&|医院|H1|HB|X|20260105080000||ADT^A08|M1|P|2.5.1||||||GBK\r{PID}"
    await peer.send(text.encode("gbk"))
    payload = await asyncio.wait_for(read_frame(peer.reader), 5)
    assert payload is not None
    ack = ER7(payload.decode("gbk"))
    assert (ack.get("MSA", 1), ack.get("MSH", 5), ack.get("MSH", 18)) == ("AA", "医院", "GBK")


async def test_messages_are_answered_in_order_when_they_come_in_one_read_or_in_pieces(
    connect: Connect, handler: Handler
) -> None:
    peer: Peer = await connect()
    stream = b"".join(START + adt(f"M{n}").encode() + END for n in range(5))
    peer.writer.write(b"junk" + stream)
    for byte in START + adt("M5").encode() + END:
        peer.writer.write(bytes([byte]))
    await peer.writer.drain()
    assert [(await peer.ack()).get("MSA", 2) for _ in range(6)] == [f"M{n}" for n in range(6)]
    assert len(handler.taken) == 6


async def test_message_is_rejected_by_name_when_it_is_too_large(
    make_connector: MakeConnector, handler: Handler
) -> None:
    connector = make_connector("hl7v2", listen_port=0, max_message_bytes=5000)
    await connector.serve(handler)
    peer = Peer(*await asyncio.open_connection("127.0.0.1", connector.listen_port))
    ack = await peer.ask(adt("BIG") + "NTE|1||" + "x" * 200_000 + "\r")
    assert (ack.get("MSA", 1), ack.get("MSA", 2)) == ("AR", "BIG")
    assert (await peer.ask(adt("M2"))).get("MSA", 1) == "AA"
    peer.writer.close()
    await peer.writer.wait_closed()


async def test_connection_is_closed_when_there_are_too_many(connect: Connect) -> None:
    first: Peer = await connect(max_connections=1)
    await first.ask(adt("M1"))
    second: Peer = await connect(max_connections=1)
    assert await asyncio.wait_for(second.reader.read(), 5) == b""
    assert (await first.ask(adt("M2"))).get("MSA", 1) == "AA"


@pytest.mark.parametrize("begun", [b"", START + b"MSH|^~"])
async def test_connection_is_closed_when_the_peer_stays_silent(connect: Connect, begun: bytes) -> None:
    peer: Peer = await connect(idle_timeout_s=0.1, frame_timeout_s=0.1)
    peer.writer.write(begun)
    assert await asyncio.wait_for(peer.reader.read(), 5) == b""


async def test_acknowledgement_is_not_acknowledged(connect: Connect, handler: Handler) -> None:
    peer: Peer = await connect()
    await peer.send("MSH|^~\\&|HIS|H|||20260105||ACK^A08^ACK|9|P|2.5.1\rMSA|AA|1\r")
    assert await peer.is_silent()
    assert len(handler.taken) == 1


async def test_repeat_has_the_same_key_and_other_content_another(connect: Connect, handler: Handler) -> None:
    peer: Peer = await connect()
    first = adt("M1")
    later = first.replace("20260105080000||", "20260105090000|TOKEN|").replace("2.5.1|", "2.5.1|42")
    for text in (first, later, first.replace("Wei", "Ming"), adt("M2"), first.replace("|HIS|", "|LIS|")):
        await peer.ask(text)
    keys = [inbound.dedup_key for inbound in handler.taken]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


async def test_control_id_is_one_s_own_when_another_application_or_facility_has_the_same(
    connect: Connect, handler: Handler
) -> None:
    peer: Peer = await connect()
    first = adt("M1")
    for text in (first, first.replace("Wei", "Ming"), first.replace("|HIS|", "|LIS|"), first.replace("|H1|", "|H2|")):
        await peer.ask(text)
    keys = [inbound.same_id_key for inbound in handler.taken]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


async def test_message_in_hand_is_answered_when_the_connector_closes(
    make_connector: MakeConnector, handler: Handler
) -> None:
    connector = make_connector("hl7v2", listen_port=0)
    await connector.serve(handler)
    handler.gate = asyncio.Event()
    peer = Peer(*await asyncio.open_connection("127.0.0.1", connector.listen_port))
    await peer.send(adt("M1"))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(connector.close())
    await asyncio.sleep(0.05)
    handler.gate.set()
    assert (await peer.ack()).get("MSA", 2) == "M1"
    await closing
    assert await peer.reader.read() == b""
    peer.writer.close()
    await peer.writer.wait_closed()


@asynccontextmanager
async def serving(connector: HL7v2Connector, handler: Handler) -> AsyncIterator[int]:
    await connector.serve(handler)
    yield connector.listen_port
    await connector.close()


async def test_port_taken_is_said_at_once(make_connector: MakeConnector, handler: Handler) -> None:
    async with serving(make_connector("hl7v2", listen_port=0), handler) as port:
        with pytest.raises(OSError, match="address already in use"):
            await make_connector("hl7v2", listen_port=port).serve(handler)
