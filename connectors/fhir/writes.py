"""One write verb in progress: it may take several requests, and ends in exactly one of the port's three outcomes.

A step that cannot go on raises `Ended` with the outcome. What failed before the first write left has changed nothing
at the HIS; from then on only a clear refusal may be told as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import urlencode

import msgspec

from connectors.fhir.abilities import Abilities
from connectors.fhir.calls import Call, ParameterMissing, Request, is_identified
from connectors.fhir.client import NotSent, Reply, ReplyInvalid, ReplyLost
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.exchange import Exchange, Versioned
from connectors.fhir.operations import appointments_of, failure_of
from connectors.fhir.outcomes import is_version_conflict, not_sent, refusal_of_write
from connectors.fhir.transactions import Answer, Step, answers_of, id_in, transaction_of
from connectors.port import HisError, HisRefused, HisReplyInvalid, Outcome, Rejected, Unknown
from mappings.engine import MapContext, MappingError


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

    async def create(
        self, name: str, request: Request, *, several: str = "several", reference: str | None = None
    ) -> Created:
        """POST what the profile's request tree writes, on the condition that the profile names.

        A server that does not declare conditionalCreate is looked at first: it would ignore the condition; so is one that
        creates by an operation (of `reference`). More than one that fit (412 to If-None-Exist, FHIR R4 http.html#ccreate) end
        with the code `several`.
        """
        call = self.call(name)
        step = self.creation(name, request)
        conditional = bool(step.if_none_exist)
        if conditional and (call.operation or not (await self.abilities()).creates_conditionally(call.resource)):
            if (there := await self.look_first(name, request, several)) is not None:
                return there
            conditional = False
        if call.operation:
            made = await self.operate(name, request, reference=reference)
            return Created(id=str(made.get("id")), existed=False, resource=made)
        reply = await self._send("POST", call.resource, step.body, step.if_none_exist if conditional else "")
        if reply.status == 412:
            raise Ended(Rejected(code=several, text="HTTP 412: several fit the condition"))
        if reply.status not in (200, 201):
            raise Ended(refusal_of_write(reply, call.codes, call.issue_types))
        resource = (
            reply.body if isinstance(reply.body, dict) and reply.body.get("resourceType") == call.resource else None
        )
        found = (resource or {}).get("id") or id_in(reply.location, call.resource)
        if not isinstance(found, str):
            raise Ended(Unknown(reason=f"HTTP {reply.status} without a {call.resource} or its place"))
        # Without a condition a 200 is a careless 201.
        return Created(id=found, existed=conditional and reply.status == 200, resource=resource)

    async def abilities(self) -> Abilities:
        """What the server declares that it can do."""
        try:
            return await self.exchange.abilities(self.deadline)
        except HisError as error:
            self._read_failed(error)

    async def look_first(self, name: str, request: Request, several: str = "several") -> Created | None:
        """What fits a create's condition already, as a server would answer that honours it."""
        call = self.call(name)
        try:
            condition = call.condition(request, self.exchange.context())
            document = await self.exchange.find(call, condition, self.deadline)
        except (MappingError, ParameterMissing) as error:
            raise Ended(Rejected(code="invalid_request", text=str(error))) from error
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

    def creation(self, name: str, request: Request) -> Step:
        """The POST of what the profile's request tree writes."""
        call = self.call(name)
        try:
            context = self.exchange.context()
            condition = urlencode(call.condition(request, context))
            return Step(path=call.resource, body=self._body(call, request, context), if_none_exist=condition)
        except (MappingError, ParameterMissing) as error:
            raise Ended(Rejected(code="invalid_request", text=str(error))) from error

    def change(self, name: str, request: Request, current: Versioned) -> Step:
        """The PUT of `current` with the elements that the profile's request tree sets, while it has the version that was read."""
        call = self.call(name)
        try:
            changes = self._body(call, request, self.exchange.context())
        except MappingError as error:
            raise Ended(Rejected(code="invalid_request", text=str(error))) from error
        path = f"{call.resource}/{current.resource['id']}"
        return Step(path=path, body={**current.resource, **changes}, if_match=current.if_match)

    async def update(self, name: str, request: Request, current: Versioned) -> Json | None:
        """PUT a change; None when the resource has changed meanwhile (412, 409).

        Returns the resource as the server now has it, or as it was sent when the server does not say.
        """
        call, step = self.call(name), self.change(name, request, current)
        reply = await self._send("PUT", step.path, step.body, step.if_match)
        if step.if_match and is_version_conflict(reply, call.codes):
            return None
        if reply.status not in (200, 201):
            raise Ended(refusal_of_write(reply, call.codes, call.issue_types))
        told = reply.body
        return told if isinstance(told, dict) and told.get("resourceType") == call.resource else step.body

    async def transact(self, name: str, steps: Sequence[Step]) -> list[Answer] | None:
        """Carry the steps out, all or none; None when one of their resources has changed meanwhile.

        Refusals are read as those of `name`.
        """
        reply = await self._send("POST", "", transaction_of(steps), None)
        call = self.call(name)
        if is_version_conflict(reply, call.codes):
            return None
        if reply.status not in (200, 201):
            raise Ended(refusal_of_write(reply, call.codes, call.issue_types))
        answers = answers_of(reply.body, steps)
        if answers is None:
            raise Ended(Unknown(reason="the answer does not say that the whole transaction was carried out"))
        return answers

    async def operate(self, name: str, request: Request, *, reference: str | None, current: Json | None = None) -> Json:
        """POST to the operation of `name`; the Appointment that it answers.

        `reference`, the id of the Appointment that is meant, is what the profile reads as `his_refs.reference`. Where `current`
        is given, the parameter `appointment-resource` is it, with the elements that the profile sets.
        """
        call = self.call(name)
        body = self._parameters(call, request, reference, current)
        abilities = await self.abilities()
        if not abilities.operates(call.resource, call.operation):
            raise Ended(abilities.lacks(f"{call.resource}/${call.operation}"))
        reply = await self._send("POST", f"{call.resource}/${call.operation}", body, None)
        failure = failure_of(reply)
        if failure is not None or reply.status not in (200, 201):
            raise Ended(refusal_of_write(failure or reply, call.codes, call.issue_types))
        found = appointments_of(reply.body)
        if len(found) != 1 or not isinstance(found[0].get("id"), str):
            raise Ended(Unknown(reason=f"${call.operation} was answered without one Appointment"))
        return found[0]

    async def ask(self, name: str, request: Request) -> Any:
        """What an operation answers that changes nothing."""
        call = self.call(name)
        body = self._parameters(call, request, None, None)
        path = f"{call.resource}/${call.operation}"
        try:
            return (await self.exchange.ask(call, path, body, self.deadline)).body
        except HisError as error:
            self._read_failed(error)

    def _parameters(self, call: Call, request: Request, reference: str | None, current: Json | None) -> Json:
        refs = getattr(request, "his_refs", {})
        meant = {**refs, "reference": reference} if reference else refs
        fields = {name: getattr(request, name) for name in getattr(request, "__struct_fields__", ())}
        try:
            body = self._body(call, {**fields, "his_refs": meant}, self.exchange.context())
        except MappingError as error:
            raise Ended(Rejected(code="invalid_request", text=str(error))) from error
        for parameter in body.get("parameter", ()) if current is not None else ():
            if parameter.get("name") == "appointment-resource":
                parameter["resource"] = {**(current or {}), **parameter["resource"]}
        return body

    @staticmethod
    def _body(call: Call, request: Request, context: MapContext) -> Json:
        return call.body.write(request, context) if call.body else {}

    async def _send(self, method: str, path: str, body: Json, condition: str | None) -> Reply:
        client = self.exchange.client
        try:
            if not path:
                reply = await client.transact(body, deadline=self.deadline)
            elif method == "POST":
                reply = await client.create(path, body, deadline=self.deadline, if_none_exist=condition or "")
            else:
                reply = await client.update(path, body, deadline=self.deadline, if_match=condition)
        except NotSent as error:
            raise Ended(not_sent(error)) from error
        except (ReplyLost, ReplyInvalid) as error:
            raise Ended(Unknown(reason=str(error))) from error
        self.exchange.note(reply, f"{method} {path.partition('/')[0] or 'transaction'}")
        self.wrote = self.wrote or reply.status < 300
        return reply

    def _read_failed(self, error: HisError) -> NoReturn:
        if self.wrote:
            raise Ended(Unknown(reason=str(error))) from error
        if isinstance(error, HisRefused):
            raise Ended(Rejected(code=error.code, text=str(error), retryable=error.code == "busy")) from error
        code = "not_sent" if isinstance(error.__cause__, NotSent) else "busy"
        raise Ended(Rejected(code=code, text=f"before anything was written: {error}", retryable=True)) from error
