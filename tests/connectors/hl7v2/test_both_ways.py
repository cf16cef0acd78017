"""Requests of ours and messages of the HIS on one connection, whoever has made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.hl7v2.hearing import MOST_BYTES, MOST_HEADS, MOST_MESSAGES
from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    Inbound,
    InboundAnswer,
    Outcome,
    Rejected,
    Stored,
    Unknown,
    Verb,
)
from loadtest.simulators.mllp import ER7, read_frame
from mappings.canonical import Bill
from monitoring.metrics import REGISTRY
from tests.connectors.hl7v2.conftest import HOSPITAL, ZHANG, payment
from tests.connectors.hl7v2.scripted import FakeHis, ack, number_of
from tests.loop_clock import LoopClock

from .wire.his import PROFILE
from .wire.rows import AGAIN, NEVER, adt, framed, sent

OPEN: dict[str, Any] = {"listen_port": 0, "allow": ["127.0.0.1"]}


class Desk:
    """The handler. `open` is cleared to let messages wait; `entered` is set when one has come; `first` is the next answer."""

    def __init__(self, first: InboundAnswer | None = None) -> None:
        self.taken: list[str] = []
        self.first = first
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, inbound: Inbound) -> InboundAnswer:
        self.entered.set()
        await self.open.wait()
        self.taken.append(inbound.control_id)
        answer, self.first = self.first or Stored(), None
        return answer


@asynccontextmanager
async def connected(desk: Desk, folder: Path | None = None, **options: object) -> AsyncIterator[HL7v2Connector]:
    """A connector as the service has it."""
    given = {"profile": "hl7v2", "both_ways": True, "connections": 1, "timeout_s": {"settle_bill": 2.0}, **options}
    connector = create(HOSPITAL, "his", Options(protocol="hl7v2", **given), profiles_dir=folder)  # type: ignore[arg-type]
    await connector.start()
    try:
        await connector.serve(desk)
        yield connector
    finally:
        desk.open.set()
        await connector.close()


async def settle(connector: HL7v2Connector) -> Outcome:
    bill = Bill(id="B1", amount_fen=100, currency="CNY")
    return await connector.settle_bill(BillPayment(order_no="9" * 20, bill=bill, patient=ZHANG, payment=payment(100)))


class Peer:
    """The HIS as the one that connects: what it hears, in order, and answers of ours apart from requests of ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def hear(self) -> ER7:
        async with asyncio.timeout(10):
            payload = await read_frame(self._reader)
        assert payload is not None, "closed by hisbridge"
        return ER7(payload.decode())

    async def is_closed(self) -> bool:
        async with asyncio.timeout(10):
            try:
                while await read_frame(self._reader) is not None:
                    pass
            except OSError:
                pass
        return True


@asynccontextmanager
async def peer_of(connector: HL7v2Connector) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def said(message: ER7) -> tuple[str, str]:
    return message.get("MSA", 1), message.get("MSA", 2)


# --- connections of ours ------------------------------------------------------------------------------------------------


async def test_message_of_the_his_is_answered_on_our_connection() -> None:
    desk = Desk()
    answered: list[tuple[str, str]] = []

    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        message = ER7(payload.decode())
        if message.has("MSA"):
            answered.append(said(message))
        else:
            writer.write(sent("H1") + ack(number_of(payload)) + sent("H2"))

    async with FakeHis(his).listening() as fake, connected(desk, host="127.0.0.1", port=fake.port) as connector:
        assert connector.traits(Verb.FETCH_REPORTS).capability is Capability.PUSHED
        assert isinstance(await settle(connector), Accepted)
        async with asyncio.timeout(10):
            while len(answered) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert answered == [("AA", "H1"), ("AA", "H2")]
        assert desk.taken == ["H1", "H2"]


async def test_connection_is_there_for_the_his_when_nothing_is_asked() -> None:
    desk = Desk()
    async with FakeHis().listening() as fake, connected(desk, host="127.0.0.1", port=fake.port):
        async with asyncio.timeout(10):
            while not desk.taken:
                for writer in fake.writers:
                    writer.write(sent("H1"))
                await asyncio.sleep(0.05)
        assert desk.taken[0] == "H1"


async def test_connection_is_made_anew_when_it_was_made_before_there_was_anybody_to_answer() -> None:
    desk, answered = Desk(), asyncio.Event()

    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        assert said(ER7(payload.decode())) == ("AA", "H1")
        answered.set()

    async def reached(connections: int) -> None:
        async with asyncio.timeout(10):
            while fake.connections < connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with FakeHis(his).listening() as fake:
        options = Options(protocol="hl7v2", profile="hl7v2", both_ways=True, host="127.0.0.1", port=fake.port)
        connector = create(HOSPITAL, "his", options)
        await connector.start()
        await reached(1)
        await connector.serve(desk)
        await reached(2)
        fake.writers[1].write(sent("H1"))
        async with asyncio.timeout(10):
            await answered.wait()
        await connector.close()


