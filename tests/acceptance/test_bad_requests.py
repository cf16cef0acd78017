"""What the API answers to requests that are wrong, unauthorised, or about somebody else's things.

Every refusal must be `application/problem+json` with a code that the OpenAPI document lists for that very operation, and
must not repeat anything of a patient.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from yarl import URL

import service
from booking.news import forget_events
from tests.acceptance.installation import (
    HOSPITALS,
    NO_SCOPE_KEY,
    ONE_HOSPITAL_KEY,
    OTHER_KEY,
    Answer,
    Installation,
    made_up_person,
    money,
    postgres_store,
    run_installation,
    until,
)
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_BODY_BYTES = 20_000
OF = "/v1/hospitals/{hospital_id}"
BOOKINGS, PATIENTS = f"{OF}/bookings", f"{OF}/patients"
PERSON = made_up_person(901)


@dataclass(frozen=True)
class Operation:
    """One operation of the OpenAPI document; `path` fills its template with ids that name nothing."""

    method: str
    template: str
    details: dict[str, Any]
    schemas: dict[str, Any]

    @property
    def scopes(self) -> list[str]:
        return [scope for entry in self.details["security"] for scope in entry["apiKey"]]

    @property
    def required(self) -> list[str]:
        """The required fields of the request's body; [] when it has none."""
        if "requestBody" not in self.details:
            return []
        content = self.details["requestBody"]["content"]
        if "application/json" not in content:
            return []
        reference = content["application/json"]["schema"]["$ref"]
        return list(self.schemas[reference.rpartition("/")[2]]["required"])

    @property
    def key(self) -> str | None:
        """A new Idempotency-Key where one is needed."""
        needed = any(p["name"] == "Idempotency-Key" for p in self.details["parameters"])
        return uuid.uuid4().hex if needed else None

    def path(self, hospital_id: str = "soap-demo") -> str:
        ids = {
            "patient_id": "p",
            "booking_id": "b",
            "bill_id": "x",
            "report_id": "r",
            "refund_id": "f",
            "entry_id": "e",
            "n": "1",
            "version": "1",
            "source": "s",
        }
        return self.template.format(hospital_id=hospital_id, date="2026-01-05", webhook_id="w", ticket="t", **ids)


