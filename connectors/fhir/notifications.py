"""Reading what a FHIR server's Subscription sends. Pure: bytes in, a Notification out.

- R4 rest-hook (R4 subscription.html#channels): an empty POST or PUT, or the resource itself: only a cue to read.
- Subscriptions R5 Backport 1.0/1.1 for R4: a Bundle of type `history`, first entry a Parameters
  (StructureDefinition backport-subscription-status-r4).
- R4B (Backport) a Bundle of type `history`, R5 (subscription-notification) one of type `subscription-notification`; first entry a
  SubscriptionStatus.

Of a notification only names and numbers are taken: what has become of a resource is read from the server.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec

from connectors.fhir.documents import Json, decode_json, without_history

MOST_FOCUS = 10_000
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9\-.]{1,64}")  # R4 datatypes.html#id; `..` would be another address
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_BUNDLES = ("history", "subscription-notification", "searchset", "collection")


class NotNotified(ValueError):
    """These bytes are no notification. The text quotes nothing of them."""


class Told(StrEnum):
    """What a notification is (R5 subscription-notification-type), and `cue`, the empty one of R4."""

    CUE = "cue"
    HANDSHAKE = "handshake"
    HEARTBEAT = "heartbeat"
    EVENT = "event-notification"
    STATUS = "query-status"
    QUERY = "query-event"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One notification. `since_start` is eventsSinceSubscriptionStart; `numbers` are those of its events, `focus` the references
    that it names, as they stand there. `subscription`: its id, "" where none is told; `status` of it likewise.
    """

    told: Told
    subscription: str = ""
    status: str = ""
    since_start: int | None = None
    numbers: tuple[int, ...] = ()
    focus: tuple[str, ...] = ()


def read_notification(body: bytes) -> Notification:
    """Raises NotNotified."""
    if not body.strip():
        return Notification(told=Told.CUE)
    resource = _decoded(body)
    if resource.get("resourceType") != "Bundle":
        return _resource_alone(resource)
    if resource.get("type") not in _BUNDLES:
        raise NotNotified("a Bundle that is no notification")
    entries = [entry for entry in _list(resource.get("entry")) if isinstance(entry, dict)]
    first = entries[0].get("resource") if entries else None
    kind = first.get("resourceType") if isinstance(first, dict) else None
    if isinstance(first, dict) and kind == "Parameters":
        return _status(_parameters(first), entries[1:])
    if isinstance(first, dict) and kind == "SubscriptionStatus":
        return _status(first, entries[1:])
    raise NotNotified("a Bundle whose first entry is neither Parameters nor SubscriptionStatus")


def _decoded(body: bytes) -> Json:
    try:
        found = decode_json(body.decode("utf-8-sig"))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        raise NotNotified("no JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("resourceType"), str):
        raise NotNotified("no FHIR resource")
    return found


def _resource_alone(resource: Json) -> Notification:
    """R4: "the server sends the resource itself, as in an update"."""
    kind, own = resource["resourceType"], resource.get("id")
    if not _TYPE.fullmatch(kind) or not isinstance(own, str) or not _ID.fullmatch(own):
        raise NotNotified("a resource without an id")
    return Notification(told=Told.CUE, focus=(f"{kind}/{own}",))


def _parameters(resource: Json) -> Json:
    """The Parameters of the R4 backport as a SubscriptionStatus has them."""
    found: Json = {}
    events: list[Json] = []
    for one in _list(resource.get("parameter")):
        if not isinstance(one, dict):
            continue
        match one.get("name"):
            case "subscription":
                found["subscription"] = one.get("valueReference")
            case "status" | "type" as name:
                found[name] = one.get("valueCode")
            case "events-since-subscription-start":
                found["eventsSinceSubscriptionStart"] = _value(one)
            case "notification-event":
                events.append(_event(one))
    return found | {"notificationEvent": events}


def _event(parameter: Json) -> Json:
    parts = {str(one.get("name")): one for one in _list(parameter.get("part")) if isinstance(one, dict)}
    number, focus = parts.get("event-number"), parts.get("focus")
    return {
        "eventNumber": None if number is None else _value(number),
        "focus": None if focus is None else focus.get("valueReference"),
    }


def _value(parameter: Json) -> Any:
    """`valueString` in Backport 1.0, `valueInteger64` and others elsewhere."""
    return next((value for name, value in parameter.items() if name.startswith("value")), None)


def _status(status: Json, entries: list[Json]) -> Notification:
    try:
        told = Told(str(status.get("type")))
    except ValueError:
        raise NotNotified("a notification of no type") from None
    events = [one for one in _list(status.get("notificationEvent")) if isinstance(one, dict)]
    focus = [_reference(one.get("focus")) for one in events]
    # With full-resource a server may leave the focus out, and with `empty` there is neither.
    named = [one for one in focus if one] or [_place(entry) for entry in entries]
    numbers = [number for one in events if (number := _number(one.get("eventNumber"))) is not None]
    return Notification(
        told=told,
        subscription=_reference(status.get("subscription")).rpartition("/")[2][:64],
        status=str(status.get("status") or "")[:40],
        since_start=_number(status.get("eventsSinceSubscriptionStart")),
        numbers=tuple(sorted(set(numbers[:MOST_FOCUS]))),
        focus=tuple(dict.fromkeys(one for one in named[:MOST_FOCUS] if one)),
    )


def _reference(value: Any) -> str:
    reference = value.get("reference") if isinstance(value, dict) else None
    return without_history(reference) if isinstance(reference, str) else ""


def _place(entry: Json) -> str:
    resource = entry.get("resource")
    if isinstance(resource, dict) and isinstance(resource.get("id"), str):
        return f"{resource.get('resourceType')}/{resource['id']}"
    told = entry.get("fullUrl")
    return without_history(told) if isinstance(told, str) else ""


def _number(value: Any) -> int | None:
    """An integer64, which JSON carries as a string (R5 json.html#primitive); a number is read too."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)
    return int(text) if _NUMBER.fullmatch(text) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def name_in(reference: str, base_url: str) -> str | None:
    """`Type/id` of a reference to this server, absolute or relative; None for any other."""
    base = base_url.rstrip("/") + "/"
    text = reference.removeprefix(base) if reference.startswith(base) else reference
    kind, _, own = text.partition("/")
    return text if _TYPE.fullmatch(kind) and _ID.fullmatch(own) else None
