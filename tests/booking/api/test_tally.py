"""How finished requests count in the service level: each kind of answer, its class, its hospital and its phase."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from types import SimpleNamespace
from typing import Any

import pytest

from booking.api.application import ApiOptions
from booking.api.classes import RequestClass
from booking.api.parts import ApiParts
from booking.api.phases import ReleasePhases
from booking.api.problems import PROBLEMS
from booking.api.routes import api_routes
from booking.api.routing import Route
from booking.api.server import ConnectionLimits
from booking.api.tally import GONE, Tally, judge
from booking.release import ReleaseRule, release_near
from booking.settings import Hospital, Service
from booking.store.engine import Store
from monitoring.metrics import REGISTRY
from tests.booking.api.catalogue_site import NoHis
from tests.booking.api.portal import BOOKINGS, NEWS, Portal, run_portal
from tests.booking.api.raw import call_raw, head, metric, until_metric

SLI = "hisbridge_sli_requests_total"
OPENS = "hisbridge_release_opens_timestamp_seconds"
BILL = "/v1/hospitals/hl7-demo/merchant-bills/2026-01-05"
LIST = f"{BOOKINGS}?from=2026-01-05"


@pytest.fixture(autouse=True)
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What tells how long an answer took; it stands unless `now_s` is turned, else a busy machine would make answers slow."""
    watch = SimpleNamespace(now_s=0.0)
    stands = SimpleNamespace(perf_counter=lambda: watch.now_s, monotonic=time.monotonic)
    monkeypatch.setattr("booking.api.application.time", stands)
    return watch


def counted() -> dict[tuple[str, str, str, str], float]:
    """Every series as (hospital, request_class, phase, verdict)."""
    return {
        (s.labels["hospital"], s.labels["request_class"], s.labels["phase"], s.labels["verdict"]): s.value
        for family in REGISTRY.collect()
        if family.name == SLI.removesuffix("_total")
        for s in family.samples
    }


def risen(before: dict[tuple[str, str, str, str], float]) -> list[tuple[str, str, str, str]]:
    """What was counted since, a series as often as it rose."""
    return [key for key, value in sorted(counted().items()) for _ in range(round(value - before.get(key, 0)))]


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status", "hospital", "request_class", "verdict"),
    [
        ("POST", BOOKINGS, {"slot_id": "s1"}, {}, 201, "hl7-demo", "hold", "good"),
        ("POST", BOOKINGS, {"slot_id": "sold-out"}, {}, 409, "hl7-demo", "sold_out", "good"),
        ("POST", BOOKINGS, {"slot_id": "bug"}, {}, 500, "hl7-demo", "hold", "failed"),
        ("POST", BOOKINGS, {"slot_id": "store-down"}, {}, 503, "hl7-demo", "hold", "failed"),
        ("POST", BOOKINGS, {"slot": "s1"}, {}, 422, "hl7-demo", "hold", "invalid"),
        ("POST", BOOKINGS, {"slot_id": "s1"}, {"Idempotency-Key": ""}, 400, "hl7-demo", "hold", "invalid"),
        ("GET", LIST, None, {}, 200, "hl7-demo", "read", "good"),
        ("GET", LIST, None, {"Authorization": "Bearer nobody"}, 401, "hl7-demo", "read", "invalid"),
        ("GET", LIST, None, {"Authorization": "Bearer hb_reader_x"}, 403, "hl7-demo", "read", "invalid"),
        ("GET", LIST.replace("hl7", "fhir"), None, {}, 403, "fhir-demo", "read", "invalid"),
        ("GET", LIST.replace("hl7-demo", "made-up"), None, {}, 404, "", "read", "invalid"),
        ("GET", "/nowhere", None, {}, 404, "", "read", "invalid"),
        ("PATCH", BOOKINGS, None, {}, 405, "", "read", "invalid"),
        ("GET", "/openapi.json", None, {}, 200, "", "read", "good"),
        ("PUT", BILL, "a,b", {}, 200, "hl7-demo", "bulk", "good"),
        ("PUT", BILL, "his-down", {}, 503, "hl7-demo", "live", "failed"),
        ("DELETE", "/v1/hospitals/hl7-demo/x", None, {}, 204, "hl7-demo", "step", "good"),
    ],
)
async def test_request_is_counted_once_when_it_is_answered(
    portal: Portal,
    method: str,
    target: str,
    body: Any,
    headers: dict[str, str],
    status: int,
    hospital: str,
    request_class: str,
    verdict: str,
) -> None:
    await portal.get(f"{LIST}&limit=1")  # brings the key into memory
    sent: dict[str, Any] = {"headers": {"Idempotency-Key": "k1", **headers}}
    if isinstance(body, str):
        sent |= {"data": body}
        sent["headers"]["Content-Type"] = "text/csv"
    elif body is not None:
        sent |= {"json": body}
    before = counted()
    async with portal.session.request(method, target, **sent) as response:
        assert response.status == status
    assert risen(before) == [(hospital, request_class, "ordinary", verdict)]


