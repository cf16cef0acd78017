"""What a peer may cost: the size of its messages, who may connect and how often, how fast it is read."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create

from .listening import counted, listening, peer_from, until
from .rows import Answer, Row, accepted, adt, framed, sent
from .runner import check, play

LIMIT = 3000
SMALL = {"max_message_bytes": LIMIT}
REFUSED = {"inbound_messages/refused": 1}
WHY = (("ERR", 7, 1, "the message is larger than is taken here"),)
TOO_LARGE = (Answer("AR", "BIG", "207", fields=WHY),)


def filled(size: int, control_id: str = "BIG", *, accept: str = "", application: str = "") -> str:
    """A message of so many bytes."""
    start = adt(control_id, accept=accept, application=application) + "NTE|1||"
    return start + "x" * (size - len(start) - 1) + "\r"


BIG = framed(filled(50_000))

ROWS = (
    Row(
        "a message of the limit",
        "limits",
        (framed(filled(LIMIT, "M1")),),
        accepted("M1"),
        handled=("M1",),
        options=SMALL,
    ),
    Row("one byte more", "limits", (framed(filled(LIMIT + 1)),), TOO_LARGE, counted=REFUSED, options=SMALL),
    Row("far more, in one write", "limits", (BIG,), TOO_LARGE, counted=REFUSED, options=SMALL),
    Row(
        "far more, in many writes",
        "limits",
        tuple(BIG[n : n + 500] for n in range(0, len(BIG), 500)),
        TOO_LARGE,
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "good ones before and behind it",
        "limits",
        (sent("M1") + BIG + sent("M2"),),
        (*accepted("M1"), *TOO_LARGE, *accepted("M2")),
        handled=("M1", "M2"),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "two behind each other",
        "limits",
        (BIG + BIG,),
        (*TOO_LARGE, *TOO_LARGE),
        counted={"inbound_messages/refused": 2},
        options=SMALL,
    ),
    Row(
        "too large, both acknowledgements asked for",
        "limits",
        (framed(filled(50_000, accept="AL", application="AL")),),
        (Answer("CR", "BIG", "207", fields=WHY),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, errors only",
        "limits",
        (framed(filled(50_000, accept="ER", application="NE")),),
        (Answer("CR", "BIG", "207", fields=WHY),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, no acknowledgement asked for",
        "limits",
        (framed(filled(50_000, accept="NE", application="NE")),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, with a header longer than what is kept",
        "limits",
        (framed(f"MSH|^~\\&|{'A' * 4900}|H1|HB|X|20260105080000||ADT^A08|BIG|P|2.5.1\r"),),
        (Answer("AR", "", "207", fields=WHY),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, with a control id that is cut off",
        "limits",
        (framed(f"MSH|^~\\&|{'A' * 4000}|H1|HB|X|20260105080000||ADT^A08|{'7' * 900}|P|2.5.1\r"),),
        (Answer("AR", "", "207", fields=WHY),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, behind line ends, with a control id that is cut off",
        "limits",
        (framed(f"\r\nMSH|^~\\&|{'A' * 4000}|H1|HB|X|20260105080000||ADT^A08|{'7' * 900}|P|2.5.1\r"),),
        (Answer("AR", "", "207", fields=WHY),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, behind line ends",
        "limits",
        (framed("\r\n" + filled(50_000)),),
        TOO_LARGE,
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, and no message",
        "limits",
        (framed("x" * 50_000),),
        (Answer("AR", "", "207", fields=WHY),),
        counted=REFUSED,
        options=SMALL,
    ),
    Row(
        "too large, and given up",
        "limits",
        (BIG[:-2] + sent("M1"),),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/unreadable": 1},
        options=SMALL,
    ),
    Row(
        "a peer whom nobody allowed",
        "limits",
        (),
        lives=False,
        counted={"mllp_connections_refused/not_allowed": 1},
        options={"allow": ["127.0.0.1"]},
        source="127.0.0.2",
    ),
    Row(
        "a peer of a network that is allowed",
        "limits",
        (sent("M1"),),
        accepted("M1"),
        handled=("M1",),
        options={"allow": ["10.1.2.3", "127.0.0.0/8"]},
        source="127.0.0.2",
    ),
    Row(
        "more messages than the rate, all taken in their order",
        "limits",
        (sent("M1", "M2", "M3"),),
        accepted("M1", "M2", "M3"),
        handled=("M1", "M2", "M3"),
        # M2 and M3; then the one that shows that the connection lives, and the one of the other peer, who has the same address.
        counted={"mllp_throttled": 4},
        options={"max_messages_per_s": 1, "message_burst": 1},
    ),
    Row(
        "as many at once as the burst",
        "limits",
        (sent("M1", "M2", "M3"),),
        accepted("M1", "M2", "M3"),
        handled=("M1", "M2", "M3"),
        options={"max_messages_per_s": 0.001, "message_burst": 5},
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))


@pytest.mark.parametrize(
    ("options", "reason", "sources"),
    [
        ({"max_connections": 2}, "too_many", ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
        ({"max_connections_per_peer": 2}, "too_many_of_peer", ["127.0.0.1", "127.0.0.1", "127.0.0.1"]),
    ],
)
async def test_connection_is_closed_at_once_when_there_are_too_many_and_taken_when_one_has_gone(
    options: dict[str, object], reason: str, sources: list[str]
) -> None:
    hospital = f"limits-{reason}"
    async with listening(hospital, **options) as connector:
        one, two, three = (peer_from(connector, source) for source in sources)
        for peer in (one, two):
            await peer.connect()
            assert await peer.probe()
        await three.connect()
        assert await three.ended()
        await three.close()
        assert counted("mllp_connections_refused_total", hospital, reason=reason) == 1
        assert counted("mllp_connections", hospital) == 2
        await one.close()
        await until(lambda: counted("mllp_connections", hospital) == 1)
        await three.connect()
        assert await three.probe()
        assert await two.probe()
        await two.close()
        await three.close()
    assert counted("mllp_connections", hospital) == 0


async def test_other_address_is_served_when_one_has_all_connections_that_it_may() -> None:
    async with listening("limits-other", max_connections_per_peer=1) as connector:
        one, other = peer_from(connector, "127.0.0.1"), peer_from(connector, "127.0.0.2")
        for peer in (one, other):
            await peer.connect()
        assert await other.probe()
        assert await one.probe()
        await one.close()
        await other.close()


async def test_rate_is_of_the_address_when_the_peer_comes_again() -> None:
    """The burst is not given anew to whoever reconnects."""
    async with listening("limits-again", max_messages_per_s=1, message_burst=1) as connector:
        for _ in range(2):
            peer = peer_from(connector, "127.0.0.1")
            await peer.connect()
            assert await peer.probe()
            await peer.close()
        other = peer_from(connector, "127.0.0.2")
        await other.connect()
        assert await other.probe()
        await other.close()
    assert counted("mllp_throttled_total", "limits-again") == 1


async def test_connector_closes_at_once_when_a_peer_waits_for_its_rate() -> None:
    async with listening("limits-closing", max_messages_per_s=0.001, message_burst=1) as connector:
        peer = peer_from(connector, "127.0.0.1")
        await peer.connect()
        await peer.play((sent("M1", "M2"),))
        await peer.wait_for(1)
        await until(lambda: counted("mllp_throttled_total", "limits-closing") == 1)
    await peer.ended()
    assert [answer.get("MSA", 2) for answer in peer.answers] == ["M1"]
    await peer.close()


async def test_counters_begin_at_zero_when_nothing_has_happened_yet() -> None:
    async with listening("limits-zero"):
        for name, label, values in (
            ("mllp_connections_refused_total", "reason", ("not_allowed", "too_many", "too_many_of_peer")),
            (
                "mllp_connections_ended_total",
                "reason",
                ("peer", "idle", "slow_message", "slow_reader", "lost", "stopping"),
            ),
            ("mllp_handshakes_failed_total", "reason", ("certificate", "timeout", "other")),
            ("tls_files_total", "result", ("taken", "not_taken")),
            ("tls_files_not_taken", "side", ("listener",)),
        ):
            assert [counted(name, "limits-zero", **{label: value}) for value in values] == [0] * len(values)
        assert counted("mllp_connections", "limits-zero") == 0
        assert counted("mllp_throttled_total", "limits-zero") == 0


@pytest.mark.parametrize(
    "options",
    [
        {"allow": ["10.0.0.300"]},
        {"allow": ["10.0.0.5/24"]},
        {"tls_key_file": "k.pem"},
        {"max_messages_per_s": 0},
        {"host": "10.0.0.5"},
        {"port": 2575},
        {"tls": True},
        {"tls_ca_file": "ca.pem"},
        {"host": "10.0.0.5", "port": 2575, "tls_ca_file": "ca.pem"},
        {"host": "10.0.0.5", "port": 2575, "tls": True, "tls_client_key_file": "k.pem"},
        {"host": "10.0.0.5", "port": 2575, "listen_port": None, "tls_cert_file": "c.pem"},
    ],
)
def test_settings_are_refused_when_they_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="hl7v2 connector"):
        create(
            HospitalContext(id="x", zone=ZoneInfo("UTC")),
            "his",
            Options(protocol="hl7v2", profile="hl7v2", **options),  # type: ignore[arg-type]
        )
