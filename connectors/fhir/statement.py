"""What a server says of itself: its CapabilityStatement (FHIR R4 and R5, http.html#capabilities), asked for once and kept.

Servers need not tell: where there is none to be had, the profile is believed. One that tells another version than the
profile reads is not asked anything else: its replies would be misread, or lose fields silently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from connectors.fhir.client import ExchangeError, FhirClient, Reply, ReplyInvalid
from connectors.fhir.deadlines import Deadline
from connectors.fhir.outcomes import error_of_read
from connectors.fhir.releases import Release
from connectors.port import HisReplyInvalid, HisUnavailable

KEEP_S = 3600.0
"""So long a statement is believed."""
AGAIN_AFTER_S = 60.0
"""After an attempt that told nothing, or another version, the server is not asked again for so long."""
_MOST_S = 3.0
_SHARE = 0.25  # of a verb's time: it must be left enough for its own requests
_VERSION = re.compile(r"[0-9A-Za-z.-]{1,20}")
_MAX_NAMED = 10_000


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What of a CapabilityStatement is used here.

    `fhir_version` is None where it says none that could be one. `searched`: the types that can be searched.
    `conditional_create`: the types whose creates honour If-None-Exist. `updates`: the types that can be updated;
    `transactions`: whether the system takes them. `operations`: names without `$`, with their type where they have one:
    `Appointment/hold`, `export`.
    """

    fhir_version: str | None = None
    searched: frozenset[str] = frozenset()
    conditional_create: frozenset[str] = frozenset()
    updates: frozenset[str] = frozenset()
    transactions: bool = False
    operations: frozenset[str] = frozenset()


def read_statement(body: Any) -> Statement:
    """Any JSON; what is of no known shape says nothing."""
    if not isinstance(body, dict) or body.get("resourceType") != "CapabilityStatement":
        return Statement()
    version = body.get("fhirVersion")
    conditional, updates, operations, transactions = set[str](), set[str](), set[str](), False
    searched = set[str]()
    for rest in _dicts(body.get("rest")):
        if rest.get("mode") == "client":
            continue
        operations.update(_names(rest))
        transactions = transactions or "transaction" in _interactions(rest)
        for resource in _dicts(rest.get("resource")):
            kind = str(resource.get("type"))
            if resource.get("conditionalCreate") is True:
                conditional.add(kind)
            if "search-type" in _interactions(resource):
                searched.add(kind)
            if "update" in _interactions(resource):
                updates.add(kind)
            operations.update(f"{kind}/{name}" for name in _names(resource))
    return Statement(
        fhir_version=version if isinstance(version, str) and _VERSION.fullmatch(version) else None,
        searched=frozenset(searched),
        conditional_create=frozenset(conditional),
        updates=frozenset(updates),
        transactions=transactions,
        operations=frozenset(operations),
    )


def _names(holder: dict[str, Any]) -> Iterator[str]:
    for operation in _dicts(holder.get("operation")):
        if isinstance(operation.get("name"), str):
            yield operation["name"].removeprefix("$")


def _interactions(holder: dict[str, Any]) -> set[str]:
    return {str(one.get("code")) for one in _dicts(holder.get("interaction"))}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    for item in value[:_MAX_NAMED] if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield item


class Statements:
    """The statement of one server, for a profile that reads `release`. Asked for by whoever needs it first."""

    def __init__(self, client: FhirClient, release: Release) -> None:
        self._client = client
        self._release = release
        self._turn = asyncio.Lock()
        self._kept: Statement | None = None
        self._ask_at = 0.0

    async def look(self, deadline: Deadline) -> Statement:
        """Ask for it now. Raises HisError: no answer, no CapabilityStatement, or one of another version."""
        try:
            reply = await self._client.read("metadata", deadline=deadline)
        except ReplyInvalid as error:
            raise HisReplyInvalid(str(error)) from error
        except ExchangeError as error:
            raise HisUnavailable(str(error)) from error
        if reply.status != 200:
            raise error_of_read(reply, {})
        statement = self._keep(reply)
        if statement.fhir_version is None:
            raise HisReplyInvalid("[base]/metadata is no CapabilityStatement with a fhirVersion")
        self._refuse_other(statement)
        return statement

    async def known(self, deadline: Deadline) -> Statement | None:
        """The statement, asked for where it is not known yet; None where the server does not tell.

        Takes a small part of the time that is left. Raises HisReplyInvalid for a server of another version.
        """
        now = asyncio.get_running_loop().time
        if now() >= self._ask_at:
            async with self._turn:
                if now() >= self._ask_at:
                    await self._try(Deadline(min(_MOST_S, deadline.left_s() * _SHARE)))
        if self._kept is not None:
            self._refuse_other(self._kept)
        return self._kept

    async def _try(self, deadline: Deadline) -> None:
        try:
            reply = await self._client.read("metadata", deadline=deadline)
        except ExchangeError:
            reply = None
        if reply is not None and reply.status == 200:
            self._keep(reply)
        else:
            self._ask_at = asyncio.get_running_loop().time() + AGAIN_AFTER_S

    def _keep(self, reply: Reply) -> Statement:
        self._kept = statement = read_statement(reply.body)
        wait_s = KEEP_S if self._is_ours(statement) else AGAIN_AFTER_S
        self._ask_at = asyncio.get_running_loop().time() + wait_s
        return statement

    def _is_ours(self, statement: Statement) -> bool:
        return statement.fhir_version is not None and statement.fhir_version.startswith(self._release.versions)

    def _refuse_other(self, statement: Statement) -> None:
        if statement.fhir_version is not None and not self._is_ours(statement):
            raise HisReplyInvalid(
                f"the server says FHIR {statement.fhir_version} and the profile reads {self._release.name}:"
                f" set a profile for that version (fhir_r4, fhir_r5)"
            )
