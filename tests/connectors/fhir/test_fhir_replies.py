"""Replies that a well-meaning simulator does not give: bad paging, half a Bundle, other versions, odd statuses."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.config import HospitalContext
from connectors.fhir import Options, create
from connectors.port import (
    Accepted,
    HisError,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    Order,
    Rejected,
    Unknown,
    Window,
)
from mappings.canonical import Attachment, Bill, Patient, Schedule, Session, Slot
from mappings.profile import ProfileError
from tests.connectors.fhir.fhir_hospital import ORDER_NO, PERSON, ZONE, canned, connected, fhir_json

DAY = dt.date(2026, 1, 5)
START = dt.datetime(2026, 1, 5, 8, tzinfo=ZONE)
WINDOW = Window(date_from=DAY, date_to=DAY)
ORDER = Order(
    order_no=ORDER_NO,
    schedule=Schedule(id="s", date=DAY, session=Session.AM, department_id="100"),
    slot=Slot(
        id="s@1",
        schedule_id="s",
        date=DAY,
        session=Session.AM,
        starts_at=START,
        ends_at=START + dt.timedelta(minutes=30),
        seats_left=1,
        his_refs={"free": "x1"},
    ),
    patient=Patient(name="张伟", mrn="P1"),
    fee_fen=700,
)


def slot(number: str, **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Slot",
        "id": number,
        "schedule": {"reference": "Schedule/s"},
        "status": "free",
        "start": "2026-01-05T08:00:00+08:00",
        "end": "2026-01-05T08:30:00+08:00",
        **changes,
    }


def bundle(*resources: dict[str, Any], total: int | None = None, **links: str) -> web.Response:
    body: dict[str, Any] = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": relation, "url": url} for relation, url in links.items()],
        "entry": [{"resource": resource} for resource in resources],
    }
    return fhir_json(json.dumps(body if total is None else body | {"total": total}))


def outcome(severity: str, code: str, detail: str | None = None, text: str = "") -> dict[str, Any]:
    details = {"coding": [{"code": detail}]} if detail else {}
    issue = {"severity": severity, "code": code, "details": details, "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


async def slots_from(reply: Any, **options: Any) -> list[Slot]:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = reply(request) if callable(reply) else reply
        assert isinstance(answer, web.StreamResponse)
        return answer

    async with canned(handler) as base_url, connected(base_url, **options) as connector:
        return list(await connector.fetch_slots(WINDOW, []))


async def test_pages_are_followed_as_given_and_repeats_between_them_count_once() -> None:
    asked: list[str] = []

    def pages(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        if "token" not in request.query:
            return bundle(slot("a"), slot("b"), next=f"http://{request.host}/fhir/Slot?token=a%2Fb%7C1&x=%20")
        return bundle(slot("b"), slot("c"))

    [merged] = await slots_from(pages)
    assert merged.seats_left == 3
    assert asked[1] == "/fhir/Slot?token=a%2Fb%7C1&x=%20"
    assert "start=ge2026-01-05T00:00:00%2B08:00" in asked[0].replace("%3A", ":")
    assert "start=lt2026-01-06T00:00:00%2B08:00" in asked[0].replace("%3A", ":")


@pytest.mark.parametrize(
    "url", ["http://evil.example/fhir/Slot?p=2", "http://127.0.0.1:1/fhir/Slot", "/elsewhere/Slot", "ftp://x/fhir"]
)
async def test_next_link_that_leaves_the_server_is_not_followed(url: str) -> None:
    with pytest.raises(HisReplyInvalid, match="another server"):
        await slots_from(lambda request: bundle(slot("a"), next=url))


async def test_paging_without_end_is_stopped() -> None:
    with pytest.raises(HisReplyInvalid, match="does not end"):
        await slots_from(lambda request: bundle(slot("a"), next=str(request.url)))
    count = iter(range(1000))
    with pytest.raises(HisReplyInvalid, match="5 pages"):
        await slots_from(
            lambda request: bundle(slot(f"a{(n := next(count))}"), next=f"http://{request.host}/fhir/Slot?n={n}"),
            max_pages=5,
        )


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda _: web.Response(text="<html>login</html>", content_type="text/html"), HisReplyInvalid),
        (lambda _: fhir_json('{"resourceType": "Bundle", "entry": ['), HisReplyInvalid),
        (lambda _: fhir_json('{"resourceType": "Slot", "id": "张伟"}'), HisReplyInvalid),
        (lambda _: fhir_json("[1, 2]"), HisReplyInvalid),
        (lambda _: fhir_json("[" * 100_000), HisReplyInvalid),
        (lambda _: fhir_json('{"resourceType": "Bundle", "total": 1e99999999999999999999}'), HisReplyInvalid),
        (lambda _: fhir_json(b"\x81\xff\x00"), HisReplyInvalid),
        (lambda _: fhir_json(b"{" + b" " * 2_000 + b"}"), HisReplyInvalid),
        (lambda _: fhir_json(""), HisReplyInvalid),
        (lambda _: web.Response(text="PK", content_type="application/zip"), HisReplyInvalid),
        (lambda _: bundle(slot("a"), outcome("error", "timeout")), HisReplyInvalid),
        (lambda _: web.Response(status=302, headers={"Location": "http://evil.example/"}), HisReplyInvalid),
        (lambda _: fhir_json(json.dumps(outcome("error", "forbidden")), 403), HisRefused),
        (lambda _: fhir_json(json.dumps(outcome("error", "throttled")), 429), HisUnavailable),
        (lambda _: web.Response(status=503, text="busy"), HisUnavailable),
        (lambda _: fhir_json(json.dumps(outcome("error", "exception", text="张伟")), 500), HisUnavailable),
    ],
)
async def test_reply_that_is_no_search_result_raises_the_right_error(reply: Any, error: type[HisError]) -> None:
    with pytest.raises(error) as failed:
        await slots_from(reply, max_message_bytes=1_500 if error is HisReplyInvalid else 10_000_000)
    assert type(failed.value) is error
    assert "张伟" not in str(failed.value)


async def test_remark_among_the_entries_is_no_failure() -> None:
    [merged] = await slots_from(bundle(slot("a"), outcome("information", "informational")))
    assert merged.seats_left == 1


async def test_bom_before_the_json_is_taken() -> None:
    reply = bundle(slot("a"))
    assert isinstance(reply.body, bytes)
    assert len(await slots_from(fhir_json(b"\xef\xbb\xbf" + reply.body))) == 1


async def test_bad_slot_is_left_out_or_spoils_the_reply_as_configured() -> None:
    def mixed() -> web.Response:
        return bundle(slot("a"), slot("b", status="banana"), slot("c", end="2026-01-05T07:00:00+08:00"))

    for mode in ("lenient", "off"):
        [merged] = await slots_from(mixed(), validation=mode)
        assert merged.seats_left == 1
    with pytest.raises(HisReplyInvalid):
        await slots_from(mixed(), validation="strict")
    # what only the R4B models see
    departs = bundle(slot("a"), slot("b", overbooked="perhaps"))
    assert [item.seats_left for item in await slots_from(departs)] == [1]
    departs = bundle(slot("a"), slot("b", overbooked="perhaps"))
    assert [item.seats_left for item in await slots_from(departs, validation="off")] == [2]


async def test_reply_without_one_good_resource_is_no_empty_list() -> None:
    with pytest.raises(HisReplyInvalid):
        await slots_from(bundle(slot("a", status="banana")))


async def test_part_of_a_segment_that_is_unavailable_is_no_stop() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        later = {"start": "2026-01-05T09:00:00+08:00", "end": "2026-01-05T09:30:00+08:00"}
        return bundle(slot("a"), slot("b", status="busy-unavailable"), slot("c", status="busy-unavailable", **later))

    async with canned(handler) as base_url, connected(base_url) as connector:
        stops = await connector.fetch_stops(WINDOW)
    assert [(stop.scope, stop.starts_at) for stop in stops] == [("segment", dt.datetime(2026, 1, 5, 9, tzinfo=ZONE))]


FLAWED = {"status": "banana", "comment": "it may be free"}
UNAVAILABLE = {"status": "busy-unavailable"}


async def stops_with(*slots: dict[str, Any], **options: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The stops, the schedules and the slots that a server with these Slots shows."""
    actor = [{"reference": "HealthcareService/100"}]
    schedules = [{"resourceType": "Schedule", "id": one, "actor": actor} for one in ("s", "t")]

    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(*(schedules if request.path.endswith("Schedule") else slots))

    async with canned(handler) as base_url, connected(base_url, profile="fhir_r4@1", **options) as connector:
        return (
            list(await connector.fetch_stops(WINDOW)),
            list(await connector.fetch_schedules(WINDOW)),
            list(await connector.fetch_slots(WINDOW, [])),
        )


