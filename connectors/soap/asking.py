"""How a verb of the port is carried: which calls it takes, in which order, and what becomes of their answers.

Nothing here knows what a verb means; that is the connector's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import msgspec
import structlog
from lxml import etree

from connectors.port import (
    Accepted,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    NotOffered,
    Outcome,
    Rejected,
    Unknown,
    Verb,
    Window,
)
from connectors.soap.client import Lost, NotSent
from connectors.soap.errors import HttpFailed, Refused, RequestInvalid, Unreadable
from connectors.soap.exchange import Exchange
from connectors.soap.outcome import accepted, cleaned, not_offered, outcome_of
from connectors.soap.rules import UNKNOWN
from connectors.soap.verbs import Case, CompiledVerb, Per
from connectors.together import together
from mappings.canonical import Department, Schedule
from mappings.context import MapContext, MappingError

log = structlog.get_logger(__name__)

T = TypeVar("T")

OFF_LOOP_ELEMENTS = 1_000
"""A reply of more elements is mapped in a thread: 50 schedules have as many, and cost about 4 ms."""

_COUNT = etree.XPath("count(descendant::*)")


class Asking:
    """Asks one HIS.

    `ready` gives the exchange, or raises NotSent; `at_once`: calls at a time within one read that needs several.
    """

    def __init__(
        self,
        verbs: Mapping[str, CompiledVerb],
        *,
        hospital_id: str,
        connector: str,
        at_once: int,
        ready: Callable[[], Exchange],
        context: Callable[[], MapContext],
        timeout_s: Callable[[Verb], float],
    ) -> None:
        self._verbs, self._hospital_id, self._at_once = verbs, hospital_id, at_once
        self._ready, self._context, self._timeout_s = ready, context, timeout_s
        self._log = log.bind(hospital=hospital_id, connector=connector)

    def where(self, verb: Verb) -> dict[str, str]:
        """What an error says of its place."""
        return {"hospital_id": self._hospital_id, "verb": verb.value}

    # writes ------------------------------------------------------------------------------------------------------

    async def write(self, verb: Verb, request: Any) -> Outcome:
        """One write, and the call before it that the profile may want. Never raises for what the HIS or the network did."""
        compiled = self._verbs.get(verb.value)
        case = compiled.case_for(request) if compiled is not None else None
        if case is None:
            return not_offered(verb)
        if case.first is None:
            return await self._write_once(verb, case, request)
        before = await self._write_once(verb, case.first.case, request)
        if isinstance(before, Unknown) and case.first.asks:
            return Rejected(code="not_sent", text=f"the call before it failed: {before.reason}", retryable=True)
        if isinstance(before, Unknown) or (isinstance(before, Rejected) and before.code not in case.first.passes):
            return before
        refs = before.his_refs if isinstance(before, Accepted) else {}
        if refs and hasattr(request, "his_refs"):
            request = msgspec.structs.replace(request, his_refs=request.his_refs | refs)
        outcome = await self._write_once(verb, case, request)
        if isinstance(outcome, Accepted):
            return msgspec.structs.replace(outcome, his_refs=refs | outcome.his_refs)
        return outcome

    async def _write_once(self, verb: Verb, case: Case, request: Any) -> Outcome:
        try:
            root = await self._exchange_for(case, verb, request)
        except (NotSent, Lost, Refused, RequestInvalid, Unreadable, HttpFailed, MappingError) as error:
            return outcome_of(error, request)
        return accepted(case, root, self._context())

    # reads -------------------------------------------------------------------------------------------------------

    async def fetch_one(self, verb: Verb, request: Any, record: type[T]) -> T | None:
        """The first record of a read, None if there is none. Raises HisError."""
        found = await self.fetch(verb, request, record)
        return found[0] if found else None

    async def fetch(self, verb: Verb, request: Any, record: type[T], schedules: Sequence[Schedule] = ()) -> list[T]:
        """All records of a read, over all the calls that the profile's `per` asks for. Raises HisError."""
        compiled = self._offered(verb)
        if compiled.per is None:
            return await self._fetch_once(verb, compiled, request, record)
        requests = await self._requests_per(compiled.per, request, schedules)
        fetched = await self._all([partial(self._fetch_once, verb, compiled, each, record) for each in requests])
        return [one for found in fetched for one in found]

    async def _requests_per(self, per: Per, request: Any, schedules: Sequence[Schedule]) -> list[Any]:
        window = msgspec.structs.asdict(request) if isinstance(request, Window) else {}
        if per is Per.SCHEDULES:
            return [window | {"schedule": schedule} for schedule in schedules]
        if isinstance(request, Window) and request.department_id is not None:
            return [request]
        departments = {
            department.id: department for department in await self.fetch(Verb.FETCH_DEPARTMENTS, {}, Department)
        }
        return [window | {"department_id": key, "department": value} for key, value in departments.items()]

    async def _fetch_once(self, verb: Verb, compiled: CompiledVerb, request: Any, record: type[T]) -> list[T]:
        calls = compiled.calls_for(request)
        if not calls or calls[0].reply is None:
            raise NotOffered(f"{verb} is not offered for this", **self.where(verb))
        found: list[T] = []
        for case in calls:
            found += await self._told(verb, compiled, case, request, record)
            if found and compiled.until_found:
                break
        then = compiled.then
        if then is None:
            return found

        async def completed(one: T) -> T:
            more = await self._ask_case(verb, then.case, {"record": one, "request": request})
            parts = await self._mapped(verb, compiled, then.case, more, object) if more is not None else []
            return msgspec.structs.replace(one, **{then.into: tuple(parts)})  # type: ignore[type-var]

        return await self._all([partial(completed, one) for one in found])

    async def _told(self, verb: Verb, compiled: CompiledVerb, case: Case, request: Any, record: type[T]) -> list[T]:
        """The records of one call, or of as many as the profile's `pages` need. Raises HisError: half a list is none."""
        pages = compiled.pages
        if pages is None:
            root = await self._ask_case(verb, case, request)
            return await self._mapped(verb, compiled, case, root, record) if root is not None else []
        found: list[T] = []
        before: list[bytes] = []
        for number in range(1, pages.most + 1):
            page = {"page.number": number, "page.offset": (number - 1) * pages.size, "page.size": pages.size}
            root = await self._ask_case(verb, case, request, page)
            if root is None:
                return found
            rows = [_bytes_of(row) for row in pages.rows(root, root)]
            if len(rows) > pages.size or (rows and rows == before):
                raise HisReplyInvalid(f"page {number} is no page of {pages.size} rows of its own", **self.where(verb))
            records = await self._mapped(verb, compiled, case, root, record)
            if records and not rows:
                raise HisReplyInvalid("pages.rows finds none of the rows that have records", **self.where(verb))
            found += records
            if len(rows) < pages.size:
                return found
            before = rows
        raise HisReplyInvalid(f"more than {pages.most} pages", **self.where(verb))

    async def ask(self, verb: Verb, request: Any) -> None:
        """One call of which nothing but its success matters. Raises HisError."""
        case = self._offered(verb).case_for(request)
        if case is None:
            raise NotOffered(f"{verb} is not offered", **self.where(verb))
        await self._ask_case(verb, case, request)

    async def _ask_case(
        self, verb: Verb, case: Case, request: Any, extra: dict[str, Any] | None = None
    ) -> etree._Element | None:
        """One read call; None where the HIS says that there is nothing. Raises HisError."""
        where = self.where(verb)
        try:
            return await self._exchange_for(case, verb, request, extra)
        except Refused as error:
            refusal = error.refusal
            if refusal.code == "not_found":
                return None
            text = cleaned(refusal.text, request)
            if refusal.code == UNKNOWN:
                raise HisReplyInvalid(text, said=text, **where) from None
            raise HisRefused(text, code=refusal.code, said=text, **where) from None
        except (NotSent, Lost) as error:
            raise HisUnavailable(str(error), **where) from error
        except HttpFailed as error:
            kind = HisUnavailable if error.status >= 500 or error.status in (408, 429) else HisReplyInvalid
            raise kind(str(error), **where) from error
        except Unreadable as error:
            raise HisReplyInvalid(str(error), **where) from error
        except (RequestInvalid, MappingError) as error:
            raise HisRefused(str(error), code="invalid_request", **where) from error

    async def _exchange_for(
        self, case: Case, verb: Verb, request: Any, extra: dict[str, Any] | None = None
    ) -> etree._Element:
        exchange = self._ready()
        ctx = self._context()
        if extra:
            ctx = msgspec.structs.replace(ctx, extra=extra)
        return await exchange.ask(verb, case, request, ctx, timeout_s=self._timeout_s(verb))

    async def _mapped(
        self, verb: Verb, compiled: CompiledVerb, case: Case, root: etree._Element, record: type[T]
    ) -> list[T]:
        if case.reply is None:
            return []
        if _elements_in(root) > OFF_LOOP_ELEMENTS:
            mapped = await asyncio.to_thread(case.reply.read_aside, root, self._context())
        else:
            mapped = case.reply.read(root, self._context())
        if mapped.problems:
            first = str(mapped.problems[0])
            self._log.warning("records_unmapped", verb=verb.value, count=len(mapped.problems), first=first)
            if not compiled.keep_partial or not mapped.records:
                raise HisReplyInvalid(f"{len(mapped.problems)} records cannot be mapped: {first}", **self.where(verb))
        return [one for one in mapped.records if isinstance(one, record)]

    async def _all(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        return await together(calls, at_once=self._at_once)

    def _offered(self, verb: Verb) -> CompiledVerb:
        compiled = self._verbs.get(verb.value)
        if compiled is None:
            raise NotOffered(f"{verb} is not offered by this HIS", **self.where(verb))
        return compiled


def _elements_in(root: etree._Element) -> int:
    return int(cast(float, _COUNT(root)))


def _bytes_of(row: Any) -> bytes:
    return row.encode() if isinstance(row, str) else etree.tostring(row)
