"""What notifications say: examples of the specifications, and bytes that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.fhir.notifications import Notification, NotNotified, Told, name_in, read_notification
from connectors.fhir.numbering import Numbering
from tests.connectors.fhir.told.sent import backport, r5

BASE = "https://his.example/fhir"


def test_empty_body_is_a_cue() -> None:
    for body in (b"", b"  \r\n"):
        assert read_notification(body) == Notification(told=Told.CUE)


def test_resource_alone_is_a_cue_to_read_it() -> None:
    told = read_notification(b'{"resourceType": "Appointment", "id": "a-1.2", "status": "cancelled"}')
    assert told == Notification(told=Told.CUE, focus=("Appointment/a-1.2",))


@pytest.mark.parametrize("make", [backport, r5], ids=["R4 backport", "R5"])
@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "event-notification", "query-status"])
def test_status_is_read_alike_when_it_is_written_by_either_release(make: Any, kind: str) -> None:
    events = [(2, "Appointment/a1"), (3, f"{BASE}/Appointment/a2/_history/4")] if kind == "event-notification" else []
    told = read_notification(make(kind, since_start=3, events=events, subscription="sub1"))
    assert told == Notification(
        told=Told(kind),
        subscription="sub1",
        status="active",
        since_start=3,
        numbers=(2, 3) if events else (),
        focus=("Appointment/a1", f"{BASE}/Appointment/a2") if events else (),
    )


def test_resources_are_named_by_the_entries_when_events_name_none() -> None:
    body = json.loads(r5("event-notification", since_start=1, events=[(1, None)]))
    body["entry"].append({"fullUrl": f"{BASE}/Appointment/a9", "resource": {"resourceType": "Appointment", "id": "a9"}})
    body["entry"].append({"fullUrl": f"{BASE}/Appointment/a10/_history/2"})
    assert read_notification(json.dumps(body).encode()).focus == ("Appointment/a9", f"{BASE}/Appointment/a10")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe", b"<html>", b"7", b"[]", b'"x"', b"{}", b'{"resourceType": 7}', b'{"resourceType": "Bundle"}',
        b'{"resourceType": "Appointment"}', b'{"resourceType": "Appointment", "id": "../../x"}',
        b'{"resourceType": "../x", "id": "1"}', b'{"resourceType": "Bundle", "type": "history"}',
        b'{"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Appointment"}}]}',
        b'{"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Parameters"}}]}',
        b'{"resourceType": "Bundle", "type": "transaction", "entry": []}', b"[" * 100_000,
        b'{"resourceType": "Appointment", "id": "a", "x": 1e99999999999999999999}',
        b'{"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "SubscriptionStatus"}}]}',
    ],
)  # fmt: skip
def test_bytes_are_refused_when_they_are_no_notification(body: bytes) -> None:
    with pytest.raises(NotNotified):
        read_notification(body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["resourceType", "type", "entry", "resource", "parameter", "name", "part", "valueReference", "reference", "focus",
         "notificationEvent", "eventNumber", "subscription", "status", "id", "fullUrl", "eventsSinceSubscriptionStart"]
    ), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


def test_event_is_read_when_its_parts_have_odd_names() -> None:
    odd = {"name": "notification-event", "part": [{"name": ["focus"]}, {"name": {}}, {"name": None}]}
    status = [{"name": "type", "valueCode": "event-notification"}, odd]
    entry = {"resource": {"resourceType": "Parameters", "parameter": status}}
    body = {"resourceType": "Bundle", "type": "history", "entry": [entry]}
    assert read_notification(json.dumps(body).encode()) == Notification(told=Told.EVENT)


@given(_json, st.sampled_from(["Parameters", "SubscriptionStatus"]), _json)
@settings(deadline=None)
def test_any_json_is_read_or_refused(status: Any, kind: str, rest: Any) -> None:
    first = {**(status if isinstance(status, dict) else {"x": status}), "resourceType": kind}
    body = {"resourceType": "Bundle", "type": "history", "entry": [{"resource": first}, rest]}
    try:
        told = read_notification(json.dumps(body).encode())
    except NotNotified:
        return
    assert all(number >= 0 for number in told.numbers)
    for one in told.focus:
        name_in(one, BASE)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("Appointment/1", "Appointment/1"),
        (f"{BASE}/Appointment/1", "Appointment/1"),
        ("https://evil.example/fhir/Appointment/1", None),
        (f"{BASE}evil/Appointment/1", None),
        ("Appointment/../Patient", None),
        ("Appointment/..", None),
        ("Appointment/.", None),
        ("Appointment/1?_id=2", None),
        ("Appointment/1,2", None),
        ("Appointment/1/2", None),
        ("urn:uuid:1", None),
        ("", None),
    ],
)
def test_only_resources_of_this_server_are_named(reference: str, name: str | None) -> None:
    assert name_in(reference, BASE) == name


# --- numbers ---------------------------------------------------------------------------------------------------------


def event(*numbers: int, since: int | None = None, of: str = "s") -> Notification:
    return Notification(told=Told.EVENT, subscription=of, since_start=since, numbers=numbers)


def beat(since: int | None) -> Notification:
    return Notification(told=Told.HEARTBEAT, subscription="s", since_start=since)


@pytest.mark.parametrize(
    ("told", "missed"),
    [
        ([event(1, since=1), event(2, since=2)], [False, False]),
        ([event(1, since=1), event(3, since=3)], [False, True]),
        ([event(1), event(3), event(4)], [False, True, False]),
        ([event(1), event(2, 3, 4)], [False, False]),
        ([event(1), event(2, 4)], [False, True]),
        ([event(1), event(1)], [False, False]),
        ([event(7), beat(7)], [False, False]),
        ([event(7), beat(9)], [False, True]),
        ([beat(9), event(10)], [False, False]),
        ([event(7), beat(0)], [False, True]),
        ([event(7), beat(None), event(8)], [False, False, False]),
        ([event(7), event(1, of="other"), event(8)], [False, False, False]),
        ([event(1), event(10**17)], [False, True]),
    ],
)
def test_missing_number_is_seen_when_later_ones_come(told: list[Notification], missed: list[bool]) -> None:
    numbering = Numbering()
    assert [numbering.missed(one) for one in told] == missed


def test_nothing_grows_when_subscriptions_are_made_up() -> None:
    numbering = Numbering()
    for number in range(1000):
        numbering.missed(event(1, of=str(number)))
    assert len(numbering._newest) <= 64
