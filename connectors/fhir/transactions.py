"""Several changes in one: FHIR transactions (R4 and R5, http.html#transaction), as Bundles out and answers in.

Pure. All entries are carried out or none is; a server that answers a batch instead has not promised that, and is told apart.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from connectors.fhir.documents import Json


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `path` is a type to create, or `type/id` to update. `if_none_exist` is a query as in a URL."""

    path: str
    body: Json
    if_match: str | None = None
    if_none_exist: str = ""

    @property
    def creates(self) -> bool:
        """Whether it is a POST."""
        return "/" not in self.path


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry. `resource` is None where the server does not return it."""

    status: int
    id: str | None = None
    etag: str | None = None
    resource: Json | None = None


def transaction_of(steps: Sequence[Step]) -> Json:
    """The Bundle of these steps."""
    return {"resourceType": "Bundle", "type": "transaction", "entry": [_entry(step) for step in steps]}


def _entry(step: Step) -> Json:
    request: Json = {"method": "POST" if step.creates else "PUT", "url": step.path}
    if step.if_match:
        request["ifMatch"] = step.if_match
    if step.if_none_exist:
        request["ifNoneExist"] = step.if_none_exist
    address = {"fullUrl": f"urn:uuid:{uuid.uuid4()}"} if step.creates else {}
    return {**address, "resource": step.body, "request": request}


def answers_of(body: Any, steps: Sequence[Step]) -> list[Answer] | None:
    """An answer for each step, in their order; None for what does not say that all of them were carried out."""
    if not isinstance(body, dict) or body.get("type") != "transaction-response":
        return None
    entries = body.get("entry")
    if not isinstance(entries, list) or len(entries) != len(steps):
        return None
    answers = [_answer(entry, step) for entry, step in zip(entries, steps, strict=True)]
    return [one for one in answers if one is not None] if all(one and one.status < 300 for one in answers) else None


def _answer(entry: Any, step: Step) -> Answer | None:
    response = entry.get("response") if isinstance(entry, dict) else None
    if not isinstance(response, dict) or not str(response.get("status", ""))[:3].isdigit():
        return None
    kind = step.path.partition("/")[0]
    resource = entry.get("resource")
    if not isinstance(resource, dict) or resource.get("resourceType") != kind:
        resource = None
    own = (resource or {}).get("id") or id_in(response.get("location"), kind)
    etag = response.get("etag")
    return Answer(
        status=int(str(response["status"])[:3]),
        id=own if isinstance(own, str) else None,
        etag=etag if isinstance(etag, str) else None,
        resource=resource,
    )


def id_in(location: Any, resource_type: str) -> str | None:
    """The id in a location: `[base]/Appointment/12/_history/1` (http.html#create)."""
    parts = str(location or "").partition("?")[0].split("/")
    return parts[parts.index(resource_type) + 1] if resource_type in parts[:-1] else None
