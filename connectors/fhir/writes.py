"""One write verb in progress: it may take several requests, and ends in exactly one of the port's three outcomes.

A step that cannot go on raises `Ended` with the outcome. What failed before the first write left has changed nothing
at the HIS; from then on only a clear refusal may be told as one.
"""

from __future__ import annotations

from typing import Any, NoReturn
from urllib.parse import urlencode

import msgspec

from connectors.fhir.abilities import Abilities
from connectors.fhir.calls import Call, ParameterMissing, Request, is_identified
from connectors.fhir.client import NotSent, Params, Reply, ReplyInvalid, ReplyLost
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.exchange import Exchange, Versioned
from connectors.fhir.outcomes import is_version_conflict, not_sent, refusal_of_write
from connectors.port import HisError, HisRefused, HisReplyInvalid, Outcome, Rejected, Unknown
from mappings.engine import MappingError


class Ended(Exception):
    """The verb is over, with this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """What a create led to. `existed`: the server had it already (200 to a conditional create); `resource` may be untold."""

    id: str
    existed: bool
    resource: Json | None


class Write:
    """The steps of one write verb, under one deadline."""

    def __init__(self, exchange: Exchange, timeout_s: float) -> None:
        self.exchange = exchange
        self.deadline = Deadline(timeout_s)
        self.wrote = False

    def call(self, name: str) -> Call:
        """A compiled call of the profile. Ends with `not_offered` when the profile has none."""
        call = self.exchange.calls.get(name)
        if call is None:
            raise Ended(Rejected(code="not_offered", text=f"the profile has no {name}"))
        return call

    async def search(self, name: str, request: Request, *, whole: bool = False) -> Document:
        """A search on the way to a write."""
        try:
            return await self.exchange.search(self.call(name), request, self.deadline, whole=whole)
        except HisError as error:
            self._read_failed(error)

    async def read(self, name: str, request: Request) -> Versioned | None:
        """A read on the way to a write, or after it."""
        try:
            return await self.exchange.read(self.call(name), request, self.deadline)
        except HisError as error:
            self._read_failed(error)

    async def map_one(self, name: str, resource: Json) -> Any:
        """The record of one resource, read as the verb `name` reads it."""
        try:
            records = await self.exchange.map_resources(self.call(name), [resource])
        except HisError as error:
            self._read_failed(error)
        if not records:
            self._read_failed(HisReplyInvalid(f"the profile's {name} does not take the resource"))
        return records[0]

    async def create(self, name: str, request: Request, *, several: str = "several") -> Created:
        """POST what the profile's request tree writes, on the condition that the profile names.

        A server that does not declare conditionalCreate is looked at first: it would ignore the condition. More than one that
        fit (412 to If-None-Exist, FHIR R4 http.html#ccreate) end with the code `several`.
        """
        call = self.call(name)
        try:
            context = self.exchange.context()
            body = call.body.write(request, context) if call.body else {}
            condition = call.condition(request, context)
        except (MappingError, ParameterMissing) as error:
            raise Ended(Rejected(code="invalid_request", text=str(error))) from error
        if condition and not (await self.abilities()).creates_conditionally(call.resource):
            if (there := await self._there(call, condition, several)) is not None:
                return there
            condition = []
        reply = await self._send("POST", call.resource, body, urlencode(condition))
        if reply.status == 412:
            raise Ended(Rejected(code=several, text="HTTP 412: several fit the condition"))
        if reply.status not in (200, 201):
            raise Ended(refusal_of_write(reply, call.codes))
        resource = (
            reply.body if isinstance(reply.body, dict) and reply.body.get("resourceType") == call.resource else None
        )
        found = (resource or {}).get("id") or _id_of(reply.location, call.resource)
        if not isinstance(found, str):
            raise Ended(Unknown(reason=f"HTTP {reply.status} without a {call.resource} or its place"))
        return Created(id=found, existed=reply.status == 200, resource=resource)

    async def abilities(self) -> Abilities:
        """What the server declares that it can do."""
        try:
            return await self.exchange.abilities(self.deadline)
        except HisError as error:
            self._read_failed(error)

    async def _there(self, call: Call, condition: Params, several: str) -> Created | None:
        """What fits a condition already, as a server would answer that honours it."""
        try:
            document = await self.exchange.find(call, condition, self.deadline)
        except HisError as error:
            self._read_failed(error)
        # A server may ignore a parameter that it does not know, and answer with everything.
        found = [
            one for entry in document["entry"] if is_identified(one := entry["resource"], call.resource, condition)
        ]
        if len(found) > 1:
            raise Ended(Rejected(code=several, text="several fit the condition"))
        if not found:
            return None
        return Created(id=str(found[0].get("id")), existed=True, resource=found[0])

    async def update(self, name: str, request: Request, current: Versioned) -> Json | None:
        """PUT `current` with the elements that the request tree sets; None when it has changed meanwhile (412, 409).

        Returns the resource as the server now has it, or as it was sent when the server does not say.
        """
        call = self.call(name)
        try:
            changes = call.body.write(request, self.exchange.context()) if call.body else {}
        except MappingError as error:
            raise Ended(Rejected(code="invalid_request", text=str(error))) from error
        body = {**current.resource, **changes}
        reply = await self._send("PUT", f"{call.resource}/{current.resource['id']}", body, current.if_match)
        if current.if_match and is_version_conflict(reply, call.codes):
            return None
        if reply.status not in (200, 201):
            raise Ended(refusal_of_write(reply, call.codes))
        told = reply.body
        return told if isinstance(told, dict) and told.get("resourceType") == call.resource else body

    async def _send(self, method: str, path: str, body: Json, condition: str | None) -> Reply:
        client = self.exchange.client
        try:
            if method == "POST":
                reply = await client.create(path, body, deadline=self.deadline, if_none_exist=condition or "")
            else:
                reply = await client.update(path, body, deadline=self.deadline, if_match=condition)
        except NotSent as error:
            raise Ended(not_sent(error)) from error
        except (ReplyLost, ReplyInvalid) as error:
            raise Ended(Unknown(reason=str(error))) from error
        self.exchange.note(reply, f"{method} {path.partition('/')[0]}")
        self.wrote = self.wrote or reply.status < 300
        return reply

    def _read_failed(self, error: HisError) -> NoReturn:
        if self.wrote:
            raise Ended(Unknown(reason=str(error))) from error
        if isinstance(error, HisRefused):
            raise Ended(Rejected(code=error.code, text=str(error), retryable=error.code == "busy")) from error
        code = "not_sent" if isinstance(error.__cause__, NotSent) else "busy"
        raise Ended(Rejected(code=code, text=f"before anything was written: {error}", retryable=True)) from error


def _id_of(location: str | None, resource_type: str) -> str | None:
    """The id in a Location header: `[base]/Appointment/12/_history/1` (FHIR R4 http.html#create)."""
    parts = (location or "").partition("?")[0].split("/")
    return parts[parts.index(resource_type) + 1] if resource_type in parts[:-1] else None
