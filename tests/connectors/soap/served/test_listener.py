"""The listener against peers that are slow, large, many, strangers, or no HTTP clients at all."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from connectors.port import CannotServe
from tests.acceptance.installation import until
from tests.connectors.hl7v2.wire.authority import Authority
from tests.loop_clock import LoopClock

from .his import Served, call, counted, made, served

STOP = "<ORDER_ID>20260105000000000001</ORDER_ID>"
BODY = call("5001", STOP)
HEAD = b"POST /his HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\n"


def port_of(us: Served) -> int:
    return us.connector.listen_port


async def spoken(port: int, *pieces: bytes, within_s: float = 10.0) -> bytes:
    """What is answered to these bytes until the peer closes; the connection stays open on our side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        async with asyncio.timeout(within_s):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


async def settled(name: str, value: float, **labels: str) -> None:
    async def look() -> float:
        return counted(name, **labels)

    await until(look, lambda seen: seen == value, what=name)


async def test_request_is_refused_unread_when_its_length_says_that_it_is_too_large(tmp_path: Path) -> None:
    async with served(tmp_path, max_message_bytes=10_000) as us:
        before = counted("soap_calls_refused_total", reason="too_large")
        said = await spoken(port_of(us), HEAD + b"Content-Length: 10001\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b"faultcode" in said
        assert counted("soap_calls_refused_total", reason="too_large") == before + 1
        assert (await us.post(BODY)).code == "0"


async def test_request_is_ended_while_it_is_read_when_it_grows_too_large(tmp_path: Path) -> None:
    async with served(tmp_path, max_message_bytes=10_000) as us:
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        said = await spoken(port_of(us), HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk)
        assert said.startswith(b"HTTP/1.1 413 ")
        assert us.desk.asked == 0


async def test_request_in_chunks_is_taken_when_it_is_good(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        chunks = [BODY[at : at + 100] for at in range(0, len(BODY), 100)]
        written = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"
        head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert b"200 OK" in await spoken(port_of(us), head, written)
        assert len(us.desk.taken) == 1


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ((HEAD + b"Content-Length: 100\r\n\r\n<x>",), b"HTTP/1.1 408 ", "slow"),
        ((HEAD + b"Content-Length: 100\r\n\r\n", b"<", b"x", b">"), b"HTTP/1.1 408 ", "slow"),
        ((b"POST /his HT",), b"", ""),
        ((b"",), b"", ""),
        ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",), b"HTTP/1.0 400 ", "not_a_call"),
        ((b"\x0bMSH|^~\\&|HIS\r\x1c\r",), b"HTTP/1.0 400 ", "not_a_call"),
    ],
    ids=["slow body", "dripping body", "slow head", "nothing", "TLS", "MLLP"],
)
async def test_connection_ends_and_others_are_served_when_a_peer_is_slow_or_strange(
    pieces: tuple[bytes, ...], status: bytes, reason: str, tmp_path: Path
) -> None:
    clock = LoopClock()
    async with served(tmp_path, request_timeout_s=60) as us:
        before = counted("soap_calls_refused_total", reason=reason)
        slow = asyncio.create_task(spoken(port_of(us), *pieces, within_s=600))
        await asyncio.sleep(0.1)
        assert (await us.post(BODY)).code == "0"
        clock.turn(60)
        said = await slow
        assert said[: len(status)] == status
        assert status or not said
        assert b"HIS" not in said
        assert counted("soap_calls_refused_total", reason=reason) == before + bool(reason)
        await us.session.close()
        await settled("soap_connections", 0)


async def test_connection_is_kept_and_then_closed_when_it_idles(tmp_path: Path) -> None:
    clock = LoopClock()
    async with served(tmp_path, idle_timeout_s=60, request_timeout_s=600) as us:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(us))
        for _ in range(3):
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            clock.turn(40)
        rest = asyncio.create_task(reader.read())
        while not rest.done():  # it idles from a moment after its answer
            clock.turn(60)
            await asyncio.sleep(0.01)
        assert rest.result() == b""
        writer.close()


