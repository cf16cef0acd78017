"""A portal that asks until it is answered, and writes down what it was told and what it did with other people's money."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.acceptance.installation import Answer, Portal
from tests.torture.visits.moments import Moment, Moments

AGAIN_S = 0.3
PATIENCE_S = 600.0  # only ends a round that would never end
_NO_VERDICT = frozenset({"request_in_progress", "rate_limited"})


@dataclass
class Told:
    """What happened, as the portal knows it. `paid` by trade number, `moved` by refund: fen that the portal took and gave."""

    paid: dict[str, int] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    differences: list[tuple[str, str]] | None = None
    done: Counter[str] = field(default_factory=Counter)
    unknowns: int = 0


@dataclass
class Asker:
    """Asks again under the same key whatever it got no answer to."""

    portal: Portal
    told: Told
    moments: Moments

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        during: Moment | None = None,
        answered: Moment | None = None,
        **query: Any,
    ) -> Answer:
        """The answer; `body` is JSON, or the bytes of a file. `during` is rung once the request is under way, `answered` then."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            asked = asyncio.ensure_future(self._once(method, path, body, key, query))
            if during is not None:
                await asyncio.sleep(0)
                self.moments.now(during)
            answer = await asked
            if answer is not None:
                if answered is not None:
                    self.moments.now(answered)
                return answer
            self.told.unknowns += 1
            assert time.monotonic() < ends, f"no answer to {method} {path} within {PATIENCE_S:g} s"
            await asyncio.sleep(AGAIN_S)

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = await self.ask("GET", path, **query)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.data!r}"
        return answer.body

    async def _once(self, method: str, path: str, body: Any, key: str | None, query: dict[str, Any]) -> Answer | None:
        try:
            if isinstance(body, bytes):
                csv = {"Content-Type": "text/csv"}
                answer = await self.portal.call(method, path, data=io.BytesIO(body), headers=csv)
            else:
                answer = await self.portal.call(method, path, body, key=key, **query)
        except (aiohttp.ClientError, TimeoutError):
            return None
        if answer.status >= 500 or (answer.status >= 400 and answer.code in _NO_VERDICT):
            return None
        return answer