async def test_live_read_is_failed_when_its_his_does_not_answer(portal: Portal) -> None:
    portal.release.set()
    before = counted()
    for portal.news_fail in ("his_unavailable", "his_reply_invalid"):
        await portal.get(NEWS)
    assert risen(before) == [("hl7-demo", "live", "ordinary", "failed")] * 2


async def test_request_is_shed_when_we_turn_it_away_and_limited_when_its_caller_sends_too_many(portal: Portal) -> None:
    portal.health.start_draining()
    before = counted()
    await portal.get(LIST)
    assert risen(before) == [("hl7-demo", "read", "ordinary", "shed")]
    limited = ApiOptions(client_rate_per_s=0.001, client_burst=1, connections=ConnectionLimits(max_connections=2))
    async with run_portal(limited) as other, call_raw(other) as caller:
        before = counted()
        for _ in range(2):
            await caller.send(head("GET", LIST))
            await caller.read()
        assert risen(before) == [("hl7-demo", "read", "ordinary", verdict) for verdict in ("good", "limited")]
        before = counted()
        async with call_raw(other), call_raw(other) as third:
            assert (await third.read()).status == 503
            assert risen(before) == [("", "read", "ordinary", "shed")]


async def test_caller_who_hangs_up_is_gone_and_what_is_no_http_is_invalid(portal: Portal) -> None:
    before = counted()
    async with call_raw(portal) as caller:
        await caller.send(head("GET", NEWS))
        await portal.held.wait()
        caller.hang_up()
    await until_metric(SLI, before.get(("hl7-demo", "live", "ordinary", "gone"), 0.0) + 1,
                       hospital="hl7-demo", request_class="live", phase="ordinary", verdict="gone")  # fmt: skip
    assert risen(before) == [("hl7-demo", "live", "ordinary", "gone")]
    before = counted()
    async with call_raw(portal) as caller:
        await caller.send(b"no http at all\r\n\r\n")
        assert (await caller.read()).status == 400
    assert risen(before) == [("", "read", "ordinary", "invalid")]


async def test_right_answer_is_slow_when_it_comes_after_its_limit(portal: Portal, stopwatch: SimpleNamespace) -> None:
    before = counted()
    holding = asyncio.create_task(portal.post({"slot_id": "slow"}))
    await portal.held.wait()
    stopwatch.now_s += 1.01  # the limit of a hold is 1 s
    portal.release.set()
    assert (await holding)[0] == 201
    assert risen(before) == [("hl7-demo", "hold", "ordinary", "slow")]


async def nothing(_call: Any) -> None: ...


def route(request_class: RequestClass) -> Route:
    return Route("GET", "/x", nothing, summary="", tag="", request_class=request_class)