async def test_dotnet_client_is_told_to_go_on_when_it_asks_before_it_sends(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(us))
        writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        large = HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
        assert (await spoken(port_of(us), large)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"allow": ["10.0.0.0/8"]}, "not_allowed"),
        ({"max_connections_from_his": 1}, "too_many"),
        ({"max_connections_per_peer": 1}, "too_many_of_peer"),
    ],
)
async def test_connection_is_closed_at_once_when_it_may_not_come_in(
    options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    async with served(tmp_path, **options) as us:
        before = counted("soap_connections_refused_total", reason=reason)
        _, first = await asyncio.open_connection("127.0.0.1", port_of(us))
        await asyncio.sleep(0.05)
        assert await spoken(port_of(us), HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY) == b""
        assert us.desk.asked == 0
        assert counted("soap_connections_refused_total", reason=reason) >= before + 1
        first.transport.abort()


async def test_address_that_is_allowed_comes_in_when_others_may_not(tmp_path: Path) -> None:
    async with served(tmp_path, allow=["127.0.0.1"]) as us:
        assert (await us.post(BODY)).code == "0"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/his", 405), ("PUT", "/his", 405), ("GET", "/", 404), ("POST", "/other", 404), ("GET", "/his?wsdl", 200)],
)
async def test_only_the_service_and_its_wsdl_are_there(method: str, path: str, status: int, tmp_path: Path) -> None:
    async with served(tmp_path) as us, us.session.request(method, f"http://127.0.0.1:{port_of(us)}{path}") as response:
        assert response.status == status
        assert response.headers["Server"] == "hisbridge"
        assert us.desk.asked == 0


async def test_many_calls_at_once_are_all_answered(tmp_path: Path) -> None:
    async with served(tmp_path, max_connections_from_his=100) as us:
        calls = [call("5001", f"<ORDER_ID>202601050000000{n:05}</ORDER_ID>") for n in range(100)]
        said = await asyncio.gather(*(us.post(one) for one in calls))
        assert {one.code for one in said} == {"0"}
        assert len(us.desk.taken) == 100


async def test_large_call_is_taken_when_it_is_read_in_a_thread(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        assert (await us.post(call("5001", STOP + f"<REASON>{'停' * 100_000}</REASON>"))).code == "0"
        [stop] = us.desk.events
        assert len(getattr(stop, "reason", "")) == 100_000


async def test_call_in_hand_is_answered_when_the_connector_closes(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        began = asyncio.Event()
        handle = us.desk.handle

        async def slow(inbound: object) -> object:
            began.set()
            await asyncio.sleep(0.3)
            return await handle(inbound)  # type: ignore[arg-type]

        us.connector._serving._receiver.handler = slow  # type: ignore[union-attr]
        said = asyncio.create_task(us.post(BODY))
        await began.wait()
        await us.connector.close()
        assert (await said).code == "0"
        with pytest.raises(aiohttp.ClientError):
            await us.post(BODY)


async def test_only_who_shows_a_certificate_is_heard_when_it_must_be_mutual(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    pair = ours.sign("listener")
    files = {
        "tls_cert_file": str(pair.cert_file),
        "tls_key_file": str(pair.key_file),
        "tls_client_ca_file": str(theirs.ca_file),
    }
    async with served(tmp_path, **files) as us:
        url = us.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=str(ours.ca_file))
        before = counted("soap_handshakes_failed_total", reason="certificate")
        with pytest.raises(aiohttp.ClientError):
            async with us.session.post(url, data=BODY, ssl=context) as response:
                await response.read()
        assert us.desk.asked == 0
        await settled("soap_handshakes_failed_total", before + 1, reason="certificate")
        his = theirs.sign("his")
        context.load_cert_chain(his.cert_file, his.key_file)
        async with us.session.post(url, data=BODY, ssl=context) as response:
            assert response.status == 200
        assert len(us.desk.taken) == 1
        await settled("soap_connections", 1)  # it is kept open
        async with us.session.get(f"{url}?wsdl", ssl=context) as response:
            assert f'location="{url}"' in await response.text()
        assert (await spoken(port_of(us), HEAD + b"\r\n"))[:4] != b"HTTP"


async def test_renewed_certificate_serves_the_next_connection(tmp_path: Path) -> None:
    pair = Authority(tmp_path, "first").sign("listener")
    files = {"tls_cert_file": str(pair.cert_file), "tls_key_file": str(pair.key_file)}
    async with served(tmp_path, **files) as us:
        for authority in ("first", "second"):
            if authority == "second":
                Authority(tmp_path, "second").sign("listener")
            context = ssl.create_default_context(cafile=str(tmp_path / f"{authority}.pem"))
            url = us.url.replace("http:", "https:")
            async with us.session.post(url, data=BODY, ssl=context, headers={"Connection": "close"}) as response:
                assert response.status == 200


async def test_start_says_what_is_wrong_when_it_cannot_listen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tls_cert_file"):
        made(tmp_path, tls_client_ca_file="ca.pem")
    with pytest.raises(ValueError, match=r"allow: .*his"):
        made(tmp_path, allow=["his"])
    connector = made(tmp_path, tls_cert_file=str(tmp_path / "absent.pem"))
    await connector.start()
    with pytest.raises(CannotServe, match=r"absent\.pem"):
        await connector.serve(lambda inbound: None)  # type: ignore[arg-type, return-value]
    await connector.close()
    async with served(tmp_path) as us:
        other = made(tmp_path, listen_port=port_of(us))
        await other.start()
        with pytest.raises(OSError, match="in use"):
            await other.serve(us.desk.handle)
        await other.close()
