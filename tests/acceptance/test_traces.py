"""One booking's trace, from the portal's request to the hospital and back, as a real collector receives it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.acceptance.installation import Installation, lay_out, money, run_process, run_service, until
from tests.acceptance.processes import laid_out
from tests.otlp_receiver import Received, Receiver, otlp_receiver
from tests.postgres import PostgresServer

POST_BOOKINGS = "POST /v1/hospitals/{hospital_id}/bookings"
POST_PAYMENTS = "POST /v1/hospitals/{hospital_id}/bookings/{booking_id}/payments"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PORTALS_SPAN = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE_ID}-{PORTALS_SPAN}-01"


def traced(receiver: Receiver, **changes: Any) -> dict[str, Any]:
    """`[tracing]`: only what the portal has sampled."""
    return {"endpoint": receiver.endpoint, "sample_ratio": 0.0, **changes}


@asynccontextmanager
async def running(
    folder: Path, receiver: Receiver, engine: str, server: Callable[[], PostgresServer], **changes: Any
) -> AsyncIterator[Installation]:
    """An installation that traces: one process on SQLite, four on PostgreSQL."""
    if engine == "sqlite":
        async with lay_out(folder, tracing=traced(receiver, **changes)) as site, run_process(site):
            yield site
    else:
        async with laid_out(folder, server(), tracing=traced(receiver, **changes)) as site, run_process(site):
            yield site


async def hold(site: Installation, hospital_id: str, **headers: str) -> tuple[dict[str, Any], Any]:
    """A new patient's hold, and the answer to it."""
    patient_id = await site.patient(hospital_id)
    slot = (await site.open_slots(hospital_id))[0]
    answer = await site.portal().call(
        "POST",
        f"/v1/hospitals/{hospital_id}/bookings",
        {"user_ref": "user", "slot_id": slot["id"], "patient_id": patient_id},
        key=uuid.uuid4().hex,
        headers=headers,
    )
    assert answer.status == 201, answer.data
    return answer.body, answer


async def pay(site: Installation, hospital_id: str, booking: dict[str, Any], **headers: str) -> None:
    answer = await site.portal().call(
        "POST",
        f"/v1/hospitals/{hospital_id}/bookings/{booking['id']}/payments",
        money(booking["fee_fen"]),
        key=uuid.uuid4().hex,
        headers=headers,
    )
    assert answer.status == 202, answer.data


def only(spans: Sequence[Received], name: str, **wanted: Any) -> Received:
    """The one span of this name that has these attributes."""
    found = [s for s in spans if s.name == name and all(s.attributes.get(k) == v for k, v in wanted.items())]
    assert len(found) == 1, (name, wanted, [s.name for s in spans])
    return found[0]


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Callable[[], PostgresServer]:
    """The server, started only for the tests that want it."""

    def get() -> PostgresServer:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return server

    return get


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_booking_is_one_trace_from_the_portal_to_the_hospital_when_the_portal_has_sampled_it(
    tmp_path: Path, engine: str, postgres: Callable[[], PostgresServer]
) -> None:
    async with otlp_receiver() as receiver, running(tmp_path, receiver, engine, postgres) as site:
        booking, answer = await hold(site, "soap-demo", traceparent=SAMPLED)
        assert answer.headers["X-Trace-Id"] == TRACE_ID
        await site.becomes("soap-demo", booking, his_state="locked", payable=True)
        await pay(site, "soap-demo", booking, traceparent=f"00-{TRACE_ID}-a3ce929d0e0e4736-01")
        await site.becomes("soap-demo", booking, state="booked", his_state="registered")
        spans = await receiver.wait_for("his register", POST_PAYMENTS, "his lock_slot", POST_BOOKINGS)

        assert {span.trace_id for span in spans} == {TRACE_ID}
        request = only(spans, POST_BOOKINGS)
        assert request.parent_id == PORTALS_SPAN
        assert request.attributes == {
            "http.request.method": "POST",
            "http.route": "/v1/hospitals/{hospital_id}/bookings",
            "http.response.status_code": 201,
            "hisbridge.hospital": "soap-demo",
            "hisbridge.client": "portal",
        }
        batch = only(spans, "holds commit")
        assert batch.parent_id == request.id
        assert batch.links == [(TRACE_ID, request.id)]
        assert batch.attributes["hisbridge.batch.granted"] == 1
        locking = only(spans, "outbox lock_slot")
        assert locking.parent_id == request.id
        assert locking.attributes["hisbridge.booking.id"] == booking["id"]
        lock = only(spans, "his lock_slot")
        assert lock.parent_id == locking.id
        assert lock.attributes == {
            "hisbridge.hospital": "soap-demo",
            "hisbridge.connector": "main",
            "hisbridge.verb": "lock_slot",
            "hisbridge.attempt": 1,
            "hisbridge.outcome": "accepted",
        }
        registering = only(spans, "outbox register")
        assert registering.parent_id == only(spans, POST_PAYMENTS).id
        assert registering.attributes["hisbridge.booking.id"] == booking["id"]
        assert only(spans, "his register").parent_id == registering.id
        for earlier, later in ((request, lock), (lock, only(spans, "his register"))):
            assert earlier.span.start_time_unix_nano < later.span.start_time_unix_nano
        roles = {span.name: span.resource["hisbridge.role"] for span in spans}
        processes = {span.resource["service.instance.id"] for span in spans}
        if engine == "sqlite":
            assert set(roles.values()) == {"all"}
            assert len(processes) == 1
        else:
            assert (roles[POST_BOOKINGS], roles["holds commit"], roles["his lock_slot"]) == ("api", "api", "sync")
            assert len(processes) >= 2


