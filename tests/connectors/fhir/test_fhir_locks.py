"""Locks against servers that answer transactions and operations oddly: what the port says, and which Slots are touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from connectors.port import Accepted, Outcome, Rejected, Unknown
from tests.connectors.fhir.fhir_hospital import canned, connected, fhir_json
from tests.connectors.fhir.test_fhir_odd_servers import appointment
from tests.connectors.fhir.test_fhir_replies import ORDER, bundle, outcome, slot

INTERACTIONS = [{"code": "update"}]
STATEMENT = {
    "resourceType": "CapabilityStatement",
    "fhirVersion": "4.0.1",
    "rest": [
        {
            "mode": "server",
            "interaction": [{"code": "transaction"}],
            "operation": [{"name": "hold"}, {"name": "book"}],
            "resource": [{"type": kind, "interaction": INTERACTIONS} for kind in ("Slot", "Appointment")],
        }
    ],
}


def answered(*statuses: str, kind: str = "transaction-response") -> web.Response:
    """An answer to PUT Slot and POST Appointment."""
    places = ("Slot/x1/_history/2", "Appointment/a1/_history/1")
    entries = [
        {"response": {"status": status, "location": place, "etag": 'W/"2"'}}
        for status, place in zip(statuses, places, strict=False)
    ]
    return fhir_json(json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}))


class Server:
    """Slots x1 and x2 as they are told, and canned answers to transactions and operations, the last again and again."""

    def __init__(
        self, *answers: web.Response, statuses: tuple[str, ...] = ("free",), version: str | None = "1"
    ) -> None:
        self.answers = list(answers)
        self.statuses = list(statuses)
        self.version = version
        self.sent: list[Any] = []
        self.freed: list[Any] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.sent.append(await request.json())
            reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return web.Response(status=reply.status, body=reply.body, content_type="application/fhir+json")
        if request.method == "PUT":
            self.freed.append((request.path.rpartition("/")[2], (await request.json())["status"]))
            return fhir_json(json.dumps(await request.json()))
        if "/Slot/" not in request.path:
            return bundle()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        meta = {"meta": {"versionId": self.version}} if self.version else {}
        return fhir_json(json.dumps(slot(request.path.rpartition("/")[2], status=status, **meta)))


async def lock(server: Server, profile: str = "fhir_lock@1", statement: Any = STATEMENT) -> Outcome:
    async with (
        canned(server.answer, statement=statement) as base_url,
        connected(base_url, profile=profile) as connector,
    ):
        return await connector.lock_slot(ORDER)


async def test_lock_is_one_transaction_over_slot_and_appointment() -> None:
    server = Server(answered("200 OK", "201 Created"))
    assert await lock(server) == Accepted(his_refs={"appointment": "a1", "slot": "Slot/x1"})
    [sent] = server.sent
    assert sent["type"] == "transaction"
    changed, made = sent["entry"]
    assert changed["request"] == {"method": "PUT", "url": "Slot/x1", "ifMatch": 'W/"1"'}
    assert changed["resource"]["status"] == "busy-tentative"
    assert made["request"]["method"] == "POST"
    assert made["request"]["ifNoneExist"] == f"identifier=urn%3Ahisbridge%3Aorder-no%7C{ORDER.order_no}"
    assert (made["resource"]["status"], made["resource"]["slot"]) == ("pending", [{"reference": "Slot/x1"}])
    assert made["fullUrl"].startswith("urn:uuid:")


@pytest.mark.parametrize(
    "reply",
    [
        answered("200 OK", "201 Created", kind="batch-response"),
        answered("200 OK"),
        answered("200 OK", "409 Conflict"),
        answered("200 OK", "what"),
        fhir_json('{"resourceType": "Bundle", "type": "transaction-response", "entry": [null, 7]}'),
        fhir_json("[]"),
        fhir_json(json.dumps(outcome("error", "exception")), 500),
    ],
)
async def test_lock_is_in_doubt_when_the_answer_does_not_say_that_all_was_done(reply: web.Response) -> None:
    server = Server(reply)
    assert isinstance(await lock(server), Unknown)
    assert len(server.sent) == 1


async def test_slot_that_was_taken_for_nothing_is_given_back_when_the_appointment_was_there() -> None:
    server = Server(answered("200 OK", "200 OK"), statuses=("free", "busy-tentative"))
    result = await lock(server)
    assert isinstance(result, Rejected)
    assert result.code == "already_exists"
    assert server.freed == []  # version 1 is not the one of our transaction: somebody has it
    server = Server(answered("200 OK", "200 OK"))
    server.answers[0].body = server.answers[0].body.replace(b'W/\\"2\\"', b'W/\\"1\\"')  # type: ignore[union-attr]
    assert isinstance(await lock(server), Rejected)
    assert server.freed == [("x1", "free")]


@pytest.mark.parametrize(("statuses", "transactions"), [(("free", "busy"), 1), (("busy",), 0), (("free",), 3)])
async def test_lock_goes_on_after_a_conflict_only_while_the_slot_is_free(
    statuses: tuple[str, ...], transactions: int
) -> None:
    server = Server(fhir_json(json.dumps(outcome("error", "conflict")), 412), statuses=statuses)
    result = await lock(server)
    assert isinstance(result, Rejected)
    assert (result.code, result.retryable) == (("busy", True) if transactions == 3 else ("full", False))
    assert len(server.sent) == transactions


async def test_nothing_is_locked_at_a_server_that_tells_no_versions() -> None:
    server = Server(answered("200 OK", "201 Created"), version=None)
    result = await lock(server)
    assert isinstance(result, Rejected)
    assert (result.code, server.sent) == ("not_offered", [])


@pytest.mark.parametrize("profile", ["fhir_lock@1", "fhir_ihe@1"])
async def test_lock_waits_when_it_cannot_be_known_what_the_server_has(profile: str) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503) if request.path.endswith("metadata") else bundle()

    async with canned(away, statement=None) as base_url, connected(base_url, profile=profile) as connector:
        result = await connector.lock_slot(ORDER)
    assert isinstance(result, Rejected)
    assert (result.code, result.retryable) == ("busy", True)


# --- $hold ----------------------------------------------------------------------------------------------------------------

HELD = {**appointment(), "identifier": []}


@pytest.mark.parametrize("reply", [fhir_json(json.dumps({**HELD, "id": "a1"})), bundle(HELD)])
async def test_hold_is_an_appointment_alone_or_in_a_bundle(reply: web.Response) -> None:
    server = Server(reply)
    result = await lock(server, "fhir_ihe@1")
    assert isinstance(result, Accepted), result
    assert (result.his_refs["appointment"], result.his_refs["slot"]) == ("a1", "Slot/x1")
    [sent] = server.sent
    assert sent["parameter"] == [
        {"name": "appointment-reference", "valueReference": {"reference": "Appointment/x1"}},
    ]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (bundle(outcome("fatal", "not-found")), "full"),
        (fhir_json(json.dumps(outcome("fatal", "not-found")), 404), "full"),
        (bundle({**HELD, "status": "cancelled"}), "full"),
        (bundle(outcome("error", "business-rule")), "refused"),
        (bundle(outcome("error", "exception")), None),
        (bundle(HELD, {**HELD, "id": "a2"}), None),
        (bundle({**HELD, "status": "proposed"}), None),
        (bundle(), None),
        (fhir_json("{}"), None),
    ],
)
async def test_hold_is_refused_or_in_doubt_as_the_operation_outcome_says(reply: web.Response, code: str | None) -> None:
    result = await lock(Server(reply), "fhir_ihe@1")
    if code is None:
        assert isinstance(result, Unknown), result
    else:
        assert isinstance(result, Rejected), result
        assert result.code == code