async def test_answer_to_us_is_found_when_the_his_floods_us_with_messages() -> None:
    """Nothing of the flood is handled meanwhile. What passes the bound is put off in its turn, and nothing is out of order."""
    desk = Desk()
    desk.open.clear()
    flood = [f"H{n}" for n in range(3 * MOST_MESSAGES)]
    answered: list[tuple[str, str]] = []

    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        message = ER7(payload.decode())
        if message.has("MSA"):
            answered.append(said(message))
        elif not answered:
            writer.write(sent(*flood) + ack(number_of(payload)))
        else:
            writer.write(ack(number_of(payload)))

    async with FakeHis(his).listening() as fake, connected(desk, host="127.0.0.1", port=fake.port) as connector:
        assert isinstance(await settle(connector), Accepted)
        assert desk.taken == []
        desk.open.set()
        async with asyncio.timeout(20):
            while len(answered) < len(flood):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [name for _, name in answered] == flood
        assert [code for code, _ in answered] == ["AA"] * MOST_MESSAGES + ["AE"] * (len(flood) - MOST_MESSAGES)
        assert desk.taken == flood[:MOST_MESSAGES]
        assert isinstance(await settle(connector), Accepted)


async def test_answer_to_us_is_found_when_the_flood_began_before_we_asked() -> None:
    """Reading stands still while nothing is asked: the rest waits in the socket, and behind it our answer."""
    desk = Desk()
    desk.open.clear()

    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        if b"|DFT^" in payload:
            writer.write(ack(number_of(payload)))

    async with FakeHis(his).listening() as fake, connected(desk, host="127.0.0.1", port=fake.port) as connector:
        assert isinstance(await settle(connector), Accepted)
        body = "PID|1||" + "x" * 3000 + "\r"
        flood = b"".join(framed(adt(f"H{n}", body=body)) for n in range(4 * MOST_MESSAGES))
        fake.writers[-1].write(flood)
        await asyncio.sleep(0.2)
        assert isinstance(await settle(connector), Accepted)
        assert desk.taken == []


async def test_request_in_flight_is_answered_when_the_connector_closes() -> None:
    desk = Desk()
    async with connected(desk, **OPEN) as connector, peer_of(connector) as peer:
        asking = asyncio.create_task(settle(connector))
        request = await peer.hear()
        closing = asyncio.create_task(connector.close())
        await asyncio.sleep(0.1)
        peer.writer.write(ack(request.get("MSH", 10)))
        assert isinstance(await asking, Accepted)
        await closing


async def test_connection_is_given_up_when_more_comes_than_can_even_be_put_off() -> None:
    desk = Desk()
    desk.open.clear()

    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        if len(fake.received) == 1:
            writer.write(sent(*(f"H{n}" for n in range(MOST_HEADS + 1))) + ack(number_of(payload)))
        else:
            writer.write(ack(number_of(payload)))

    async with FakeHis(his).listening() as fake, connected(desk, host="127.0.0.1", port=fake.port) as connector:
        assert await settle(connector) == Unknown(reason="connection lost: Flooded")
        assert isinstance(await settle(connector), Accepted)


# --- connections of the HIS ---------------------------------------------------------------------------------------------


async def test_request_goes_out_on_the_connection_that_the_his_has_made() -> None:
    desk = Desk()
    async with connected(desk, **OPEN) as connector, peer_of(connector) as peer:
        peer.writer.write(sent("H1"))
        assert said(await peer.hear()) == ("AA", "H1")
        asking = asyncio.create_task(settle(connector))
        request = await peer.hear()
        assert (request.get("MSH", 9), request.get("FT1", 6)) == ("DFT", "PY")
        # A message of the HIS's own, before it answers ours.
        peer.writer.write(sent("H2"))
        assert said(await peer.hear()) == ("AA", "H2")
        peer.writer.write(ack(request.get("MSH", 10)))
        assert isinstance(await asking, Accepted)
        assert desk.taken == ["H1", "H2"]


async def test_request_is_answered_while_a_message_of_the_his_is_in_hand() -> None:
    desk = Desk()
    desk.open.clear()
    async with connected(desk, **OPEN) as connector, peer_of(connector) as peer:
        peer.writer.write(sent("H1"))
        asking = asyncio.create_task(settle(connector))
        peer.writer.write(ack((await peer.hear()).get("MSH", 10)))
        assert isinstance(await asking, Accepted)
        desk.open.set()
        assert said(await peer.hear()) == ("AA", "H1")


