"""The listener behind TLS: who gets in, what is counted of the others, and certificates that change."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import structlog

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.hl7v2.wire import READ_BYTES, Wire
from connectors.port import Inbound, Stored
from connectors.tls import BadTLSFiles
from monitoring.metrics import REGISTRY

from .authority import Authority, Pair
from .rows import Answer, Close, Pause, Row, accepted, adt, framed, sent
from .runner import Peer, check, play

M1 = framed(adt("M1"))
LONG = framed(adt("M1") + "NTE|1||" + "x" * 300_000 + "\r")
GONE = {"inbound_messages/unreadable": 1}
ENDED = dt.datetime(2020, 2, 29, tzinfo=dt.UTC)


class Site:
    """Certificates of a hospital: the listener's, and those that peers show."""

    def __init__(self, folder: Path) -> None:
        (folder / "ours").mkdir()
        (folder / "theirs").mkdir()
        (folder / "others").mkdir()
        self.ours = Authority(folder / "ours")
        self.theirs = Authority(folder / "theirs")
        self.others = Authority(folder / "others")
        self.listener = self.ours.sign("listener")

    def options(self, *, mutual: bool) -> dict[str, str]:
        given = {"tls_cert_file": str(self.listener.cert_file), "tls_key_file": str(self.listener.key_file)}
        return {**given, "tls_client_ca_file": str(self.theirs.ca_file)} if mutual else given

    def peer(self, kind: str) -> ssl.SSLContext | None:
        """How a peer connects: `plain` without TLS; the others differ in what they show and whom they trust."""
        if kind == "plain":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations((self.others if kind == "doubting" else self.ours).ca_file)
        shown: dict[str, Callable[[], Pair]] = {
            "known": lambda: self.theirs.sign("his"),
            "stranger": lambda: self.others.sign("stranger"),
            "expired": lambda: self.theirs.sign("expired", ends_at=ENDED),
        }
        if kind in shown:
            pair = shown[kind]()
            context.load_cert_chain(pair.cert_file, pair.key_file)
        if kind == "old":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
        if kind == "of 1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("tls"))


def row(name: str, *steps: bytes | Pause | Close, counted: str = "", **rest: object) -> Row:
    """A row of a peer that is taken, or that is not and counted so."""
    if not counted:
        return Row(name, "TLS", steps, accepted("M1"), handled=("M1",), **rest)  # type: ignore[arg-type]
    return Row(name, "TLS", steps, lives=False, counted={counted: 1}, **rest)  # type: ignore[arg-type]


CERTIFICATE, OTHER = "mllp_handshakes_failed/certificate", "mllp_handshakes_failed/other"

ONE_WAY = (
    ("trusting", row("a message", M1)),
    ("of 1.2", row("a message over TLS 1.2", M1)),
    ("known", row("a certificate that nobody asks for", M1)),
    ("trusting", row("a message in many records", *(M1[n : n + 10] for n in range(0, len(M1), 10)))),
    ("trusting", row("300 KB", LONG)),
    ("trusting", Row("two in one record", "TLS", (sent("M1", "M2"),), accepted("M1", "M2"), handled=("M1", "M2"))),
    (
        "trusting",
        Row(
            "a message too large",
            "TLS",
            (LONG + sent("M2"),),
            (Answer("AR", "M1", "207"), *accepted("M2")),
            handled=("M2",),
            counted={"inbound_messages/refused": 1},
            options={"max_message_bytes": 3000},
        ),
    ),
    ("trusting", Row("closed in a message", "TLS", (M1[:30], Pause(0.1), Close()), lives=False, counted=GONE)),
    ("plain", row("no TLS", M1, counted=OTHER)),
    ("doubting", row("our certificate is not known there", M1, counted=OTHER)),
    ("old", row("TLS 1.1 and nothing newer", counted=OTHER)),
    (
        "plain",
        row(
            "an address that is not allowed is spared the handshake",
            counted="mllp_connections_refused/not_allowed",
            options={"allow": ["127.0.0.1"]},
            source="127.0.0.2",
        ),
    ),
)
MUTUAL = (
    ("known", row("a certificate that is asked for", M1)),
    ("trusting", row("none", M1, counted=CERTIFICATE)),
    ("stranger", row("of another authority", M1, counted=CERTIFICATE)),
    ("expired", row("of the right authority, and over", M1, counted=CERTIFICATE)),
    ("plain", row("no TLS where a certificate is asked for", M1, counted=OTHER)),
)