@dataclass(frozen=True)
class Things:
    """What the portal has at soap-demo."""

    patient_id: str
    booking_id: str
    bill_id: str
    report_id: str
    refund_id: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("requests")
    async with run_installation(folder, service_table={"max_body_bytes": MAX_BODY_BYTES}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(site: Installation) -> dict[str, Any]:
    return await site.portal(None).get("/openapi.json")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def things(site: Installation) -> Things:
    """A patient with a cancelled booking whose refund is due, a bill and a report."""
    clinic, portal = site.clinics["soap-demo"], site.portal()
    of = "/v1/hospitals/soap-demo"
    patient_id = await site.patient("soap-demo", PERSON)
    mrn = await clinic.mrn_of(PERSON)
    held = await site.becomes("soap-demo", await site.hold("soap-demo", patient_id=patient_id), payable=True)
    await site.pay("soap-demo", held)
    await site.becomes("soap-demo", held, state="booked")
    await site.cancel("soap-demo", held)
    over = await site.becomes("soap-demo", held, state="cancelled", payment_state="refund_due")
    await clinic.do("/bill", {"mrn": mrn, "items": [{"name": "血常规", "amount_fen": 2500}]})
    await clinic.do("/report", {"mrn": mrn})
    bills = await portal.get(f"{of}/patients/{patient_id}/bills")
    reports = await until(
        lambda: portal.get(f"{of}/patients/{patient_id}/reports"), lambda r: len(r["items"]) == 1, what="the report"
    )
    return Things(patient_id, held["id"], bills["items"][0]["id"], reports["items"][0]["id"], over["refunds"][0]["id"])


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Every operation that needs a key."""
    for template, methods in document["paths"].items():
        for method, details in methods.items():
            if details["security"]:
                yield Operation(method.upper(), template, details, document["components"]["schemas"])


def assert_problem(
    document: dict[str, Any], method: str, template: str, answer: Answer, status: int, code: str
) -> dict[str, Any]:
    """The answer is this problem, the document foresees it there, and it tells nothing of the patient."""
    where = f"{method} {template}: {answer.status} {answer.data!r}"
    assert answer.headers["Content-Type"] == "application/problem+json", where
    body = answer.body
    assert (answer.status, body["status"], body["code"]) == (status, status, code), where
    assert body["type"] == f"/docs/errors#{code}"
    assert body["title_zh"]
    assert body["title"] == body["title_en"]
    assert isinstance(body["retryable"], bool)
    assert body["instance"] == f"urn:hisbridge:request:{answer.headers['X-Request-Id']}"
    foreseen = document["paths"][template][method.lower()]["responses"][str(status)]
    assert code in foreseen["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"], where
    text = answer.data.decode()
    for name in ("name", "id_number", "phone"):
        assert PERSON[name] not in text, where
    return body


# --- who may ask ---------------------------------------------------------------------------------------------------


async def test_every_operation_wants_a_known_key_when_asked(site: Installation, document: dict[str, Any]) -> None:
    asked = 0
    for operation in operations(document):
        for key in (None, "hb_nobody_0000"):
            answer = await site.portal(key).call(operation.method, operation.path(), key=operation.key)
            assert_problem(document, operation.method, operation.template, answer, 401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            asked += 1
    assert asked >= 40


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer  ", "hb_x", "Bearer " + "x" * 600])
async def test_request_is_unauthenticated_when_the_header_is_no_bearer_key(
    site: Installation, document: dict[str, Any], header: str
) -> None:
    answer = await site.portal(None).call("GET", "/v1/hospitals", headers={"Authorization": header})
    assert_problem(document, "GET", "/v1/hospitals", answer, 401, "unauthenticated")


async def test_every_operation_refuses_when_the_scope_is_missing(site: Installation, document: dict[str, Any]) -> None:
    refused = set()
    for operation in operations(document):
        if "booking" in operation.scopes:
            continue
        answer = await site.portal(NO_SCOPE_KEY).call(operation.method, operation.path(), key=operation.key)
        body = assert_problem(document, operation.method, operation.template, answer, 403, "forbidden_scope")
        assert body["extra"]["scopes"] == operation.scopes
        refused.update(operation.scopes)
    assert refused == {"patients", "billing", "reports", "events", "reconciliation"}


async def test_every_operation_refuses_when_the_hospital_is_unknown_or_not_ours(
    site: Installation, document: dict[str, Any]
) -> None:
    asked = 0
    for operation in operations(document):
        if "{hospital_id}" not in operation.template:
            continue
        unknown = await site.portal().call(operation.method, operation.path("no-such"), key=operation.key)
        assert_problem(document, operation.method, operation.template, unknown, 404, "hospital_unknown")
        foreign = await site.portal(ONE_HOSPITAL_KEY).call(
            operation.method, operation.path("hl7-demo"), key=operation.key
        )
        assert_problem(document, operation.method, operation.template, foreign, 403, "forbidden_hospital")
        asked += 1
    assert asked >= 20


async def test_hospitals_are_only_those_of_the_key_when_listed(site: Installation) -> None:
    listed = (await site.portal(ONE_HOSPITAL_KEY).get("/v1/hospitals"))["items"]
    assert [h["id"] for h in listed] == ["soap-demo"]
    assert [h["id"] for h in (await site.portal().get("/v1/hospitals"))["items"]] == list(HOSPITALS)


async def test_address_is_a_problem_when_it_leads_nowhere(site: Installation) -> None:
    for method, path, status, code in (
        ("GET", "/v2/hospitals", 404, "not_found"),
        ("GET", "/v1/hospitals/soap-demo/slots/7", 404, "not_found"),
        ("DELETE", "/v1/hospitals/soap-demo/bookings", 405, "method_not_allowed"),
    ):
        answer = await site.portal().call(method, path)
        assert (answer.status, answer.code) == (status, code)
        assert answer.headers["Content-Type"] == "application/problem+json"


# --- bodies --------------------------------------------------------------------------------------------------------


async def test_every_body_is_refused_when_it_is_wrong(site: Installation, document: dict[str, Any]) -> None:
    asked = 0
    for operation in operations(document):
        if not operation.required:
            continue
        asked += 1
        where = (operation.method, operation.template)
        first = operation.required[0]
        for data, status, code in (
            (f'{{"{first}": "'.encode(), 400, "malformed_json"),
            (b"", 400, "malformed_json"),
            (b"\xff\xfe{}", 400, "malformed_json"),
            (b"[" * 5_000, 422, "invalid_field"),
            (b"[]", 422, "invalid_field"),
            (b"null", 422, "invalid_field"),
            (b"{}", 422, "invalid_field"),
            (f'{{"{first}": {{}}}}'.encode(), 422, "invalid_field"),
            (f'{{"{first}": true}}'.encode(), 422, "invalid_field"),
            (b'{"no_such_field": 1}', 422, "unknown_field"),
        ):
            answer = await site.portal().call(operation.method, operation.path(), data=data, key=operation.key)
            assert_problem(document, *where, answer, status, code)
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=gbk"):
            answer = await site.portal().call(
                operation.method,
                operation.path(),
                data=b"{}",
                key=operation.key,
                headers={"Content-Type": content_type},
            )
            assert_problem(document, *where, answer, 415, "unsupported_media_type")
        if operation.template.endswith("/merchant-bills/{date}"):
            continue  # a day's bill may be large
        large = b'{"x": "' + b"x" * MAX_BODY_BYTES + b'"}'
        answer = await site.portal().call(operation.method, operation.path(), data=large, key=operation.key)
        body = assert_problem(document, *where, answer, 413, "too_large")
        assert body["extra"] == {"max_bytes": MAX_BODY_BYTES}
    assert asked >= 8


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id_number": "110101199003070037"}, "$.id_number"),  # the check character would be 8
        ({"id_number": "11010119900307003"}, "$.id_number"),
        ({"id_number": "110101900307003"}, "$.id_number"),  # of 15 digits: not valid since 2013
        ({"id_type": "library_card"}, "$.id_type"),
        ({"id_type": "birth_certificate"}, "$.id_number"),
        ({"card": {"type": "library", "number": "1"}}, "$.card.type"),
        ({"birth_date": "1990-13-01"}, "$.birth_date"),
        ({"birth_date": "2001-01-01"}, "$.birth_date"),  # the card carries another one
        ({"phone": ""}, "$.phone"),
        ({"sex": "张三丰"}, "$.sex"),
        ({"name": 13800000000}, "$.name"),
        ({"card": {"type": "mrn"}}, "$.card.number"),
    ],
)
async def test_patient_is_refused_with_the_place_when_a_field_is_wrong(
    site: Installation, document: dict[str, Any], change: dict[str, Any], path: str
) -> None:
    person = {**PERSON, **change}
    answer = await site.portal().call("POST", "/v1/hospitals/soap-demo/patients", person, key=uuid.uuid4().hex)
    body = assert_problem(document, "POST", PATIENTS, answer, 422, "invalid_field")
    assert [error["path"] for error in body["errors"]] == [path]
    for value in change.values():
        assert value == "" or str(value) not in answer.data.decode()


async def test_patient_is_rejected_when_the_number_is_known_under_another_name(
    site: Installation, document: dict[str, Any], things: Things
) -> None:
    person = {**PERSON, "name": "欧阳锋"}
    answer = await site.portal(OTHER_KEY).call("POST", "/v1/hospitals/soap-demo/patients", person, key=uuid.uuid4().hex)
    assert_problem(document, "POST", PATIENTS, answer, 409, "patient_rejected")
    assert "欧阳锋" not in answer.data.decode()


@pytest.mark.parametrize(
    ("template", "query"),
    [
        (f"{OF}/slots", {"from": "tomorrow"}),
        (f"{OF}/slots", {"limit": "0"}),
        (f"{OF}/slots", {"from": "2026-01-05", "to": "2026-01-04"}),
        (BOOKINGS, {"limit": "1000"}),
        (f"{BOOKINGS}/{{booking_id}}", {"wait_s": "61"}),
        ("/v1/events", {"after": "-1"}),
    ],
)
async def test_query_is_refused_when_a_value_is_wrong(
    site: Installation, document: dict[str, Any], template: str, query: dict[str, Any]
) -> None:
    path = template.format(hospital_id="soap-demo", booking_id="b")
    answer = await site.portal().call("GET", path, **query)
    body = assert_problem(document, "GET", template, answer, 422, "invalid_field")
    assert body["errors"][0]["path"].removeprefix("?") in query
    unknown = await site.portal().call("GET", path, form="2026-01-05")
    assert_problem(document, "GET", template, unknown, 422, "unknown_field")


async def assert_extremes_are_refused(site: Installation) -> None:
    """Values that are well-formed and that no calendar, number column or text column can hold: refused, never a 500."""
    of, portal = "/v1/hospitals/soap-demo", site.portal()
    booking = await site.hold("soap-demo")
    paid = money(booking["fee_fen"])

    def cursor(*parts: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")

    asked: list[tuple[Answer, int, str]] = []
    for date in ("0001-01-01", "9999-12-31"):
        from_date: dict[str, Any] = {"from": date}
        asked += [
            (await portal.call("GET", f"{of}/slots", **from_date), 422, "invalid_field"),
            (await portal.call("GET", f"{of}/slots", to=date), 422, "invalid_field"),
            (await portal.call("PUT", f"{of}/merchant-bills/{date}", {"lines": []}), 422, "invalid_field"),
            (await portal.call("GET", f"{of}/reconciliations/{date}"), 422, "invalid_field"),
        ]
    for instant in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        body = {**paid, "paid_at": instant}
        asked.append((await portal.call("POST", f"{of}/bookings/{booking['id']}/payments", body), 422, "invalid_field"))
    for after in (2**63, 10**40):
        asked.append((await portal.call("GET", "/v1/events", after=after), 422, "invalid_field"))
    for parts in ((2**63, "x"), (-(10**30), "x"), (1, "\0")):
        asked.append((await portal.call("GET", f"{of}/slots", cursor=cursor(*parts)), 422, "cursor_invalid"))
    hold = {"user_ref": "u", "slot_id": booking["slot_id"], "patient_id": booking["patient_id"]}
    asked += [
        (await portal.call("POST", f"{of}/bookings", {**hold, "user_ref": "\0"}, key="nul"), 422, "invalid_field"),
        (await portal.call("POST", f"{of}/patients", {**PERSON, "name": "张\0"}, key="nul"), 422, "invalid_field"),
        (await portal.call("POST", f"{of}/patients", {**PERSON, "name": "  "}, key="blank"), 422, "invalid_field"),
        (await portal.call("GET", f"{of}/bookings", user_ref="\0"), 422, "invalid_field"),
        (await portal.call("GET", URL(f"{of}/bookings/%00", encoded=True)), 404, "not_found"),
    ]
    assert [(answer.status, answer.code) for answer, _, _ in asked] == [(status, code) for _, status, code in asked]
    escaped = await portal.call("POST", f"{of}/bookings", {**hold, "user_ref": "a\\u0000"}, key="backslash")
    assert escaped.code == "duplicate_booking"  # a backslash and five letters are no U+0000


async def test_extreme_values_are_refused_when_the_store_is_sqlite(site: Installation) -> None:
    await assert_extremes_are_refused(site)


async def test_extreme_values_are_refused_when_the_store_is_postgresql(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with postgres_store(postgres_server) as store, run_installation(tmp_path, store=store) as running:
        await assert_extremes_are_refused(running)


# --- somebody else's things ----------------------------------------------------------------------------------------


async def test_everything_is_unknown_when_it_belongs_to_another_client(
    site: Installation, document: dict[str, Any], things: Things
) -> None:
    """And it is answered as if there were nothing: word for word like an id that never was."""
    patient, bill = f"{PATIENTS}/{{patient_id}}", f"{PATIENTS}/{{patient_id}}/bills/{{bill_id}}"
    report, booking = f"{PATIENTS}/{{patient_id}}/reports/{{report_id}}", f"{BOOKINGS}/{{booking_id}}"
    refund = f"{OF}/refunds/{{refund_id}}"
    owned = {name: getattr(things, name) for name in Things.__dataclass_fields__}
    none = {name: str(n) * len(value) for n, (name, value) in enumerate(owned.items())}
    for method, template, body, code in (
        ("GET", patient, None, "patient_unknown"),
        ("GET", f"{patient}/registrations", None, "patient_unknown"),
        ("GET", f"{patient}/bills", None, "patient_unknown"),
        ("GET", bill, None, "patient_unknown"),
        ("POST", f"{bill}/payments", money(2500), "patient_unknown"),
        ("GET", f"{patient}/reports", None, "patient_unknown"),
        ("GET", report, None, "patient_unknown"),
        ("GET", f"{report}/attachments/{{n}}", None, "patient_unknown"),
        ("GET", booking, None, "booking_unknown"),
        ("POST", f"{booking}/payments", money(700), "booking_unknown"),
        ("POST", f"{booking}/cancel", {"reason": "not mine"}, "booking_unknown"),
        ("GET", refund, None, "refund_unknown"),
        ("POST", f"{refund}/result", {"status": "refunded"}, "refund_unknown"),
    ):
        told = []
        for ids in (owned, none):
            path = template.format(hospital_id="soap-demo", n=1, **ids)
            answer = await site.portal(OTHER_KEY).call(method, path, body)
            problem = assert_problem(document, method, template, answer, 404, code)
            for name, value in ids.items():
                problem["detail"] = problem.get("detail", "").replace(value, name)
            told.append({name: value for name, value in problem.items() if name != "instance"})
        assert told[0] == told[1]


async def test_bill_and_report_are_unknown_when_asked_for_under_another_patient(
    site: Installation, document: dict[str, Any], things: Things
) -> None:
    other = await site.patient("soap-demo", key=OTHER_KEY)
    for template, code in (
        (f"{PATIENTS}/{{patient_id}}/bills/{{bill_id}}", "bill_unknown"),
        (f"{PATIENTS}/{{patient_id}}/reports/{{report_id}}", "report_unknown"),
    ):
        path = template.format(
            hospital_id="soap-demo", patient_id=other, bill_id=things.bill_id, report_id=things.report_id
        )
        assert_problem(document, "GET", template, await site.portal(OTHER_KEY).call("GET", path), 404, code)


async def test_hold_finds_nothing_when_patient_or_slot_are_of_another_client_or_hospital(
    site: Installation, document: dict[str, Any], things: Things
) -> None:
    slot = (await site.open_slots("soap-demo"))[0]["id"]
    elsewhere = (await site.open_slots("fhir-demo"))[0]["id"]
    mine = await site.patient("soap-demo", key=OTHER_KEY)
    for slot_id, patient_id, code in (
        (slot, things.patient_id, "patient_unknown"),
        (elsewhere, mine, "slot_unknown"),
        ("sl_nothing", mine, "slot_unknown"),
    ):
        body = {"user_ref": "user", "slot_id": slot_id, "patient_id": patient_id}
        path = BOOKINGS.format(hospital_id="soap-demo")
        answer = await site.portal(OTHER_KEY).call("POST", path, body, key=uuid.uuid4().hex)
        assert_problem(document, "POST", BOOKINGS, answer, 404, code)


async def test_hold_is_refused_with_the_price_when_another_one_was_shown(
    site: Installation, document: dict[str, Any]
) -> None:
    slot = (await site.open_slots("soap-demo"))[0]
    patient_id = await site.patient("soap-demo")
    body = {"user_ref": "user", "slot_id": slot["id"], "patient_id": patient_id, "fee_fen": slot["fee_fen"] + 1}
    path = BOOKINGS.format(hospital_id="soap-demo")
    answer = await site.portal().call("POST", path, body, key=uuid.uuid4().hex)
    problem = assert_problem(document, "POST", BOOKINGS, answer, 409, "price_changed")
    assert problem["extra"] == {"fee_fen": slot["fee_fen"]}
    booked = await site.portal().post(path, {**body, "fee_fen": slot["fee_fen"]})
    again = await site.portal().call("POST", path, {**body, "fee_fen": slot["fee_fen"]}, key=uuid.uuid4().hex)
    assert booked["fee_fen"] == slot["fee_fen"]
    assert_problem(document, "POST", BOOKINGS, again, 409, "duplicate_booking")


# --- keys of idempotency -------------------------------------------------------------------------------------------


async def test_first_answer_is_repeated_when_a_key_comes_again(site: Installation, document: dict[str, Any]) -> None:
    path = BOOKINGS.format(hospital_id="fhir-demo")
    patient_id, key = await site.patient("fhir-demo"), uuid.uuid4().hex
    slot = max(await site.open_slots("fhir-demo"), key=lambda s: int(s["remaining"]))
    body = {"user_ref": "user", "slot_id": slot["id"], "patient_id": patient_id}

    nowhere = await site.portal().call("POST", path, {**body, "slot_id": "sl_nothing"}, key=key)
    assert_problem(document, "POST", BOOKINGS, nowhere, 404, "slot_unknown")  # a refusal does not bind the key

    answers = await asyncio.gather(*(site.portal().call("POST", path, body, key=key) for _ in range(5)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.data for answer in answers}) == 1
    first = answers[0].body
    await site.becomes("fhir-demo", first, his_state="locked")
    late = await site.portal().call("POST", path, body, key=key)
    assert (late.status, late.data) == (201, answers[0].data)

    for other in ({**body, "user_ref": "somebody"}, {**body, "fee_fen": 1}):
        reused = await site.portal().call("POST", path, other, key=key)
        assert_problem(document, "POST", BOOKINGS, reused, 422, "idempotency_key_reused")
    mine = await site.portal(OTHER_KEY).call("POST", path, body, key=key)
    assert_problem(document, "POST", BOOKINGS, mine, 404, "patient_unknown")  # another client's keys are its own
    assert len(await site.clinics["fhir-demo"].visits(first["order_no"])) == 1


async def test_same_patient_is_answered_when_a_key_comes_again(site: Installation) -> None:
    person, key, path = made_up_person(), uuid.uuid4().hex, PATIENTS.format(hospital_id="hl7-demo")
    first = await site.portal().call("POST", path, person, key=key)
    again = await site.portal().call("POST", path, person, key=key)
    assert (first.status, again.status, again.data) == (201, 201, first.data)
    unkeyed = await site.portal().call("POST", path, person, key=uuid.uuid4().hex)
    assert unkeyed.body["id"] == first.body["id"]


async def test_every_creating_post_wants_a_key_when_asked(site: Installation, document: dict[str, Any]) -> None:
    created = [operation for operation in operations(document) if operation.key is not None]
    assert {operation.template for operation in created} >= {BOOKINGS, PATIENTS, "/v1/webhooks"}
    for operation in created:
        for key, code in ((None, "missing"), ("", "missing"), ("two words", "invalid"), ("x" * 201, "invalid")):
            answer = await site.portal().call(operation.method, operation.path(), data=b"{}", key=key)
            assert_problem(document, operation.method, operation.template, answer, 400, f"idempotency_key_{code}")


# --- cursors -------------------------------------------------------------------------------------------------------


async def test_list_is_refused_when_the_cursor_is_not_ours(site: Installation, document: dict[str, Any]) -> None:
    slots, bookings = f"{OF}/slots", BOOKINGS
    page = await site.portal().get(slots.format(hospital_id="soap-demo"), limit=1)
    for template, cursor in (
        (slots, "garbage!"),
        (slots, "张"),
        (slots, "WyJhIl0"),  # ["a"]: a cursor of another list
        (bookings, "e30"),  # {}
        (bookings, page["next"]),
    ):
        answer = await site.portal().call("GET", template.format(hospital_id="soap-demo"), cursor=cursor)
        assert_problem(document, "GET", template, answer, 422, "cursor_invalid")


async def test_every_item_comes_once_when_a_list_is_read_by_pages(site: Installation) -> None:
    whole = [s["id"] for s in (await site.portal().get("/v1/hospitals/soap-demo/slots"))["items"]]
    assert len(whole) == 32
    paged: list[str] = []
    query: dict[str, Any] = {"limit": 5}
    while True:
        page = await site.portal().get("/v1/hospitals/soap-demo/slots", **query)
        paged += [s["id"] for s in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert paged == whole


async def test_feed_says_gone_when_the_cursor_is_older_than_what_is_kept(
    site: Installation, document: dict[str, Any], things: Things
) -> None:
    """Thirty-one days later: the events are dated back, and what the service does every ten minutes is done."""
    feed = await site.portal().get("/v1/events")
    oldest = feed["items"][0]["seq"]
    async with service.open_store(service.read_settings(site.config)) as store:
        async with store.write("#test") as tx:
            await tx.run(text("update events set created_ms = created_ms - 31 * 86400000 where seq is not null"))
        assert await forget_events(store) > 0
    expired = await site.portal().call("GET", "/v1/events", after=oldest)
    assert_problem(document, "GET", "/v1/events", expired, 410, "cursor_expired")
    fresh = await site.portal().call("GET", "/v1/events", after=0)
    assert fresh.status == 200
    # A cursor from a database that was restored from a backup since: silence for ever would be worse than an error.
    ahead = await site.portal().call("GET", "/v1/events", after=feed["next"] + 1_000_000)
    assert_problem(document, "GET", "/v1/events", ahead, 410, "cursor_expired")


async def test_body_is_refused_when_it_is_not_packed_as_said_or_holds_control_characters(
    site: Installation, document: dict[str, Any]
) -> None:
    of = "/v1/hospitals/soap-demo/patients"
    packed = await site.portal().call("POST", of, {}, key="packed", headers={"Content-Encoding": "gzip"})
    assert (packed.status, packed.code) == (400, "malformed_json")
    for name in ("张\r伟", "张伟\n", "\x1b[31m张伟"):
        answer = await site.portal().call("POST", of, made_up_person() | {"name": name}, key="control")
        assert_problem(document, "POST", "/v1/hospitals/{hospital_id}/patients", answer, 422, "invalid_field")
