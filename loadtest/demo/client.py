"""A portal's client for the booking API, as small as a portal developer would write it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp


class StepFailed(Exception):
    """A step of the walk did not come to its end; the text says what was seen last."""


class Portal:
    """Calls the booking API of one hospital with one key."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, key: str, hospital_id: str) -> None:
        self._session = session
        self._hospitals, self._id = f"{base_url}/v1/hospitals", hospital_id
        self._of = f"{self._hospitals}/{hospital_id}"
        self._headers = {"Authorization": f"Bearer {key}"}

    async def hospital(self) -> dict[str, Any]:
        """What the API tells of this hospital."""
        items = (await self._call("GET", "", url=self._hospitals))["items"]
        return next(dict(one) for one in items if one["id"] == self._id)

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        return await self._call("GET", path, query=query)

    async def post(self, path: str, body: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        return await self._call("POST", path, body=body, key=key or str(uuid.uuid4()))

    async def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._call("PUT", path, body=body)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        url: str | None = None,
    ) -> dict[str, Any]:
        headers = dict(self._headers)
        if key is not None:
            headers["Idempotency-Key"] = key
        async with self._session.request(
            method, url or self._of + path, params=query, json=body, headers=headers
        ) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status >= 400:
                raise StepFailed(f"{method} {path}: {response.status} {answer.get('code')} {answer.get('detail', '')}")
            return answer


async def until(
    look: Callable[[], Awaitable[Any]], done: Callable[[Any], bool], *, what: str, within_s: float = 20.0
) -> Any:
    """Look again and again until `done`; StepFailed with what was seen last after `within_s`."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + within_s
    while True:
        seen = await look()
        if done(seen):
            return seen
        if loop.time() > ends:
            raise StepFailed(f"{what}: not within {within_s:g} s; last seen: {_brief(seen)}")
        await asyncio.sleep(0.1)


def _brief(seen: Any) -> str:
    if isinstance(seen, dict):
        keys = ("state", "his_state", "payment_state", "status", "settlement", "reason", "his_command_status")
        return ", ".join(f"{k}={seen[k]}" for k in keys if k in seen) or str(list(seen))
    return f"{len(seen)} of them" if isinstance(seen, list) else str(seen)