async def test_nothing_is_sent_when_the_his_is_not_connected() -> None:
    async with connected(Desk(), **OPEN, timeout_s={"settle_bill": 0.2}) as connector:
        assert await settle(connector) == Rejected(code="not_sent", text="the HIS is not connected", retryable=True)
        async with peer_of(connector) as peer:
            asking = asyncio.create_task(settle(connector))
            await peer.hear()
            assert isinstance(await asking, Unknown)
            assert await peer.is_closed()


async def test_request_goes_out_on_the_connection_that_was_used_last() -> None:
    """One that the HIS has forgotten is not chosen while there is another one."""
    async with (
        connected(Desk(), **OPEN) as connector,
        peer_of(connector) as one,
        peer_of(connector) as other,
    ):
        for peer in (one, other, other, one):
            peer.writer.write(sent("H1"))
            await peer.hear()
            asking = asyncio.create_task(settle(connector))
            peer.writer.write(ack((await peer.hear()).get("MSH", 10)))
            assert isinstance(await asking, Accepted)


async def test_gauge_tells_whether_the_his_is_connected() -> None:
    def up() -> float | None:
        return REGISTRY.get_sample_value("hisbridge_connector_up", {"hospital": HOSPITAL.id, "connector": "his"})

    async def becomes(value: float) -> None:
        async with asyncio.timeout(10):
            while up() != value:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with connected(Desk(), **OPEN) as connector:
        await becomes(0)
        async with peer_of(connector), peer_of(connector):
            await becomes(1)
        await becomes(0)
        async with peer_of(connector):
            await becomes(1)
    await becomes(0)


async def test_connection_of_the_his_is_closed_when_it_is_silent_for_as_long_as_it_may() -> None:
    clock = LoopClock()
    async with connected(Desk(), **OPEN, idle_timeout_s=60) as connector, peer_of(connector) as peer:
        for control_id in ("H1", "H2", "H3"):  # each byte gives it as long again
            peer.writer.write(sent(control_id))
            assert said(await peer.hear()) == ("AA", control_id)
            await asyncio.sleep(0.02)
            clock.turn(40)
        clock.turn(60)
        assert await peer.is_closed()


async def test_request_waits_for_the_his_to_connect_within_its_time() -> None:
    async with connected(Desk(), **OPEN) as connector:
        asking = asyncio.create_task(settle(connector))
        await asyncio.sleep(0.05)
        async with peer_of(connector) as peer:
            peer.writer.write(ack((await peer.hear()).get("MSH", 10)))
            assert isinstance(await asking, Accepted)


async def test_messages_are_answered_when_the_his_closes_its_direction_behind_them() -> None:
    async with connected(Desk(), **OPEN) as connector, peer_of(connector) as peer:
        peer.writer.write(sent("H1", "H2"))
        peer.writer.write_eof()
        assert [said(await peer.hear()) for _ in range(2)] == [("AA", "H1"), ("AA", "H2")]
        assert await peer.is_closed()


async def test_message_in_hand_is_stored_when_its_connection_is_lost() -> None:
    desk = Desk()
    desk.open.clear()
    async with connected(desk, **OPEN) as connector:
        async with peer_of(connector) as peer:
            peer.writer.write(sent("H1"))
            asking = asyncio.create_task(settle(connector))
            await peer.hear()
            await desk.entered.wait()
            peer.writer.transport.abort()
        assert isinstance(await asking, Unknown)
        desk.open.set()
        async with asyncio.timeout(10):
            while not desk.taken:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert desk.taken == ["H1"]


async def test_messages_are_taken_no_faster_than_the_site_lets_them() -> None:
    """Ten at once and ten more each second: the last of 13 comes 0.3 s after the first at the earliest."""
    limits: dict[str, Any] = {"max_messages_per_s": 10.0, "message_burst": 10}
    async with connected(Desk(), **OPEN, **limits) as connector, peer_of(connector) as peer:
        began = asyncio.get_running_loop().time()
        names = [f"H{n}" for n in range(13)]
        peer.writer.write(sent(*names))
        assert [said(await peer.hear()) for _ in names] == [("AA", name) for name in names]
        assert asyncio.get_running_loop().time() - began >= 0.2