@pytest.mark.parametrize(
    "flawed",
    [
        slot("b", **FLAWED),
        slot("b", end="2026-01-05T07:00:00+08:00"),
        slot("b", overbooked="perhaps"),  # only the R4B models see it
        slot("b", schedule={"reference": "http://h/fhir/Schedule/s/_history/2"}, status=None),
    ],
)
async def test_nothing_is_stopped_when_a_slot_of_its_schedule_was_left_out(flawed: dict[str, Any]) -> None:
    other = {"schedule": {"reference": "Schedule/t"}}
    stops, schedules, slots = await stops_with(
        slot("a", **UNAVAILABLE), flawed, slot("c", **UNAVAILABLE, **other), slot("d", **UNAVAILABLE, **other)
    )
    assert [(stop.schedule_id, stop.scope) for stop in stops] == [("t", "schedule")]
    assert {one.id: str(one.status) for one in schedules} == {"s": "open", "t": "stopped"}
    assert {one.schedule_id: (str(one.status), one.seats_left) for one in slots} == {
        "s": ("open", 0),
        "t": ("stopped", 0),
    }


@pytest.mark.parametrize("flawed", [slot("b", schedule={}, **FLAWED), {**slot("b", schedule="?"), "resourceType": 7}])
async def test_nothing_at_all_is_stopped_when_what_was_left_out_does_not_say_whose_it_is(
    flawed: dict[str, Any],
) -> None:
    other = {"schedule": {"reference": "Schedule/t"}}
    stops, schedules, _ = await stops_with(slot("a", **UNAVAILABLE), flawed, slot("c", **UNAVAILABLE, **other))
    assert stops == []
    assert {str(one.status) for one in schedules} == {"open"}


