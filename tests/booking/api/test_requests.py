"""What the framework does with good and bad requests, seen from a client on a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest
from yarl import URL

from booking.api.application import ApiOptions
from monitoring.metrics import REGISTRY
from tests.booking.api.portal import BOOKINGS, KEY, Portal, run_portal

GOOD = {"slot_id": "s1"}
ROUTE = "/v1/hospitals/{hospital_id}/bookings"


def errors_of(body: dict[str, Any]) -> list[str]:
    return [error["path"] for error in body.get("errors", [])]


async def test_booking_is_created_when_the_request_is_good(portal: Portal) -> None:
    status, body = await portal.post({"slot_id": "s1", "fee_fen": 700, "cards": [{"type": "health", "number": "1"}]})
    assert (status, body["id"], body["hospital_id"]) == (201, "b1", "hl7-demo")


@pytest.mark.parametrize(
    ("body", "status", "code", "paths"),
    [
        (b'{"slot_id": ', 400, "malformed_json", []),
        (b"", 400, "malformed_json", []),
        (b"\xef\xbb\xbf{}", 400, "malformed_json", []),
        (b'{"slot_id": "\xff\xfe"}', 400, "malformed_json", []),
        (b'{"slot_id": "s1"} x', 400, "malformed_json", []),
        (b'{"slot_id": NaN}', 400, "malformed_json", []),
        (b"[]", 422, "invalid_field", ["$"]),
        (b"{}", 422, "invalid_field", ["$.slot_id"]),
        (b'{"slot_id": 7}', 422, "invalid_field", ["$.slot_id"]),
        (b'{"slot_id": "s1", "fee_fen": "700"}', 422, "invalid_field", ["$.fee_fen"]),
        (b'{"slot_id": "s1", "fee_fen": -1}', 422, "invalid_field", ["$.fee_fen"]),
        (b'{"slot_id": "s1", "fee_fen": 7.5}', 422, "invalid_field", ["$.fee_fen"]),
        (b'{"slot_id": "s1", "slot": 1}', 422, "unknown_field", ["$.slot"]),
        (
            b'{"slot_id": "s1", "cards": [{"type": "health", "number": "1", "pin": "9"}]}',
            422,
            "unknown_field",
            ["$.cards[0].pin"],
        ),
        (b'{"slot_id": "s1", "cards": [{"type": "health"}]}', 422, "invalid_field", ["$.cards[0].number"]),
        (b"[" * 900, 422, "invalid_field", ["$"]),
    ],
)
async def test_request_is_refused_with_its_place_when_malformed(
    portal: Portal, body: bytes, status: int, code: str, paths: list[str]
) -> None:
    got, problem = await portal.post(body)
    assert (got, problem["code"], errors_of(problem)) == (status, code, paths)


async def test_value_is_not_repeated_when_a_field_is_wrong(portal: Portal) -> None:
    body = {"slot_id": "s1", "cards": [{"type": "张三丰", "number": "1"}]}
    status, problem = await portal.post(body)
    assert (status, errors_of(problem)) == (422, ["$.cards[0].type"])
    assert "张三丰" not in json.dumps(problem, ensure_ascii=False)
    status, problem = await portal.post({"slot_id": "s1", "110101199003071233": 1})
    assert "110101199003071233" not in json.dumps(problem)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/json; charset=gbk", ""])
async def test_request_is_refused_when_the_content_type_is_wrong(portal: Portal, content_type: str) -> None:
    status, problem = await portal.post(GOOD, **{"Content-Type": content_type})
    assert (status, problem["code"]) == (415, "unsupported_media_type")


async def test_request_is_refused_when_too_large_by_its_length(portal: Portal) -> None:
    status, problem = await portal.post({"slot_id": "s" * 2_000})
    assert (status, problem["code"], problem["extra"]) == (413, "too_large", {"max_bytes": 1_000})


async def test_request_is_refused_when_too_large_in_chunks(portal: Portal) -> None:
    async def drops() -> Any:
        for _ in range(20):
            yield b" " * 500

    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    async with portal.session.post(BOOKINGS, data=drops(), headers=headers) as response:
        assert response.status == 413
        assert (await response.json(content_type=None))["code"] == "too_large"


async def test_request_is_refused_when_a_small_compressed_body_unfolds_too_large(portal: Portal) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k", "Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 100_000)
    assert len(bomb) < 1_000
    async with portal.session.post(BOOKINGS, data=bomb, headers=headers) as response:
        assert response.status == 413


async def test_request_times_out_when_the_body_never_comes() -> None:
    async with run_portal(ApiOptions(body_timeout_s=0.05)) as portal:
        assert portal.session._base_url is not None
        host, port = portal.session._base_url.host, portal.session._base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST {BOOKINGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nIdempotency-Key: k\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 30\r\n\r\n{{".encode())
        line = await reader.readline()
        assert line.startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("query", "status", "paths"),
    [
        ("from=2026-01-05&to=2026-01-12&state=held&state=booked", 200, []),
        ("from=2026-01-05&limit=5", 200, []),
        ("", 422, ["?from"]),
        ("from=yesterday", 422, ["?from"]),
        ("from=2026-01-05&limit=x", 422, ["?limit"]),
        ("from=2026-01-05&limit=101", 422, ["?limit"]),
        ("from=2026-01-05&form=1", 422, ["?form"]),
        ("from=2026-01-05&from=2026-01-06", 422, ["?from"]),
    ],
)
async def test_query_is_decoded_or_refused_when_listing(
    portal: Portal, query: str, status: int, paths: list[str]
) -> None:
    got, body = await portal.get(f"{BOOKINGS}?{query}")
    assert (got, errors_of(body)) == (status, paths)
    if "to=" in query and status == 200:
        assert (body["days"], body["states"]) == (7, ["held", "booked"])


async def test_query_is_split_before_it_is_decoded_when_a_value_holds_separators(portal: Portal) -> None:
    url = URL(f"{BOOKINGS}?from=2026-01-05&state=a%26b%3Dc&state=d+e&state=%E5%BC%A0", encoded=True)
    async with portal.session.get(url) as response:
        assert (await response.json())["states"] == ["a&b=c", "d e", "张"]


async def test_path_is_converted_or_refused_when_typed(portal: Portal) -> None:
    headers = {"Content-Type": "text/csv"}
    async with portal.session.put(
        "/v1/hospitals/hl7-demo/merchant-bills/2026-01-05", data=b"a,b", headers=headers
    ) as good:
        assert (await good.json())["id"] == "Monday 3"
    async with portal.session.put("/v1/hospitals/hl7-demo/merchant-bills/someday", data=b"a,b", headers=headers) as bad:
        assert (bad.status, errors_of(await bad.json(content_type=None))) == (422, ["{date}"])
    large = b"x" * 2_001
    async with portal.session.put(
        "/v1/hospitals/hl7-demo/merchant-bills/2026-01-05", data=large, headers=headers
    ) as late:
        assert late.status == 413


async def test_idempotency_key_is_demanded_when_a_post_creates(portal: Portal) -> None:
    data, json_type = b'{"slot_id": "s1"}', {"Content-Type": "application/json"}
    async with portal.session.post(BOOKINGS, data=data, headers=json_type) as response:
        assert (response.status, (await response.json(content_type=None))["code"]) == (400, "idempotency_key_missing")
    for bad in ("with space", "x" * 201, "café"):
        status, problem = await portal.post(GOOD, **{"Idempotency-Key": bad})
        assert (status, problem["code"]) == (400, "idempotency_key_invalid")


async def test_fingerprint_is_the_same_when_only_whitespace_and_order_differ(portal: Portal) -> None:
    _, first = await portal.post(b'{"slot_id":"s1","fee_fen":1}')
    _, same = await portal.post(b'{ "fee_fen": 1, "slot_id": "s1" }')
    _, other = await portal.post(b'{"slot_id":"s1","fee_fen":2}')
    assert first["fingerprint"] == same["fingerprint"] != other["fingerprint"]


async def test_answer_is_empty_when_the_handler_has_nothing_to_say(portal: Portal) -> None:
    async with portal.session.delete("/v1/hospitals/hl7-demo/x") as response:
        assert (response.status, await response.read()) == (204, b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", BOOKINGS, 405, "method_not_allowed"),
        ("OPTIONS", BOOKINGS, 405, "method_not_allowed"),
        ("GET", "/v1/hospitals/nobody/bookings", 404, "hospital_unknown"),
        ("GET", "/v1/hospitals/fhir-demo/bookings", 403, "forbidden_hospital"),
    ],
)
async def test_address_is_refused_as_a_problem_when_wrong(
    portal: Portal, method: str, path: str, status: int, code: str
) -> None:
    async with portal.session.request(method, path) as response:
        assert response.content_type == "application/problem+json"
        assert (response.status, (await response.json(content_type=None))["code"]) == (status, code)
        if status == 405:
            assert response.headers["Allow"] == "GET,HEAD,POST".replace(",", ", ")


async def test_head_answers_like_get_without_a_body_when_asked(portal: Portal) -> None:
    async with portal.session.head(f"{BOOKINGS}?from=2026-01-05") as response:
        assert (response.status, response.headers["ETag"], await response.read()) == (200, '"1"', b"")


async def test_sli_class_is_counted_when_requests_end_differently(portal: Portal) -> None:
    def count(status: str, sli: str) -> float:
        labels = {"route": ROUTE, "method": "POST", "status": status, "class": sli}
        return REGISTRY.get_sample_value("hisbridge_http_requests_total", labels) or 0.0

    kinds = [("201", "ok", "s1"), ("409", "rejected", "sold-out"), ("500", "server_error", "bug")]
    before = [count(status, sli) for status, sli, _ in kinds]
    for _, _, slot in kinds:
        await portal.post({"slot_id": slot})
    assert [count(status, sli) for status, sli, _ in kinds] == [n + 1 for n in before]


async def test_duration_is_measured_from_start_to_end_when_a_handler_waits(portal: Portal) -> None:
    def total_s() -> float:
        labels = {"route": ROUTE, "method": "POST"}
        return REGISTRY.get_sample_value("hisbridge_http_request_seconds_sum", labels) or 0.0

    before = total_s()
    waiting = asyncio.create_task(portal.post({"slot_id": "slow"}))
    await portal.held.wait()
    await asyncio.sleep(0.1)
    portal.release.set()
    await waiting
    assert total_s() - before >= 0.1


async def test_request_is_shed_when_too_many_are_in_flight() -> None:
    async with run_portal(ApiOptions(max_in_flight=1)) as portal:
        first = asyncio.create_task(portal.post({"slot_id": "slow"}))
        await portal.held.wait()
        async with portal.session.get(f"{BOOKINGS}?from=2026-01-05") as response:
            problem = await response.json(content_type=None)
            assert (response.status, problem["code"], problem["retryable"]) == (503, "overloaded", True)
            assert 1 <= int(response.headers["Retry-After"]) <= 3
        portal.release.set()
        assert (await first)[0] == 201
        assert (await portal.post(GOOD))[0] == 201


async def test_client_is_slowed_when_above_its_rate() -> None:
    async with run_portal(ApiOptions(client_rate_per_s=0.001, client_burst=2)) as portal:
        statuses = [(await portal.post(GOOD))[0] for _ in range(3)]
    assert statuses == [201, 201, 429]


async def test_new_requests_are_turned_away_and_old_ones_finish_when_draining(portal: Portal) -> None:
    first = asyncio.create_task(portal.post({"slot_id": "slow"}))
    await portal.held.wait()
    portal.health.start_draining()
    async with portal.session.get(f"{BOOKINGS}?from=2026-01-05") as response:
        assert (response.status, (await response.json(content_type=None))["code"]) == (503, "draining")
        assert response.headers["Connection"] == "close"
    portal.release.set()
    assert (await first)[0] == 201


async def test_request_id_is_taken_over_when_plain_and_replaced_when_not(portal: Portal) -> None:
    async with portal.session.get("/nowhere", headers={"X-Request-Id": "portal-0001"}) as response:
        assert response.headers["X-Request-Id"] == "portal-0001"
        assert (await response.json(content_type=None))["instance"] == "urn:hisbridge:request:portal-0001"
    async with portal.session.get("/nowhere", headers={"X-Request-Id": "张三丰"}) as response:
        assert len(response.headers["X-Request-Id"]) == 36


async def test_connection_survives_when_a_request_was_refused(portal: Portal) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    assert portal.session._base_url is not None
    async with aiohttp.ClientSession(portal.session._base_url, connector=connector) as session:
        for _ in range(3):
            async with session.get(BOOKINGS) as response:
                assert response.status == 401