@pytest.mark.parametrize(
    ("request_class", "code", "took_s", "wait_s", "expected"),
    [
        ("read", None, 0.3, 0.0, ("read", "good")),
        ("read", None, 0.301, 0.0, ("read", "slow")),
        ("read", None, 20.29, 20.0, ("read", "good")),  # a long poll that nothing happened to
        ("read", None, 20.5, 20.0, ("read", "slow")),
        ("hold", None, 1.0, 0.0, ("hold", "good")),
        ("hold", None, 1.001, 0.0, ("hold", "slow")),
        ("hold", "slot_sold_out", 0.3, 0.0, ("sold_out", "good")),
        ("hold", "slot_sold_out", 0.301, 0.0, ("sold_out", "slow")),
        ("hold", "hospital_paused", 0.9, 0.0, ("hold", "good")),  # 503 by rule: not a sold-out answer, nor a fault
        ("hold", "request_in_progress", 0.1, 0.0, ("hold", "invalid")),
        ("hold", "store_unavailable", 5.0, 0.0, ("hold", "failed")),
        ("hold", "overloaded", 5.0, 0.0, ("hold", "shed")),
        ("hold", "idempotency_key_reused", 5.0, 0.0, ("hold", "invalid")),
        ("step", "payment_conflict", 0.9, 0.0, ("step", "good")),
        ("step", None, 1.001, 0.0, ("step", "slow")),
        ("live", None, 60.0, 0.0, ("live", "good")),
        ("live", "his_refused", 60.0, 0.0, ("live", "good")),
        ("live", "store_unavailable", 0.1, 0.0, ("live", "failed")),
        ("bulk", None, 60.0, 0.0, ("bulk", "good")),
    ],
)
def test_answer_is_judged_by_its_class_and_its_time(
    request_class: str, code: str | None, took_s: float, wait_s: float, expected: tuple[str, str]
) -> None:
    tally = Tally(lambda _: True, ReleasePhases())
    before = counted()
    status = 200 if code is None else PROBLEMS[code].status
    tally.count(route(RequestClass(request_class)), "GET", status, code, "judged", took_s, wait_s)
    assert risen(before) == [("judged", expected[0], "ordinary", expected[1])]


@pytest.mark.parametrize("request_class", list(RequestClass))
def test_nobody_is_counted_against_us_when_the_caller_has_gone(request_class: RequestClass) -> None:
    assert judge(route(request_class), GONE, None, late=True) == (request_class.value, "gone")


# --- the release ----------------------------------------------------------------------------------------------------

OPENING = dt.datetime.fromisoformat("2031-03-03T07:00:00+08:00")
RELEASING = Hospital(id="hl7-demo", name="A", release=ReleaseRule(time="07:00"), connector={})
UNRULED = Hospital(id="soap-demo", name="B", connector={})


@pytest.mark.parametrize(
    ("after_s", "phase", "opens_after_s"),
    [
        (-60.5, "ordinary", 0),
        (-60, "release", 0),
        (0, "release", 0),
        (299, "release", 0),
        (300, "ordinary", 86_400),
        (86_400 - 60, "release", 86_400),
    ],
)
async def test_release_is_counted_apart_from_a_minute_before_to_five_minutes_after_it(
    after_s: float, phase: str, opens_after_s: float
) -> None:
    now_s = OPENING.timestamp() + after_s
    phases = ReleasePhases([RELEASING, UNRULED], clock=lambda: now_s)
    async with run_portal(phases=phases) as portal:
        before = counted()
        await portal.get(LIST)
        await portal.get(LIST.replace("hl7-demo", "soap-demo"))
    assert risen(before) == [("hl7-demo", "read", phase, "good"), ("soap-demo", "read", "ordinary", "good")]
    assert metric(OPENS, hospital="hl7-demo") == OPENING.timestamp() + opens_after_s
    assert metric(OPENS, hospital="soap-demo") == 0