@pytest.mark.parametrize(("kind", "row"), ONE_WAY, ids=str)
async def test_wire_row_comes_out_when_the_listener_has_a_certificate(site: Site, kind: str, row: Row) -> None:
    seen = await play(row, server_tls=site.options(mutual=False), tls=site.peer(kind), served_tls=site.peer("trusting"))
    check(row, seen)


@pytest.mark.parametrize(("kind", "row"), MUTUAL, ids=str)
async def test_wire_row_comes_out_when_the_peer_must_have_one(site: Site, kind: str, row: Row) -> None:
    seen = await play(row, server_tls=site.options(mutual=True), tls=site.peer(kind), served_tls=site.peer("known"))
    check(row, seen)


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
async def test_connection_is_closed_when_its_handshake_does_not_end(
    site: Site, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("connectors.hl7v2.server.HANDSHAKE_TIMEOUT_S", 0.3)
    silent = row("a handshake without an end", begun, counted="mllp_handshakes_failed/timeout")
    options = site.options(mutual=False)
    check(silent, await play(silent, server_tls=options, tls=None, served_tls=site.peer("trusting")))


async def test_handshake_counts_as_a_connection_while_it_lasts(site: Site) -> None:
    crowd = Row("one too many", "TLS", (), lives=False, counted={"mllp_connections_refused/too_many": 1})
    async with asyncio.timeout(20):
        connector = _connector(site, "tls-crowd", max_connections=1)
        await connector.serve(_take)
        _, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        peer = Peer(connector.listen_port, crowd, None)
        await peer.connect()
        assert await peer.ended()
        await peer.close()
        await connector.close()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_sender_is_held_up_when_nobody_reads_what_it_sends_over_tls(site: Site) -> None:
    """On either side: what is not read stays in the socket, beyond a few reads."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(site.listener.cert_file, site.listener.key_file)
    held: list[int] = []

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(400):  # 40 MB
            writer.write(b"x" * 100_000)
            try:
                async with asyncio.timeout(1.0):
                    await writer.drain()
            except TimeoutError:
                break
        held.append(wire._size)
        writer.transport.abort()

    server = await asyncio.start_server(pour, "127.0.0.1", 0, ssl=ours)
    loop, port = asyncio.get_running_loop(), server.sockets[0].getsockname()[1]
    wire = Wire(lambda opened: None, is_tls=True)
    await loop.create_connection(
        lambda: wire, "127.0.0.1", port, ssl=site.peer("trusting"), server_hostname="localhost"
    )
    async with asyncio.timeout(20):
        while not held:  # noqa: ASYNC110  # a list tells nobody
            await asyncio.sleep(0.02)
    assert READ_BYTES <= held[0] < 2_000_000
    await wire.aclose(1.0)
    server.close()
    await server.wait_closed()


# --- certificates that change ----------------------------------------------------------------------------------------------


async def _take(inbound: Inbound) -> Stored:
    return Stored()


def _connector(site: Site, hospital: str, **options: object) -> HL7v2Connector:
    settings = {"protocol": "hl7v2", "profile": "hl7v2", "listen_port": 0, **site.options(mutual=False), **options}
    return create(HospitalContext(id=hospital, zone=ZoneInfo("UTC")), "his", Options(**settings))  # type: ignore[arg-type]


@pytest.fixture
def own(tmp_path: Path) -> Site:
    """A site whose files may be changed."""
    return Site(tmp_path)


class Guest(Peer):
    """A peer that looks at the certificate."""

    def shown(self) -> bytes | None:
        found = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return bytes(found) if found else None


def renewals(hospital: str) -> list[float | None]:
    labels = {"hospital": hospital, "connector": "his"}
    return [
        REGISTRY.get_sample_value("hisbridge_tls_files_total", {**labels, "result": result})
        for result in ("taken", "not_taken")
    ]


async def test_next_connection_has_the_new_certificate_and_open_ones_go_on_when_it_is_renewed(own: Site) -> None:
    connector = _connector(own, "tls-renewed")
    await connector.serve(_take)
    guests = [Guest(connector.listen_port, Row("renewal", "TLS", ()), own.peer("trusting")) for _ in range(3)]
    before, broken, after = guests
    await before.connect()
    own.listener.key_file.write_text("half of a")
    await broken.connect()
    assert broken.shown() == before.shown()
    assert renewals("tls-renewed") == [0, 1]
    own.ours.sign("listener")
    await after.connect()
    assert after.shown() != before.shown()
    assert renewals("tls-renewed") == [1, 1]
    for guest in guests:
        assert await guest.probe()
        await guest.close()
    await connector.close()


async def test_next_peer_is_judged_by_the_new_authorities_and_open_ones_go_on_when_their_file_changes(
    own: Site,
) -> None:
    connector = _connector(own, "tls-authorities", **own.options(mutual=True))
    await connector.serve(_take)

    async def taken(peer: Peer) -> bool:
        """TLS 1.3 refuses a certificate after the handshake: the peer sees it at its first read."""
        try:
            await peer.connect()
            return await peer.probe()
        except OSError:
            return False

    known, stranger, late, new = (
        Peer(connector.listen_port, Row("authorities", "TLS", ()), own.peer(kind))
        for kind in ("known", "stranger", "known", "stranger")
    )
    assert [await taken(known), await taken(stranger)] == [True, False]
    own.theirs.ca_file.write_bytes(own.others.ca_file.read_bytes())
    assert [await taken(late), await taken(new)] == [False, True]
    assert renewals("tls-authorities") == [1, 0]
    assert await known.probe()
    for peer in (known, stranger, late, new):
        await peer.close()
    await connector.close()


def not_taken(hospital: str, side: str) -> float | None:
    labels = {"hospital": hospital, "connector": "his", "side": side}
    return REGISTRY.get_sample_value("hisbridge_tls_files_not_taken", labels)


async def becomes(hospital: str, side: str, value: float) -> None:
    async with asyncio.timeout(10):
        while not_taken(hospital, side) != value:  # noqa: ASYNC110  # a gauge tells nobody
            await asyncio.sleep(0.02)


async def test_files_that_are_no_good_are_told_until_they_are_mended_when_nobody_connects(
    own: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.tls.LOOK_AT_FILES_EVERY_S", 0.05)
    connector = _connector(own, "tls-watched")
    await connector.serve(_take)
    assert renewals("tls-watched") == [0, 0]
    assert not_taken("tls-watched", "listener") == 0
    own.listener.key_file.unlink()
    await becomes("tls-watched", "listener", 1)
    assert renewals("tls-watched") == [0, 1]
    own.ours.sign("listener")
    await becomes("tls-watched", "listener", 0)
    await connector.close()


async def test_files_of_our_own_connections_are_told_when_they_are_no_good_and_nothing_connects(
    own: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.tls.LOOK_AT_FILES_EVERY_S", 0.05)
    shown = own.ours.sign("client")
    theirs = {"tls_ca_file": str(own.theirs.ca_file), "tls_client_cert_file": str(shown.cert_file)}
    dialing = {"host": "127.0.0.1", "port": 1, "tls": True, **theirs, "tls_client_key_file": str(shown.key_file)}
    connector = _connector(own, "tls-client", listen_port=None, tls_cert_file=None, tls_key_file=None, **dialing)
    await connector.start()
    assert not_taken("tls-client", "client") == 0
    shown.cert_file.write_text("half of a")
    with structlog.testing.capture_logs() as lines:
        await becomes("tls-client", "client", 1)
    own.ours.sign("client")
    await becomes("tls-client", "client", 0)
    await connector.close()
    (line,) = [line for line in lines if line["event"] == "tls_files_not_taken"]
    assert (line["hospital"], line["connector"]) == ("tls-client", "his")


async def test_listener_does_not_begin_when_its_files_are_no_good(own: Site) -> None:
    own.listener.key_file.unlink()
    connector = _connector(own, "tls-none")
    with pytest.raises(BadTLSFiles, match=r"listener\.key"):
        await connector.serve(_take)
    assert connector.listen_port == 0
    await connector.close()
