"""HTTP/1.1 as it is on the wire (RFC 9110, RFC 9112), where the answers do not pass through aiohttp's own response."""

from __future__ import annotations

import email.utils
import gzip
import io
import time

import pytest

from monitoring.logs import configure_logging
from tests.booking.api.portal import BOOKINGS, SNAPSHOT, SNAPSHOT_BODY, SNAPSHOT_ETAG, Portal
from tests.booking.api.raw import call_raw, head

LIST = f"{BOOKINGS}?from=2026-01-05"
BODY = b'{"slot_id":"s1"}'
JSON = ("Content-Type: application/json", "Idempotency-Key: k")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS to a plain port\r\n\r\n", "plain HTTP, and TLS came"),
        (b"GARBAGE\r\n\r\n", "HTTP method"),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", "method in capital letters"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", "request line"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "CR LF"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\n\r\n", "end with CR LF"),
        (b"GET foo HTTP/1.1\r\nHost: x\r\n\r\n", "target"),
        (b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n", "target"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"GET / HTTP/1.1\r\n\r\n", "Host is missing"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "Host is there twice"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n", "may be there once"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n", "name"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad: \x01\r\n\r\n", "control character"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", "second line"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length is there twice"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "not a number"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both there"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "not chunked"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", "more headers than"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "too long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9_000 + b"\r\n\r\n", "too long"),
    ],
)  # fmt: skip
async def test_request_is_answered_with_what_was_wrong_and_not_repeated_when_it_is_not_http(
    portal: Portal, sent: bytes, told: str
) -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    async with call_raw(portal) as caller:
        await caller.send(sent)
        answer = await caller.read()
        assert (answer.status, answer.code) == (400, "malformed_http")
        assert told in answer.detail
        assert answer.fields["content-type"] == "application/problem+json"
        assert answer.fields["connection"] == "close"
        assert await caller.ended() == b""
    assert log.getvalue() == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n310101198512120040\r\n\r\n",
        b"GET //310101198512120040\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[310101198512120040 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"310101198512120040 / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"310101198512120040" * 500 + b"\r\n\r\n",
    ],
)
async def test_nothing_of_a_request_that_is_not_http_is_told_back_when_it_holds_a_number(
    portal: Portal, sent: bytes
) -> None:
    async with call_raw(portal) as caller:
        await caller.send(sent)
        answer = await caller.read()
        assert answer.code == "malformed_http"
        assert b"310101" not in answer.body


async def test_request_is_refused_once_when_a_chunk_is_broken(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        broken = b"2\r\n{}!!!!\r\nnonsense\r\n"
        await caller.send(head("POST", BOOKINGS, *JSON, "Transfer-Encoding: chunked") + broken)
        answer = await caller.read()
        assert (answer.status, answer.code) == (400, "malformed_http")
        assert "chunks of the body" in answer.detail
        assert await caller.ended() == b""


async def test_request_is_refused_once_when_its_body_is_not_packed_as_said(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        fields = ("Content-Encoding: gzip", "Content-Length: 20", "Expect: 100-continue")
        await caller.send(head("POST", BOOKINGS, *JSON, *fields))
        await caller.reader.readuntil(b"\r\n\r\n")
        await caller.send(b"this is not gzip ...")
        answer = await caller.read()
        assert (answer.status, answer.code) == (400, "malformed_json")
        assert await caller.ended() == b""


async def test_answers_come_in_order_when_requests_are_sent_at_once(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        ids = [f"request-{n}" for n in range(40)]
        await caller.send(b"".join(head("GET", LIST, f"X-Request-Id: {name}") for name in ids))
        assert [(await caller.read()).fields["x-request-id"] for _ in ids] == ids


async def test_body_may_come_later_when_it_is_asked_for(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("POST", BOOKINGS, *JSON, f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(BODY)
        assert (await caller.read()).status == 201


async def test_body_is_not_asked_for_when_the_request_is_refused(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("POST", BOOKINGS, JSON[0], f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        answer = await caller.read()
        assert (answer.status, answer.code) == (400, "idempotency_key_missing")


async def test_connection_stays_or_ends_as_the_version_and_the_caller_say(portal: Portal) -> None:
    for version, fields, said, stays in (
        ("1.1", (), None, True),
        ("1.1", ("Connection: close",), "close", False),
        ("1.0", (), "close", False),
        ("1.0", ("Connection: keep-alive",), "keep-alive", True),
    ):
        async with call_raw(portal) as caller:
            await caller.send(head("GET", LIST, *fields, version=version))
            answer = await caller.read()
            assert (answer.status, answer.fields.get("connection")) == (200, said)
            if stays:
                await caller.send(head("GET", LIST, version=version))
                assert (await caller.read()).status == 200
            else:
                assert await caller.ended() == b""


async def test_date_is_now_when_answered(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("GET", LIST))
        stamp = email.utils.parsedate_to_datetime((await caller.read()).fields["date"])
    assert abs(stamp.timestamp() - time.time()) < 60


async def test_head_has_the_length_and_no_body_when_asked(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("GET", LIST))
        whole = await caller.read()
        await caller.send(head("HEAD", LIST))
        answer = await caller.read(head_only=True)
        assert (answer.status, answer.fields["content-length"]) == (200, str(len(whole.body)))
        await caller.send(head("GET", LIST))  # the next answer begins where a body would have been
        assert (await caller.read()).status == 200


@pytest.mark.parametrize(
    "target", [f"http://other.example{LIST}", "/v1/%68ospitals/hl7%2Ddemo/bookings?from=2026-01-05", f"{LIST}#part"]
)
async def test_target_is_understood_when_written_in_another_form(portal: Portal, target: str) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("GET", target))
        assert (await caller.read()).status == 200


@pytest.mark.parametrize("target", ["//", "/v1//hl7-demo/bookings", f"{BOOKINGS}/", "/v1/hospitals/%00/x", "*"])
async def test_target_leads_nowhere_when_it_is_not_one_of_ours(portal: Portal, target: str) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("OPTIONS" if target == "*" else "GET", target))
        answer = await caller.read()
        assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("target", [b"/v1/hospitals/\xff\xfe/bookings", b"/v1/hospitals/%ff/bookings?from=\xff"])
async def test_target_is_a_callers_error_when_it_is_no_text(portal: Portal, target: bytes) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("GET", "/x").replace(b"/x", target, 1))
        assert (await caller.read()).status in (400, 404)


async def test_large_answer_arrives_whole_when_the_caller_reads_slowly(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("GET", SNAPSHOT) + head("GET", LIST))
        answer = await caller.read()
        assert answer.body == SNAPSHOT_BODY
        assert (await caller.read()).status == 200


async def test_form_is_chosen_when_negotiated(portal: Portal) -> None:
    async with call_raw(portal) as caller:
        await caller.send(head("GET", SNAPSHOT, "Accept-Encoding: gzip"))
        packed = await caller.read()
        assert packed.fields["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == SNAPSHOT_BODY
        await caller.send(head("GET", SNAPSHOT, f"If-None-Match: {SNAPSHOT_ETAG}"))
        unchanged = await caller.read()
        assert (unchanged.status, unchanged.fields["etag"], unchanged.body) == (304, SNAPSHOT_ETAG, b"")
        assert "content-length" not in unchanged.fields  # RFC 9110, section 15.4.5: it would be the packed form's
        await caller.send(head("GET", LIST))
        assert (await caller.read()).status == 200