def test_phase_follows_the_clock_when_it_goes_on_and_when_it_is_set_back() -> None:
    now_s = OPENING.timestamp() - 61
    phases = ReleasePhases([RELEASING], clock=lambda: now_s)
    seen = [phases.is_release("hl7-demo")]
    for now_s in (OPENING.timestamp() - 59, OPENING.timestamp() + 300, OPENING.timestamp() + 100):  # noqa: B007
        seen.append(phases.is_release("hl7-demo"))
    assert seen == [False, True, False, True]


def test_opening_of_24_00_is_the_next_midnight() -> None:
    rule = ReleaseRule(time="24:00", days_ahead=1)
    midnight = dt.datetime.fromisoformat("2031-03-04T00:00:00+08:00")
    for after_s, expected in ((-86_400 + 300, midnight), (0, midnight), (299, midnight)):
        now = midnight + dt.timedelta(seconds=after_s)
        assert release_near(rule, now, RELEASING.zone, lasts_s=300) == expected
    assert release_near(ReleaseRule(), midnight, RELEASING.zone, lasts_s=300) is None


# --- the routes -----------------------------------------------------------------------------------------------------


async def test_every_route_has_the_class_of_what_it_does(store: Store, hospital: Hospital) -> None:
    """A payment that were a read would be turned away with the reads."""
    routes = api_routes(ApiParts(store, {hospital.id: hospital}, NoHis(), Service()).context)
    found: dict[str, set[str]] = {}
    for each in routes:
        name = f"{each.method} {each.path.removeprefix('/v1').removeprefix('/hospitals/{hospital_id}')}"
        found.setdefault(each.request_class.value, set()).add(name)
    assert found == {
        "read": {
            "GET /hospitals", "GET /departments", "GET /practitioners", "GET /slots", "GET /bookings",
            "GET /bookings/{booking_id}", "GET /patients/{patient_id}", "GET /patients/{patient_id}/registrations",
            "GET /patients/{patient_id}/bills/{bill_id}", "GET /refunds/{refund_id}", "GET /open-refunds",
            "GET /unsettled-payments",
            "GET /waiting-room", "GET /waiting-room/tickets/{ticket}",
            "GET /patients/{patient_id}/reports/{report_id}/versions", "GET /waitlist", "GET /waitlist/{entry_id}",
        },
        "live": {
            "GET /patients/{patient_id}/bills", "POST /patients/{patient_id}/bills/{bill_id}/presettlement",
            "GET /patients/{patient_id}/reports",
            "GET /patients/{patient_id}/reports/{report_id}", "GET /patients/{patient_id}/reports/{report_id}/attachments/{n}",
            "GET /patients/{patient_id}/reports/{report_id}/versions/{version}/attachments/{n}",
        },
        "hold": {"POST /bookings", "POST /patients", "POST /waiting-room/tickets"},
        "step": {
            "POST /bookings/{booking_id}/payments", "POST /bookings/{booking_id}/cancel",
            "POST /patients/{patient_id}/bills/{bill_id}/payments", "POST /refunds/{refund_id}/result",
            "POST /patients/{patient_id}/bills/{bill_id}/settlement", "POST /patients/{patient_id}/bill-payments",
            "POST /patients/{patient_id}/bills/{bill_id}/refunds", "POST /bookings/{booking_id}/refunds",
            "DELETE /patients/{patient_id}", "POST /waitlist", "DELETE /waitlist/{entry_id}",
        },
        "bulk": {
            "GET /events", "GET /webhooks", "POST /webhooks", "POST /webhooks/{webhook_id}/resume",
            "DELETE /webhooks/{webhook_id}", "PUT /merchant-bills/{date}", "PUT /merchant-bills/{date}/{source}",
            "GET /reconciliations/{date}",
        },
    }  # fmt: skip
    assert {r.name for r in routes if r.heeds_wait} == {
        "hold", "list", "get", "attachment", "earlier_attachment", "presettle",
    }  # fmt: skip
    assert all(r.request_class in (RequestClass.HOLD, RequestClass.LIVE) for r in routes if r.heeds_wait)
