"""What has changed at the server: asked for by `_lastUpdated`, or by name where somebody says so.

Each look reaches back behind the newest change seen before, by `changes_overlap_s`: what was committed late has an old time, and
the clocks of a server's machines differ. What was seen in the same version is not handed on again; after a restart the handler
knows it. One look runs at a time.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from time import monotonic
from urllib.parse import parse_qsl

from connectors.fhir.calls import Call
from connectors.fhir.client import ExchangeError
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json, decode_json
from connectors.fhir.exchange import Exchange
from connectors.fhir.news import KINDS, News, instant_of, name_of, version_of
from connectors.port import HisError, HisReplyInvalid, HisUnavailable, Inbound, InboundHandler, Refused
from mappings.profile import Profile
from monitoring.logs import get_logger
from monitoring.metrics import register_message_types

log = get_logger(__name__)

MOST_SEEN = 50_000
FIRST_SWEEP_S, SWEEP_AGAIN_S, SWEEP_EVERY_S = 600.0, 3_600.0, 86_400.0
FEW = 20  # so many deletions at once are believed whatever share they are
LEAST_SLICE, LONGEST_SLICE = dt.timedelta(minutes=1), dt.timedelta(days=1)
SEARCH_TIMEOUT_S = 60.0
IDS_AT_ONCE = 20
NOT_STORED = "a change could not be stored"


class Changes:
    """The changes of one server. `watched`: types and the query that each is searched by, as in `{"Appointment": ""}`."""

    def __init__(
        self, exchange: Exchange, news: News, watched: Mapping[str, str], *, overlap_s: float, lookback_s: float
    ) -> None:
        """`lookback_s`: how far the first look reaches back: what happened while we were away."""
        self._exchange, self._news = exchange, news
        self._watched = dict(watched)
        self._overlap, self._lookback = dt.timedelta(seconds=overlap_s), dt.timedelta(seconds=lookback_s)
        self._newest: dict[str, dt.datetime] = {}
        self._slice = LONGEST_SLICE
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._turn = asyncio.Lock()
        self._swept: set[str] = set()
        self._sweep_at = monotonic() + FIRST_SWEEP_S
        self.handler: InboundHandler | None = None

    def watches(self, kind: str) -> bool:
        """Whether resources of this type are asked for."""
        return kind in self._watched

    async def look(self) -> int:
        """Hand on whatever has changed since the last look; how many. Raises HisError, what was handed on stays so."""
        await self._exchange.statements.known(Deadline(SEARCH_TIMEOUT_S))
        async with self._turn:
            handed = sum([await self._look_for(kind) for kind in self._watched])
        return handed + await self._sweep_if_due()

    async def fetch(self, names: Iterable[str]) -> int:
        """Hand on these resources, `Type/id`, as the server has them now; those of types that are not watched are left."""
        by_kind: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            kind, _, own = name.partition("/")
            if kind in self._watched:
                by_kind.setdefault(kind, []).append(own)
        if by_kind:
            await self._exchange.statements.known(Deadline(SEARCH_TIMEOUT_S))
        async with self._turn:
            handed = 0
            for kind, ids in by_kind.items():
                for start in range(0, len(ids), IDS_AT_ONCE):
                    handed += await self._fetch(kind, ids[start : start + IDS_AT_ONCE])
            return handed

    def read_again(self, raw: bytes, peer: str) -> Inbound | Refused:
        """A stored change as the present profile maps it."""
        try:
            stored = decode_json(raw.decode("utf-8"))
            inbound = self._news.read_again(stored, raw, peer) if isinstance(stored, dict) else None
        except (ValueError, RecursionError):
            inbound = None
        return inbound or Refused(code="refused", text="it is no change that the profile takes", retryable=False)

    # --- by time -----------------------------------------------------------------------------------------------------

    async def _look_for(self, kind: str) -> int:
        began = dt.datetime.now(dt.UTC)
        newest = self._newest.setdefault(kind, began - self._lookback)
        since, handed = newest - self._overlap, 0
        while True:
            # A window with more in it than one search may give is halved; the last one has no end: clocks differ.
            until = since + self._slice if since + self._slice < began else None
            try:
                document = await self._find(kind, _between(since, until))
            except HisReplyInvalid:
                if self._slice <= LEAST_SLICE:
                    raise
                self._slice /= 2
                continue
            handed += await self._hand_on(kind, document)
            self._slice = min(self._slice * 2, LONGEST_SLICE)
            for resource in _of(kind, document):
                # A time ahead of ours is a clock that is wrong, and nothing behind it would be seen any more.
                at = instant_of(resource)
                newest = newest if at is None else min(max(newest, at), began)
            if until is None:
                break
            since = until
        self._newest[kind] = newest
        return handed

    async def _find(self, kind: str, more: list[tuple[str, str]]) -> Document:
        include = [("_include", KINDS[kind].include)] if KINDS[kind].include else []
        count = [("_count", str(self._exchange.connection.get("page_size", 100)))]
        params = [*parse_qsl(self._watched[kind], keep_blank_values=True), *more, *include, *count]
        return await self._exchange.find(self._call(kind), params, Deadline(SEARCH_TIMEOUT_S), whole=False, aside=True)

    def _call(self, kind: str) -> Call:
        return self._exchange.calls[KINDS[kind].verb]

    # --- all of them -------------------------------------------------------------------------------------------------

    async def _sweep_if_due(self) -> int:
        """A sweep that fails is made again after a while: what it looks for waits, and other changes must not."""
        if "Appointment" not in self._watched or monotonic() < self._sweep_at:
            return 0
        self._sweep_at = monotonic() + SWEEP_AGAIN_S
        try:
            handed = await self.sweep()
        except HisError as error:
            hospital, connector = self._exchange.hospital.id, self._exchange.name
            log.warning("fhir_sweep_failed", reason=str(error), hospital=hospital, connector=connector)
            return 0
        self._sweep_at = monotonic() + SWEEP_EVERY_S
        return handed

    async def sweep(self) -> int:
        """Look at every Appointment of ours from today on, and for those that the last sweep saw and this one does not.

        What was deleted has no `_lastUpdated`, and where it is not told nothing else shows it.
        """
        async with self._turn:
            found: set[str] = set()
            handed = 0
            first = dt.datetime.now(self._exchange.hospital.zone).date()
            for day in (first + dt.timedelta(days=n) for n in range(int(self._exchange.setting("sweep_days", 60)))):
                until = day + dt.timedelta(days=1)
                document = await self._find("Appointment", [("date", f"ge{day}"), ("date", f"lt{until}")])
                ours = [one for one in _of("Appointment", document) if self._is_ours(one)]
                found |= {name_of(one) for one in ours}
                handed += await self._hand_on("Appointment", Document.of([{"resource": one} for one in ours]))
            missing = sorted(self._swept - found)
            if len(missing) > FEW and len(missing) * 2 > len(self._swept):
                # More likely a server that lost its index, or our rights, than a hospital that deletes half its day.
                log.error("fhir_sweep_not_believed", missing=len(missing), known=len(self._swept))
                return handed
            for start in range(0, len(missing), IDS_AT_ONCE):
                ids = [name.partition("/")[2] for name in missing[start : start + IDS_AT_ONCE]]
                handed += await self._fetch("Appointment", ids, known=True)
            self._swept = found
            return handed

    def _is_ours(self, resource: Json) -> bool:
        system, told = self._exchange.connection.get("order_system"), resource.get("identifier")
        return isinstance(told, list) and any(isinstance(one, dict) and one.get("system") == system for one in told)

    # --- by name -----------------------------------------------------------------------------------------------------

    async def _fetch(self, kind: str, ids: list[str], *, known: bool = False) -> int:
        document = await self._find(kind, [("_id", ",".join(ids))])
        handed = await self._hand_on(kind, document)
        found = {str(resource.get("id")) for resource in [*_of(kind, document), *document.left_out]}
        for own in ids:
            if own not in found and await self._is_gone(f"{kind}/{own}", known=known):
                handed += await self._give(self._news.gone(f"{kind}/{own}"), {f"{kind}/{own}": "gone"})
        return handed

    async def _is_gone(self, name: str, *, known: bool) -> bool:
        """Whether the server says that it was deleted. "Not found" says so only of what was `known` to be there."""
        try:
            reply = await self._exchange.client.read(name, deadline=Deadline(SEARCH_TIMEOUT_S), fresh=True)
        except ExchangeError as error:
            raise HisUnavailable(str(error)) from error
        if reply.status not in (200, 404, 410):
            raise HisUnavailable(f"HTTP {reply.status}")
        return reply.status == 410 or (known and reply.status == 404)

    # --- handing on --------------------------------------------------------------------------------------------------

    async def _hand_on(self, kind: str, document: Document) -> int:
        resources = [one for one in _of(kind, document) if self._is_new(one)]
        if KINDS[kind].wrap is None:
            versions = {name_of(one): version_of(one) for one in resources}
            return await self._give(self._news.cue(resources), versions) if resources else 0
        handed = 0
        for resource in resources:
            others = _referred(resource, document) if KINDS[kind].include else []
            handed += await self._give(
                self._news.of_resource(resource, others), {name_of(resource): version_of(resource)}
            )
            # Beside a quick disk the handler waits for nothing, and an opening brings hundreds of changes at once.
            await asyncio.sleep(0)
        return handed

    def _is_new(self, resource: Json) -> bool:
        return self._seen.get(name_of(resource)) != version_of(resource)

    async def _give(self, inbound: Inbound | None, versions: Mapping[str, str]) -> int:
        """Hand it on, and keep in mind what was. Raises HisUnavailable where it was not stored: it is looked for again."""
        if inbound is not None:
            if self.handler is None:
                return 0
            answer = await self.handler(inbound)
            if isinstance(answer, Refused) and answer.retryable:
                raise HisUnavailable(NOT_STORED)
        for name, version in versions.items():
            self._seen[name] = version
            self._seen.move_to_end(name)
        while len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        return 1 if inbound is not None else 0


def make_changes(profile: Profile, exchange: Exchange, peer: str) -> Changes:
    """By `changes` and its times in the profile's connection. Raises ProfileError."""
    watched = exchange.connection.get("changes") or {}
    if not isinstance(watched, dict) or not all(isinstance(query, str) for query in watched.values()):
        profile.fail("connection.changes", 'types and queries, as in {Appointment: "", Slot: "status=free"}')
    for kind in watched:
        if kind not in KINDS or KINDS[kind].verb not in exchange.calls:
            profile.fail("connection.changes", f"one of {', '.join(KINDS)}, with a verb that reads it; not {kind}")
    register_message_types(set(watched))
    return Changes(
        exchange,
        News(exchange, peer),
        watched,
        overlap_s=exchange.setting("changes_overlap_s", 120.0),
        lookback_s=exchange.setting("changes_lookback_s", 86_400.0),
    )


def _between(since: dt.datetime, until: dt.datetime | None) -> list[tuple[str, str]]:
    """FHIR R4 search.html#lastUpdated."""
    params = [("_lastUpdated", f"ge{since.isoformat(timespec='milliseconds')}")]
    return params if until is None else [*params, ("_lastUpdated", f"lt{until.isoformat(timespec='milliseconds')}")]


def _of(kind: str, document: Document) -> list[Json]:
    """The resources of this type that have an id."""
    found = [entry["resource"] for entry in document["entry"]]
    return [one for one in found if one.get("resourceType") == kind and isinstance(one.get("id"), str)]


def _referred(resource: Json, document: Document) -> list[Json]:
    """What the resource's own references lead to in the document."""
    found: list[Json] = []
    for value in resource.values():
        for one in value if isinstance(value, list) else [value]:
            reference = one.get("reference") if isinstance(one, dict) else None
            target = document.find(reference) if isinstance(reference, str) else None
            if target is not None and target not in found:
                found.append(target)
    return found