async def test_nothing_is_stopped_when_a_slot_of_its_schedule_cannot_be_mapped(tmp_path: Path) -> None:
    site = tmp_path / "numbered"
    site.mkdir()
    (site / "profile.yaml").write_text(
        "name: numbered\nversion: 1\nprotocol: fhir\nextends: fhir_r4@1\nverbs:\n  fetch_slots:\n    reply:\n"
        "      fields: {ends_at: {from: end, parts: {match: '^(?P<end>.*T0[89].*)$', group: end}, via: datetime}}\n"
    )
    late = {"start": "2026-01-05T10:00:00+08:00", "end": "2026-01-05T10:30:00+08:00"}
    other = {"schedule": {"reference": "Schedule/t"}}

    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(slot("a", **UNAVAILABLE), slot("b", **late), slot("c", **UNAVAILABLE, **other))

    async with canned(handler) as base_url:
        given = Options(protocol="fhir", base_url=base_url, profile="numbered")
        connector = create(HospitalContext(id="fhir-demo", zone=ZONE), "his", given, profiles_dir=tmp_path)
        await connector.start()
        try:
            assert [stop.schedule_id for stop in await connector.fetch_stops(WINDOW)] == ["t"]
        finally:
            await connector.close()


async def test_setting_that_a_path_names_must_exist_at_the_start(tmp_path: Path) -> None:
    site = tmp_path / "nameless"
    site.mkdir()
    (site / "profile.yaml").write_text(
        "name: nameless\nversion: 1\nprotocol: fhir\nextends: fhir_r4@1\nverbs:\n  fetch_registration:\n    reply:\n"
        "      fields: {queue_no: {from: identifier.where(system=connection.queue_system).value}}\n"
    )
    given = Options(protocol="fhir", base_url="http://h/fhir", profile="nameless")
    hospital = HospitalContext(id="fhir-demo", zone=ZONE)
    with pytest.raises(ProfileError, match=r"connection\.queue_system"):
        create(hospital, "his", given, profiles_dir=tmp_path)
    create(hospital, "his", msgspec.structs.replace(given, connection={"queue_system": "urn:q"}), profiles_dir=tmp_path)


@pytest.mark.parametrize(
    ("written", "fen"),
    [("1e2", 10000), ("1.05E+1", 1050), ("3550e-2", 3550), ("0.1", 10), ("-0e0", 0), ("7.00", 700)],
)
async def test_amount_is_exact_however_json_writes_it(written: str, fen: int) -> None:
    assert [bill.amount_fen for bill in await bills_with(written)] == [fen]


