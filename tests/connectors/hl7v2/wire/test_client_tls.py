"""TLS to the HIS: whom we believe, and whom the HIS does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import structlog

from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create
from connectors.tls import BadTLSFiles
from loadtest.ports import free_port

from .authority import Authority, Pair
from .his import DONE, NOT_SENT, Act, Hear, HisRow, answer, check, play
from .listening import until
from .rows import Close

GROUP = "TLS"
GOOD = (Hear(), answer())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def listening(pair: Pair, wants: Authority | None = None) -> ssl.SSLContext:
    """How the HIS listens. `wants`: who must have signed our certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert_file, pair.key_file)
    if wants is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(wants.ca_file)
    return context


def ours(authority: Authority, pair: Pair | None = None, **more: object) -> dict[str, object]:
    """Options: whose signatures we believe, and what we show."""
    shown = (
        {} if pair is None else {"tls_client_cert_file": str(pair.cert_file), "tls_client_key_file": str(pair.key_file)}
    )
    return {"tls": True, "tls_ca_file": str(authority.ca_file), **shown, **more}


def row(
    name: str, *outcomes: str, heard: int, script: tuple[tuple[Act, ...], ...] = (GOOD,), pause_s: float = 0.0
) -> HisRow:
    return HisRow(name, GROUP, script, outcomes, heard=heard, pauses_s=pause_s)


async def test_request_is_answered_when_both_sides_trust(authority: Authority, tmp_path: Path) -> None:
    case = row("TLS", DONE, DONE, heard=2, script=((*GOOD, *GOOD),))
    check(case, await play(case, tmp_path, his_tls=listening(authority.sign("his")), options=ours(authority)))


async def test_request_is_answered_when_the_his_wants_our_certificate(authority: Authority, tmp_path: Path) -> None:
    case = row("mutual TLS", DONE, heard=1)
    options = ours(authority, authority.sign("hisbridge"))
    check(case, await play(case, tmp_path, his_tls=listening(authority.sign("his"), authority), options=options))


async def test_connection_is_made_anew_when_the_his_closed_it_under_tls(authority: Authority, tmp_path: Path) -> None:
    case = row("closed while idle", DONE, DONE, heard=2, script=((*GOOD, Close()), GOOD), pause_s=0.3)
    check(case, await play(case, tmp_path, his_tls=listening(authority.sign("his")), options=ours(authority)))


@pytest.mark.parametrize("trouble", ["signed by a stranger", "made out to another name", "plain"])
async def test_nothing_is_sent_when_the_his_is_not_to_be_believed(
    authority: Authority, tmp_path: Path, trouble: str
) -> None:
    (tmp_path / "strange").mkdir()
    his: ssl.SSLContext | None = listening(authority.sign("his"))
    options = ours(authority)
    match trouble:
        case "signed by a stranger":
            his = listening(Authority(tmp_path / "strange", "stranger").sign("his"))
        case "made out to another name":
            options["tls_server_name"] = "his.example"
        case "plain":
            his = None
    case = HisRow(trouble, GROUP, (), (NOT_SENT,), heard=0, options={"connect_timeout_s": 0.4}, believed=False)
    check(case, await play(case, tmp_path, his_tls=his, options=options))


async def test_request_is_in_doubt_or_not_sent_when_the_his_does_not_believe_us(
    authority: Authority, tmp_path: Path
) -> None:
    """TLS 1.3 lets the HIS refuse a client after its handshake, when the message may have left: either is told."""
    case = HisRow("no certificate of ours", GROUP, (), (DONE,), believed=False)
    seen = await play(case, tmp_path, his_tls=listening(authority.sign("his"), authority), options=ours(authority))
    [outcome] = seen.outcomes
    assert outcome == NOT_SENT or outcome.startswith("unknown: connection")
    assert seen.heard == []


async def test_files_that_are_no_good_are_told_when_the_connector_is_made(authority: Authority, tmp_path: Path) -> None:
    case = row("a key that is not there", DONE, heard=1)
    options = ours(authority, Pair(tmp_path / "none.pem", tmp_path / "none.key"))
    with pytest.raises(BadTLSFiles, match=r"none\.pem"):
        await play(case, tmp_path, options=options)


async def test_next_connection_shows_the_new_certificate_when_the_files_change(
    authority: Authority, tmp_path: Path
) -> None:
    """The first certificate is of an authority that the HIS does not know."""
    (tmp_path / "old").mkdir()
    old = Authority(tmp_path / "old").sign("hisbridge")
    case = HisRow("renewed", GROUP, (GOOD,), (DONE,), heard=1)
    his = listening(authority.sign("his"), authority)
    options = ours(authority, old)

    def renew() -> None:
        new = authority.sign("hisbridge")
        old.cert_file.write_bytes(new.cert_file.read_bytes())
        old.key_file.write_bytes(new.key_file.read_bytes())

    check(case, await play(case, tmp_path, his_tls=his, options=options, before_calls=renew))


async def test_next_connection_is_believed_when_the_file_of_authorities_changes(
    authority: Authority, tmp_path: Path
) -> None:
    """The HIS's certificate is of an authority that the file does not have at first."""
    (tmp_path / "old").mkdir()
    old = Authority(tmp_path / "old")
    case = HisRow("another authority", GROUP, (GOOD,), (DONE,), heard=1)

    def renew() -> None:
        old.ca_file.write_bytes(authority.ca_file.read_bytes())

    check(
        case,
        await play(case, tmp_path, his_tls=listening(authority.sign("his")), options=ours(old), before_calls=renew),
    )


async def test_new_reason_is_logged_when_the_his_cannot_be_reached_for_another_one(
    authority: Authority, tmp_path: Path
) -> None:
    """Whoever has mended the network must be told that the certificate is no good."""
    (tmp_path / "strange").mkdir()
    stranger = listening(Authority(tmp_path / "strange", "stranger").sign("his"))
    port = free_port()
    settings = {"protocol": "hl7v2", "profile": "hl7v2", "host": "127.0.0.1", "port": port, **ours(authority)}
    connector = create(HospitalContext(id="tls-reasons", zone=ZoneInfo("UTC")), "his", Options(**settings))  # type: ignore[arg-type]

    def reasons(lines: Sequence[Mapping[str, object]]) -> list[object]:
        return [line["reason"] for line in lines if line["event"] == "hl7_his_not_reached"]

    with structlog.testing.capture_logs() as lines:
        await connector.start()
        await until(lambda: len(reasons(lines)) == 1)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port, ssl=stranger)
        await until(lambda: len(reasons(lines)) == 2)
        await connector.close()
        server.close()
        await server.wait_closed()
    first, second = reasons(lines)
    assert first == "no connection to the HIS: ConnectionRefusedError"
    assert str(second).startswith("no connection to the HIS: its certificate is refused")