async def test_attempts_stand_side_by_side_when_the_hospital_loses_a_reply(tmp_path: Path) -> None:
    async with otlp_receiver() as receiver, lay_out(tmp_path, tracing=traced(receiver)) as site, run_service(site):
        patient_id = await site.patient("soap-demo")
        slot = (await site.open_slots("soap-demo"))[0]
        await site.clinics["soap-demo"].fault("lock_slot", "lose_reply", times=1)
        body = {"user_ref": "user", "slot_id": slot["id"], "patient_id": patient_id}
        answer = await site.portal().call(
            "POST",
            "/v1/hospitals/soap-demo/bookings",
            body,
            key=uuid.uuid4().hex,
            headers={"traceparent": SAMPLED},
        )
        await site.becomes("soap-demo", answer.body, his_state="locked")

        async def attempts() -> list[Received]:
            return [span for span in receiver.spans if span.name == "outbox lock_slot"]

        both = await until(attempts, lambda found: len(found) >= 2, what="both attempts")
        assert [span.attributes["hisbridge.attempt"] for span in both][:2] == [1, 2]
        assert len({span.parent_id for span in both}) == 1
        assert {span.trace_id for span in both} == {TRACE_ID}


async def test_nothing_is_traced_when_the_portal_has_decided_against_it(tmp_path: Path) -> None:
    """Although every request without a word would be."""
    async with (
        otlp_receiver() as receiver,
        lay_out(tmp_path, tracing=traced(receiver, sample_ratio=1.0)) as site,
        run_service(site),
    ):
        booking, answer = await hold(site, "soap-demo", traceparent=f"00-{TRACE_ID}-{PORTALS_SPAN}-00")
        assert "X-Trace-Id" not in answer.headers
        await site.becomes("soap-demo", booking, his_state="locked")
        spans = await receiver.wait_for("his fetch_schedules", "GET /v1/hospitals/{hospital_id}/bookings/{booking_id}")
        assert TRACE_ID not in {span.trace_id for span in spans}
        assert {span.name for span in spans} & {
            POST_BOOKINGS,
            "holds commit",
            "outbox lock_slot",
            "his lock_slot",
        } == set()


async def test_requests_of_one_batch_are_linked_when_several_are_traced(tmp_path: Path) -> None:
    async with otlp_receiver() as receiver, lay_out(tmp_path, tracing=traced(receiver)) as site, run_service(site):
        patients = [await site.patient("soap-demo") for _ in range(8)]
        slots = await site.open_slots("soap-demo")

        async def one(number: int, patient_id: str) -> int:
            answer = await site.portal().call(
                "POST",
                "/v1/hospitals/soap-demo/bookings",
                {"user_ref": f"u{number}", "slot_id": slots[number % 4]["id"], "patient_id": patient_id},
                key=uuid.uuid4().hex,
                headers={"traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01".replace("0000000", "a000000")},
            )
            return answer.status

        assert set(await asyncio.gather(*(one(n, p) for n, p in enumerate(patients)))) <= {201, 409}

        async def requests() -> list[Received]:
            return [span for span in receiver.spans if span.name == POST_BOOKINGS]

        requested = await until(requests, lambda found: len(found) == 8, what="every request's span")
        batches = [span for span in receiver.spans if span.name == "holds commit"]
        assert sorted(link for batch in batches for link in batch.links) == sorted(
            (r.trace_id, r.id) for r in requested
        )
        for batch in batches:
            for trace_id, span_id in batch.links:
                (request,) = [r for r in requested if (r.trace_id, r.id) == (trace_id, span_id)]
                assert request.id == batch.parent_id or request.links == [(batch.trace_id, batch.id)]