async def test_message_too_large_is_refused_and_the_connection_lives() -> None:
    async with connected(Desk(), **OPEN, max_message_bytes=10_000) as connector, peer_of(connector) as peer:
        peer.writer.write(framed(adt("H1", body="PID|1||" + "x" * 20_000 + "\r")) + sent("H2"))
        assert said(await peer.hear()) == ("AR", "H1")
        assert said(await peer.hear()) == ("AA", "H2")


async def test_message_that_was_not_stored_is_not_overtaken_by_what_has_come_behind_it() -> None:
    """As on a listener's own connections; a rejected one is overtaken, because it is not to come again."""
    desk = Desk(AGAIN)
    async with connected(desk, **OPEN) as connector, peer_of(connector) as peer:
        for codes in (("AE", "AE", "AE"), ("AA", "AA", "AA")):
            peer.writer.write(sent("H1", "H2", "H3"))
            assert [said(await peer.hear()) for _ in codes] == list(zip(codes, ("H1", "H2", "H3"), strict=True))
        assert desk.taken == ["H1", "H1", "H2", "H3"]
        desk.first = NEVER
        peer.writer.write(sent("H4", "H5"))
        assert [said(await peer.hear()) for _ in range(2)] == [("AR", "H4"), ("AA", "H5")]


async def test_only_the_heads_of_messages_are_kept_when_an_answer_is_due_and_megabytes_come_before_it() -> None:
    """They are put off, and the answer behind them is found."""
    desk = Desk()
    desk.open.clear()
    first, large = adt("H0"), [adt(f"L{n:02}") + "NTE|1||" + "x" * 249_000 + "\r" for n in range(20)]
    fit = (MOST_BYTES - len(first)) // len(large[0])
    assert 1 < fit < len(large) < MOST_MESSAGES
    async with connected(desk, **OPEN, timeout_s={"settle_bill": 60.0}) as connector, peer_of(connector) as peer:
        peer.writer.write(framed(first))
        await desk.entered.wait()
        asking = asyncio.create_task(settle(connector))
        request = await peer.hear()
        peer.writer.write(b"".join(framed(one) for one in large) + ack(request.get("MSH", 10)))
        assert isinstance(await asking, Accepted)
        desk.open.set()
        codes = [said(await peer.hear())[0] for _ in (first, *large)]
        assert codes == ["AA"] * (1 + fit) + ["AE"] * (len(large) - fit)
        assert desk.taken == ["H0", *(f"L{n:02}" for n in range(fit))]


async def test_connection_is_given_up_when_the_his_takes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.hl7v2.hearing.WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("connectors.hl7v2.conversation.CLOSE_GRACE_S", 0.2)
    # An answer repeats the control id: long ones fill the way back, which nobody reads.
    long_name = framed(adt("7" * 200_000))
    async with connected(Desk(), **OPEN) as connector:
        _, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port, limit=1)

        async def send_without_end() -> None:
            while True:
                writer.write(long_name)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_without_end(), 10)
        writer.transport.abort()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"listen_port": 0}, "allow or tls_client_ca_file"),
        ({}, "host, or listen_port"),
        ({"host": "127.0.0.1", "port": 1, "persistent": False}, "a connection that is kept"),
        ({"host": "127.0.0.1", "port": 1, "reuse_within_s": 60.0}, "a connection that is kept"),
    ],
)
def test_settings_are_refused_when_they_cannot_work_both_ways(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        create(HOSPITAL, "his", Options(protocol="hl7v2", profile="hl7v2", both_ways=True, **options))  # type: ignore[arg-type]


# --- an answer on another connection ------------------------------------------------------------------------------------


async def test_answer_counts_when_the_application_sends_it_on_a_connection_of_its_own(tmp_path: Path) -> None:
    """Enhanced mode: the commit acknowledgement on ours, the application's later on the HIS's, which wants one in turn."""
    (tmp_path / "deferred").mkdir()
    text = PROFILE.format(name="deferred", accept="AL", application="AL")
    (tmp_path / "deferred" / "profile.yaml").write_text(text, encoding="utf-8")

    async def commit(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ack(number_of(payload), "CA"))

    async with (
        FakeHis(commit).listening() as fake,
        connected(
            Desk(), tmp_path, profile="deferred", both_ways=False, host="127.0.0.1", port=fake.port, listen_port=0
        ) as connector,
        peer_of(connector) as peer,
    ):
        asking = asyncio.create_task(settle(connector))
        async with asyncio.timeout(10):
            while not fake.received:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        peer.writer.write(ack("X1", own_id="H6", accept="AL"))  # to nobody here: no word is due
        peer.writer.write(ack(number_of(fake.received[0]), own_id="H7", accept="AL"))
        assert said(await peer.hear()) == ("CA", "H7")
        assert isinstance(await asking, Accepted)
