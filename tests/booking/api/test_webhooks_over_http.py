"""A webhook as its portal resumes it, and what a request that is not understood is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import HOSPITAL

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def site(store: Store, hospital: Hospital) -> AsyncIterator[FhirSite]:
    async with serve_fhir(store, hospital) as site:
        yield site


async def made(site: FhirSite, url: str = "https://portal.example/hook") -> str:
    told = await site.ask("/v1/webhooks", "POST", {"url": url}, headers={**JSON, "Idempotency-Key": '"w1"'})
    assert told.status == 201, told.body
    return str(told.json["id"])


async def test_webhook_is_resumed_when_the_body_says_where_or_is_left_out(site: FhirSite) -> None:
    of = f"/v1/webhooks/{await made(site)}/resume"
    for body, headers in ((None, {}), (None, JSON), ({}, JSON), ({"after": 0}, JSON), ({"after": None}, JSON)):
        told = await site.ask(of, "POST", body, headers=headers)
        assert (told.status, told.json["status"]) == (200, "active"), body


async def test_webhook_is_unknown_when_it_is_another_portals_or_gone(site: FhirSite) -> None:
    webhook_id = await made(site)
    for method, path in (("POST", f"/v1/webhooks/{webhook_id}/resume"), ("DELETE", f"/v1/webhooks/{webhook_id}")):
        assert (await site.ask(path, method, by="another")).json["code"] == "webhook_unknown"
    assert (await site.ask(f"/v1/webhooks/{webhook_id}", "DELETE")).status == 204
    assert (await site.ask(f"/v1/webhooks/{webhook_id}/resume", "POST")).json["code"] == "webhook_unknown"


EXPECTED = [
    ("POST", "/v1/webhooks", {"url": "ftp://portal"}, "a text that begins with http:// or https://"),
    ("POST", "/v1/webhooks", {"url": 7}, "a text, got a whole number"),
    ("POST", "/v1/webhooks/w/resume", {"after": -1}, "a whole number >= 0"),
    ("GET", "/v1/events?after=x", None, "a whole number, got a text"),
    ("GET", "/v1/events?limit=1&limit=2", None, "to be given once"),
    (
        "POST",
        f"/v1/hospitals/{HOSPITAL}/refunds/r/result",
        {"status": "done"},
        "one of refunding, refunded, unknown, failed",
    ),
    ("GET", f"/v1/hospitals/{HOSPITAL}/slots?from=1.12.2026", None, "a valid date, as 2026-01-05"),
]


async def test_field_is_explained_in_words_when_its_value_is_wrong(site: FhirSite) -> None:
    told = [
        await site.ask(path, method, body, headers={**JSON, "Idempotency-Key": '"k1"'})
        for method, path, body, _ in EXPECTED
    ]
    assert [(one.status, one.json["errors"][0]["expected"]) for one in told] == [(422, words) for *_, words in EXPECTED]


async def test_body_is_said_to_be_missing_when_it_is_needed(site: FhirSite) -> None:
    told = await site.ask("/v1/webhooks", "POST", headers={**JSON, "Idempotency-Key": '"k1"'})
    assert (told.status, told.json["code"], told.json["detail"]) == (400, "malformed_json", "The body is empty.")