async def test_live_read_is_one_trace_when_another_process_asks_the_hospital(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with (
        otlp_receiver() as receiver,
        laid_out(tmp_path, postgres_server, tracing=traced(receiver)) as site,
        run_process(site),
    ):
        patient_id = await site.patient("soap-demo")
        of = f"/v1/hospitals/soap-demo/patients/{patient_id}/bills"
        assert (await site.portal().call("GET", of, headers={"traceparent": SAMPLED})).status == 200
        spans = await receiver.wait_for(
            "his fetch_bills", "GET /v1/hospitals/{hospital_id}/patients/{patient_id}/bills"
        )
        asked = only(spans, "GET /v1/hospitals/{hospital_id}/patients/{patient_id}/bills")
        answered = only(spans, "his fetch_bills")
        assert answered.parent_id == asked.id
        assert answered.trace_id == TRACE_ID
        assert (asked.resource["hisbridge.role"], answered.resource["hisbridge.role"]) == ("api", "sync")


async def test_what_nobody_asked_for_is_a_trace_of_its_own_when_it_is_sampled(tmp_path: Path) -> None:
    """Messages of the hospital and fetches have no request behind them."""
    async with (
        otlp_receiver() as receiver,
        lay_out(tmp_path, tracing=traced(receiver, sample_ratio=1.0)) as site,
        run_service(site),
    ):
        await site.patient("hl7-demo")
        [person] = (await site.clinics["hl7-demo"].state())["people"]
        await site.clinics["hl7-demo"].do("/report", {"mrn": person["mrn"]})
        spans = await receiver.wait_for("inbound", "inbound apply", "his fetch_schedules")
        arrived = next(span for span in spans if span.name == "inbound")
        assert arrived.parent_id == ""
        assert arrived.attributes["hisbridge.answer"] == "stored"
        applied = next(span for span in spans if span.name == "inbound apply")
        assert applied.parent_id in {span.id for span in spans if span.name == "inbound"}


async def test_log_lines_name_the_trace_when_what_they_tell_of_is_traced(tmp_path: Path) -> None:
    async with otlp_receiver() as receiver, lay_out(tmp_path, tracing=traced(receiver)) as site:
        async with run_process(site) as process:
            booking, _ = await hold(site, "soap-demo", traceparent=SAMPLED)
            await site.becomes("soap-demo", booking, his_state="locked")
            process.terminate()
            assert await process.exit_code() == 0
        lines = [line for line in process.events() if line.get("trace_id") is not None]
        assert {line["trace_id"] for line in lines} == {TRACE_ID}
        assert {line["event"] for line in lines} >= {"request", "command_outcome"}
        requests = [line for line in process.events() if line["event"] == "request"]
        assert sum("trace_id" in line for line in requests) == 1  # the patient's creation was not traced


async def test_portal_is_told_a_trace_when_its_webhook_is_called(tmp_path: Path) -> None:
    heard: list[str] = []

    async def hear(request: web.BaseRequest) -> web.StreamResponse:
        heard.append(request.headers["traceparent"])
        return web.Response()

    portal = web.ServerRunner(web.Server(hear))
    await portal.setup()
    await web.TCPSite(portal, "127.0.0.1", 0).start()
    try:
        async with (
            otlp_receiver() as receiver,
            lay_out(tmp_path, tracing=traced(receiver, sample_ratio=1.0)) as site,
            run_service(site),
        ):
            await site.portal().post("/v1/webhooks", {"url": f"http://127.0.0.1:{portal.addresses[0][1]}/hook"})
            await site.locked("soap-demo")
            spans = await receiver.wait_for("webhook")
            delivery = next(span for span in spans if span.name == "webhook")
            assert heard[0] == f"00-{delivery.trace_id}-{delivery.id}-01"
            assert delivery.attributes["http.response.status_code"] == 200
    finally:
        await portal.cleanup()


async def test_service_serves_and_stops_when_the_collector_is_stuck(tmp_path: Path) -> None:
    async with otlp_receiver("silent") as receiver:
        tracing = traced(receiver, sample_ratio=1.0, timeout_s=60)
        async with lay_out(tmp_path, tracing=tracing) as site, run_process(site) as process:

            async def asked() -> int:
                return len(receiver.headers)

            await until(asked, lambda times: times > 0, what="a batch of spans that hangs")
            await site.booked("soap-demo")
            process.terminate()
            assert await process.exit_code() == 0  # within PATIENCE_S, where the collector has a minute
        assert receiver.spans == []