@pytest.mark.parametrize("written", ["1e999999", "1e-999999", "1e40"])
async def test_amount_is_refused_and_costs_nothing_when_it_is_absurd(written: str) -> None:
    with pytest.raises(HisReplyInvalid):
        await bills_with(written)


async def bills_with(amount: str) -> Sequence[Bill]:
    invoice = (
        '{"resourceType": "Invoice", "id": "i1", "status": "issued", "subject": {"reference": "Patient/P1"},'
        f' "totalGross": {{"value": {amount}, "currency": "CNY"}}}}'
    )

    async def handler(request: web.Request) -> web.StreamResponse:
        found = f'{{"resource": {invoice}}}' if request.path.endswith("Invoice") else ""
        return fhir_json(f'{{"resourceType": "Bundle", "type": "searchset", "entry": [{found}]}}')

    async with canned(handler) as base_url, connected(base_url, validation="off") as connector:
        return await connector.fetch_bills(Patient(name="张伟", mrn="P1"))


async def book_against(*replies: web.Response) -> tuple[Any, list[str]]:
    """Book with a server that gives these replies to POSTs in turn, and an empty Bundle to searches."""
    left, posted = list(replies), []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return bundle()
        posted.append(request.headers["If-None-Exist"])
        return left.pop(0)

    async with canned(handler) as base_url, connected(base_url) as connector:
        return await connector.book(ORDER), posted


async def test_create_without_a_body_is_known_by_its_location() -> None:
    created = web.Response(status=201, headers={"Location": "http://h/fhir/Appointment/a7/_history/1"})
    result, posted = await book_against(created)
    assert result == Accepted(his_refs={"appointment": "a7"})
    assert posted == ["identifier=urn%3Ahisbridge%3Aorder-no%7C" + ORDER_NO]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, outcome("error", "throttled"), ("busy", True)),
        (503, outcome("error", "transient"), ("busy", True)),
        (503, outcome("error", "processing", "full"), ("full", False)),
        (400, outcome("error", "structure"), ("invalid_request", False)),
        (422, outcome("error", "business-rule", "stopped"), ("stopped", False)),
        (409, outcome("error", "duplicate"), ("already_exists", False)),
        (412, outcome("error", "multiple-matches"), ("several", False)),
        (409, outcome("error", "conflict", "slot-taken"), ("full", False)),
        (500, outcome("error", "processing", "full"), ("full", False)),
        (401, outcome("error", "security"), ("busy", True)),
        (401, None, ("busy", True)),
        (403, outcome("error", "forbidden"), ("busy", True)),
        (403, outcome("error", "forbidden", "stopped"), ("stopped", False)),
        (404, outcome("error", "not-found"), ("not_found", False)),
    ],
)
async def test_refused_booking_is_rejected_in_the_words_of_the_port(
    status: int, body: dict[str, Any] | None, expected: tuple[str, bool]
) -> None:
    reply = fhir_json(json.dumps(body), status) if body else web.Response(status=status, text="try later")
    result, _ = await book_against(reply)
    assert isinstance(result, Rejected), result
    assert result.text.startswith(f"HTTP {status}")
    assert (result.code, result.retryable) == expected


@pytest.mark.parametrize(
    "reply",
    [
        lambda: fhir_json(json.dumps(outcome("fatal", "exception", "boom")), 500),
        lambda: fhir_json(json.dumps(outcome("error", "timeout")), 504),
        lambda: fhir_json(json.dumps(outcome("error", "timeout")), 408),
        lambda: web.Response(status=502, text="<html>", content_type="text/html"),
        # A gateway may say so after the server behind it has committed.
        lambda: web.Response(status=503, text="try later"),
        lambda: web.Response(status=429),
        lambda: fhir_json(json.dumps(outcome("error", "processing")), 503),
        lambda: fhir_json(json.dumps(outcome("error", "exception")), 429),
        lambda: web.Response(status=403, text="<html>", content_type="text/html"),
        lambda: web.Response(status=202),
        lambda: web.Response(status=201),
        lambda: web.Response(status=307, headers={"Location": "http://evil.example/"}),
        lambda: fhir_json(json.dumps({"resourceType": "Appointment", "id": "1", "status": "waitlist"}), 201),
    ],
)
async def test_booking_is_in_doubt_when_the_reply_does_not_say(reply: Any) -> None:
    result, posted = await book_against(reply())
    assert isinstance(result, Unknown), result
    assert len(posted) == 1


