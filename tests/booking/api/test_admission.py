"""What is let in: rates of clients and of patients, places of classes and of clients, and how the answers tell of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from booking.api.application import ApiOptions
from booking.api.classes import RequestClass
from booking.api.places import Places, Shares
from booking.api.rates import RatePolicy, Rates
from tests.booking.api.portal import BOOKINGS, LIVE, NEWS, Portal, run_portal
from tests.booking.api.raw import metric, until_metric

LIST = f"{BOOKINGS}?from=2026-01-05"
AT_ONCE = pytest.mark.parametrize("at_once", [False, True], ids=["tasks", "at-once"])
LIMITED, SHED = "hisbridge_rate_limited_total", "hisbridge_shed_total"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


async def ask(portal: Portal, key: str = "demo-portal-key") -> tuple[int, dict[str, str], dict[str, Any]]:
    async with portal.session.get(LIST, headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status, dict(response.headers), await response.json(content_type=None)


async def hold(portal: Portal, key: str = "demo-portal-key", **body: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k1"}
    async with portal.session.post(BOOKINGS, json={"slot_id": "s1", **body}, headers=headers) as response:
        return response.status, dict(response.headers), await response.json(content_type=None)


@AT_ONCE
async def test_answers_tell_what_is_left_when_a_client_has_a_rate(at_once: bool) -> None:
    """A bucket of 4 that gets 2 a second: t is the time until it is full, and at the end until one request fits."""
    clock = Clock()
    options = ApiOptions(client_rate_per_s=2, client_burst=4)
    before = metric(LIMITED, scope="client", request_class="read")
    async with run_portal(options, at_once=at_once, clock=clock) as portal:
        answers = [await ask(portal) for _ in range(5)]
        assert [status for status, _, _ in answers] == [200, 200, 200, 200, 429]
        assert {fields["RateLimit-Policy"] for _, fields, _ in answers} == {'"client";q=4;w=2'}
        assert [fields["RateLimit"] for _, fields, _ in answers] == [
            '"client";r=3;t=1',
            '"client";r=2;t=1',
            '"client";r=1;t=2',
            '"client";r=0;t=2',
            '"client";r=0;t=1',
        ]
        _, fields, problem = answers[-1]
        assert (fields["Retry-After"], problem["code"], problem["retryable"]) == ("1", "rate_limited", True)
        assert problem["extra"] == {"scope": "client", "rate_per_s": 2.0, "burst": 4}
        assert metric(LIMITED, scope="client", request_class="read") == before + 1
        assert (await ask(portal, "hb_other_x"))[0] == 200  # a bucket of its own
        clock.now_s += 0.5
        assert [(await ask(portal))[0] for _ in range(2)] == [200, 429]


async def test_answer_says_nothing_of_rates_when_none_is_set(portal: Portal) -> None:
    _, fields, _ = await ask(portal)
    assert "RateLimit" not in fields
    assert "RateLimit-Policy" not in fields


@AT_ONCE
async def test_one_person_is_slowed_and_others_are_not_when_only_one_asks_much(at_once: bool) -> None:
    """A bucket of 2 that gets 1 in 2 s, for each user and each patient of a client. A repeat of a key counts too."""
    options = ApiOptions(identity_rate_per_s=0.5, identity_burst=2)
    before = metric(LIMITED, scope="identity", request_class="hold")
    async with run_portal(options, at_once=at_once, clock=Clock()) as portal:
        for left in ('"identity";r=1;t=2', '"identity";r=0;t=4'):
            status, fields, _ = await hold(portal)
            assert (status, fields["RateLimit-Policy"], fields["RateLimit"]) == (201, '"identity";q=2;w=4', left)
        status, fields, problem = await hold(portal)
        assert (status, fields["Retry-After"], fields["RateLimit"]) == (429, "2", '"identity";r=0;t=2')
        assert problem["extra"] == {"scope": "identity", "by": "user_ref", "rate_per_s": 0.5, "burst": 2}
        assert (await hold(portal, user_ref="u2"))[2]["extra"]["by"] == "patient_id"
        assert (await hold(portal, user_ref="u2", patient_id="p2"))[0] == 201
        assert (await hold(portal, "hb_other_x"))[0] == 201  # another client's u1 and p1 are other people
        assert (await ask(portal))[0] == 200  # reading is not limited by person
    assert metric(LIMITED, scope="identity", request_class="hold") == before + 2


async def test_answer_tells_of_both_limits_when_a_request_falls_under_both() -> None:
    options = ApiOptions(client_rate_per_s=10, client_burst=100, identity_rate_per_s=1, identity_burst=5)
    async with run_portal(options, clock=Clock()) as portal:
        _, fields, _ = await hold(portal)
    assert fields["RateLimit-Policy"] == '"client";q=100;w=10, "identity";q=5;w=5'
    assert fields["RateLimit"] == '"client";r=99;t=1, "identity";r=4;t=1'


def test_memory_is_bounded_and_who_came_last_is_remembered_when_many_come() -> None:
    rates = Rates(RatePolicy("identity", 0.001, 2), most=3, clock=Clock())
    for other in range(10):
        rates.take("often")
        rates.take(other)
    assert len(rates) == 3
    assert not rates.take("often").granted


# --- places ---------------------------------------------------------------------------------------------------------

READ, HIS, HOLD, STEP, BULK = (RequestClass(name) for name in ("read", "live", "hold", "step", "bulk"))
TWENTY = Shares(max_in_flight=20)  # 1 place for steps alone, 4 more for holds, at most 5 for live and 2 for bulk


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        ({}, {}),
        ({HIS: 5}, {HIS: "live_in_flight"}),
        ({BULK: 2}, {BULK: "bulk_in_flight"}),
        ({READ: 14}, {}),
        ({READ: 15}, {READ: "in_flight", HIS: "in_flight", BULK: "in_flight"}),
        ({READ: 9, HIS: 4, BULK: 2}, {READ: "in_flight", HIS: "in_flight", BULK: "in_flight"}),
        ({READ: 15, HOLD: 3}, {READ: "in_flight", HIS: "in_flight", BULK: "in_flight"}),
        ({READ: 15, HOLD: 4}, {READ: "in_flight", HIS: "in_flight", BULK: "in_flight", HOLD: "in_flight"}),
        ({HOLD: 19}, {READ: "in_flight", HIS: "in_flight", BULK: "in_flight", HOLD: "in_flight"}),
        ({READ: 15, HOLD: 4, STEP: 1}, dict.fromkeys((READ, HIS, BULK, HOLD, STEP), "in_flight")),
    ],
)
def test_places_are_kept_for_what_matters_more(
    taken: dict[RequestClass, int], refused: dict[RequestClass, str]
) -> None:
    places = Places(TWENTY)
    for request_class, count in taken.items():
        for _ in range(count):
            assert places.refuses(request_class) is None
            places.enter(request_class)
    assert {c: why for c in RequestClass if (why := places.refuses(c)) is not None} == refused
    for request_class, count in taken.items():
        for _ in range(count):
            places.leave(request_class)
    assert places.count == 0
    assert not any(places.refuses(c) for c in RequestClass)


@AT_ONCE
async def test_one_client_leaves_places_to_others_when_it_takes_all_it_can(at_once: bool) -> None:
    before = metric(SHED, request_class="hold", reason="client_in_flight")
    async with run_portal(ApiOptions(max_in_flight=5, client_share=0.4), at_once=at_once) as portal:
        await ask(portal)
        slow = [asyncio.create_task(hold(portal, slot_id="slow")) for _ in range(2)]
        await until_metric("hisbridge_http_requests_in_flight", 2)
        status, fields, problem = await hold(portal)
        assert (status, problem["code"], 1 <= int(fields["Retry-After"]) <= 3) == (503, "overloaded", True)
        assert (await hold(portal, "hb_other_x"))[0] == 201
        portal.release.set()
        assert [(await task)[0] for task in slow] == [201, 201]
        assert (await hold(portal))[0] == 201
        assert metric("hisbridge_http_requests_in_flight") == 0
    assert metric(SHED, request_class="hold", reason="client_in_flight") == before + 1


@AT_ONCE
async def test_request_costs_nothing_of_the_clients_rate_when_it_is_shed(at_once: bool) -> None:
    """A bucket of 3: two are being answered, one is shed, and the third fits when it comes again."""
    options = ApiOptions(max_in_flight=5, client_share=0.4, client_rate_per_s=0.1, client_burst=3)
    async with run_portal(options, at_once=at_once, clock=Clock()) as portal:
        slow = [asyncio.create_task(hold(portal, slot_id="slow")) for _ in range(2)]
        await until_metric("hisbridge_http_requests_in_flight", 2)
        assert (await hold(portal))[0] == 503
        portal.release.set()
        assert [(await task)[0] for task in slow] == [201, 201]
        assert [(await hold(portal))[0] for _ in range(2)] == [201, 429]
        assert metric("hisbridge_http_requests_in_flight") == 0


@AT_ONCE
async def test_step_is_answered_when_holds_of_its_own_client_fill_the_clients_share(at_once: bool) -> None:
    """Most installations have one portal, whose holds of 07:00 must not keep its payments out."""
    before = metric(SHED, request_class="step", reason="client_in_flight")
    async with run_portal(ApiOptions(max_in_flight=20, client_share=0.4), at_once=at_once) as portal:
        await ask(portal)
        slow = [asyncio.create_task(hold(portal, slot_id="slow")) for _ in range(8)]
        await until_metric("hisbridge_http_requests_in_flight", 8)
        assert (await hold(portal))[0] == 503
        async with portal.session.delete("/v1/hospitals/hl7-demo/x") as response:
            assert response.status == 204
        portal.release.set()
        assert [(await task)[0] for task in slow] == [201] * 8
        assert (await hold(portal))[0] == 201
        assert metric("hisbridge_http_requests_in_flight") == 0
    assert metric(SHED, request_class="step", reason="client_in_flight") == before


@AT_ONCE
async def test_step_is_answered_when_reads_of_its_own_client_have_used_up_the_clients_rate(at_once: bool) -> None:
    """Whoever has money to report must not wait until the reads of others under the same key are over."""
    async with run_portal(ApiOptions(client_rate_per_s=1, client_burst=2), at_once=at_once, clock=Clock()) as portal:
        assert [(await ask(portal))[0] for _ in range(3)] == [200, 200, 429]
        async with portal.session.delete("/v1/hospitals/hl7-demo/x") as response:
            assert response.status == 204
            assert response.headers["RateLimit"] == '"client";r=0;t=1'
        assert (await hold(portal))[0] == 429


@AT_ONCE
async def test_slow_hospital_fills_only_its_share_when_its_reads_pile_up(at_once: bool) -> None:
    before = metric(SHED, request_class="live", reason="live_in_flight")
    async with run_portal(ApiOptions(max_in_flight=8), at_once=at_once) as portal:  # a quarter of them for live reads
        waiting = [asyncio.create_task(portal.session.get(LIVE)) for _ in range(2)]
        await until_metric("hisbridge_http_requests_in_flight", 2)
        async with portal.session.get(LIVE) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (503, "overloaded")
        assert (await ask(portal))[0] == 200
        assert (await hold(portal))[0] == 201
        portal.release.set()
        assert [(await task).status for task in waiting] == [204, 204]
    assert metric(SHED, request_class="live", reason="live_in_flight") == before + 1


async def test_those_who_wait_for_news_take_no_place_from_others_and_have_a_bound_of_their_own() -> None:
    before = metric(SHED, request_class="live", reason="waiting")
    async with run_portal(ApiOptions(max_in_flight=1, max_waiting=3, client_share=1)) as portal:
        waiting = [asyncio.create_task(portal.session.get(NEWS)) for _ in range(3)]
        await until_metric("hisbridge_http_requests_in_flight", 3)
        assert (await ask(portal))[0] == 200
        async with portal.session.get(NEWS) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (503, "overloaded")
        portal.release.set()
        assert [(await task).status for task in waiting] == [204] * 3
        assert metric("hisbridge_http_requests_in_flight") == 0
    assert metric(SHED, request_class="live", reason="waiting") == before + 1