async def test_request_carries_the_headers_and_the_resource_of_the_profile() -> None:
    seen: list[tuple[dict[str, str], dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            seen.append((dict(request.headers), {}))
            return bundle()
        body = await request.json()
        seen.append((dict(request.headers), body))
        return fhir_json(json.dumps({**body, "id": "a1"}), 201, ETag='W/"1"')

    async with canned(handler) as base_url, connected(base_url) as connector:
        assert isinstance(await connector.book(ORDER), Accepted)
        await connector.fetch_registration(ORDER)
    headers, body = seen[0]
    assert headers["Accept"] == headers["Content-Type"] == "application/fhir+json"
    assert body == {
        "resourceType": "Appointment",
        "identifier": [{"system": "urn:hisbridge:order-no", "value": ORDER_NO}],
        "status": "pending",
        "start": "2026-01-05T08:00:00+08:00",
        "end": "2026-01-05T08:30:00+08:00",
        "slot": [{"reference": "Slot/x1"}],
        "participant": [
            {"actor": {"reference": "Patient/P1"}, "required": "required", "status": "accepted"},
        ],
    }
    assert seen[1][0]["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(("version", "good"), [("4.0.1", True), ("4.3.0", True), ("5.0.0", False), (None, False)])
async def test_ping_takes_r4_only(version: str | None, good: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return fhir_json(json.dumps({"resourceType": "CapabilityStatement", "fhirVersion": version}))

    async with canned(handler, statement=None) as base_url, connected(base_url) as connector:
        if good:
            await connector.ping()
        else:
            with pytest.raises(HisReplyInvalid):
                await connector.ping()


async def test_attachment_comes_out_of_a_binary_resource_and_only_from_this_server() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return fhir_json(json.dumps({"resourceType": "Binary", "contentType": "text/plain", "data": "5oql5ZGK"}))

    async with canned(handler) as base_url, connected(base_url) as connector:
        attachment = Attachment(content_type="text/plain", url="Binary/1")
        assert (await connector.fetch_attachment(attachment)).data == "报告".encode()
        with pytest.raises(HisReplyInvalid):
            await connector.fetch_attachment(Attachment(content_type="text/plain", url="http://evil.example/x"))


async def test_peer_that_accepts_and_never_answers_costs_no_more_than_the_timeout() -> None:
    peers: list[asyncio.Task[None] | None] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(asyncio.current_task())
        await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/fhir"
    timeouts = {"book": 0.2, "fetch_slots": 0.2}
    async with server:
        conditional = {"assumed": "conditional-create"}  # else it is looked at before anything is written
        async with connected(base_url, timeout_s=timeouts, connection=conditional) as connector:
            assert isinstance(await connector.book(ORDER), Unknown)
            with pytest.raises(HisUnavailable):
                await connector.fetch_slots(WINDOW, [])
        await asyncio.gather(*(peer for peer in peers if peer is not None))


async def test_ihe_bundle_is_no_booking_of_ours(corpus: Path) -> None:
    body = (corpus / "fhir" / "ihe-example-iti-scheduling-bundle.json").read_bytes()

    async def handler(request: web.Request) -> web.StreamResponse:
        return fhir_json(body)

    async with canned(handler) as base_url, connected(base_url, validation="strict") as connector:
        assert await connector.fetch_registration(ORDER) is None


def test_options_that_cannot_work_stop_the_start() -> None:
    hospital = HospitalContext(id="h", zone=ZONE)
    with pytest.raises(ValueError, match="base_url"):
        create(hospital, "his", Options(protocol="fhir", profile="fhir_r4@1", base_url="his.example"))
    with pytest.raises(ValueError, match="soap"):
        create(hospital, "his", Options(protocol="fhir", profile="dhc@1", base_url="http://h/"))
    with pytest.raises(ValueError, match="NO_SUCH_TOKEN"):
        create(
            hospital,
            "his",
            Options(protocol="fhir", profile="fhir_r4@1", base_url="http://h/", token_env="NO_SUCH_TOKEN"),
        )


async def test_writes_before_start_are_not_sent() -> None:
    connector = create(
        HospitalContext(id="h", zone=ZONE), "his", Options(protocol="fhir", profile="fhir_r4@1", base_url="http://h/")
    )
    result = await connector.create_patient(PERSON)
    assert isinstance(result, Rejected)
    assert result.code == "not_sent"
