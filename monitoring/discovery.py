"""What a parent of many processes shows on its admin listener.

`/sd` is Prometheus HTTP service discovery: where each child's own `/metrics` is. `/readyz` asks every child, `/metrics` holds
what only the parent knows. The metrics of the children are never merged: a merged histogram has no exemplars, and a child
that is killed leaves no half-written file behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from monitoring.admin import build_admin_app
from monitoring.health import Health, Readiness
from monitoring.supervisor import Child, Supervisor

ASK_S = 1.5  # below the time that a readiness check may take
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to

_SUPERVISOR: web.AppKey[Supervisor] = web.AppKey("supervisor", Supervisor)


class Target(msgspec.Struct, frozen=True):
    """One entry of `/sd` (Prometheus, "Writing HTTP service discovery")."""

    targets: list[str]
    labels: dict[str, str]


CHILDREN_LABELS = ("role", "worker")
CHILD_UP = ("hisbridge_child_up", "gauge", "1 while this child process is ready.")
CHILD_RESTARTS = ("hisbridge_child_restarts", "counter", "Restarts of a child process that had ended by itself.")
"""Name, type and meaning of what only a parent knows."""


class ChildrenCollector(Collector):
    """Reads the supervisor whenever it is scraped."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily(CHILD_UP[0], CHILD_UP[2], labels=CHILDREN_LABELS)
        for child in self._supervisor.children:
            up.add_metric(_labels(child), float(child.admin is not None))
        restarts = CounterMetricFamily(CHILD_RESTARTS[0], CHILD_RESTARTS[2], labels=CHILDREN_LABELS)
        for (role, worker), count in self._supervisor.restarts().items():
            restarts.add_metric([role, str(worker)], count)
        return [up, restarts]


def _labels(child: Child) -> list[str]:
    role, worker = child.key
    return [role, str(worker)]


def build_parent_app(supervisor: Supervisor, health: Health) -> web.Application:
    """The admin application of a parent."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(ChildrenCollector(supervisor))
    app = build_admin_app(health, registry=registry)
    app[_SUPERVISOR] = supervisor
    app.router.add_get("/sd", _discover)
    return app


async def _discover(request: web.Request) -> web.Response:
    found = list(_targets(request.app[_SUPERVISOR].children, request.url.host or "127.0.0.1"))
    return web.Response(body=msgspec.json.encode(found), content_type="application/json")


def _targets(children: Iterable[Child], asked_host: str) -> Iterator[Target]:
    """The children that are ready. One that listens everywhere is shown under the host by which we were asked."""
    for child in children:
        if child.admin is None:
            continue
        host, _, port = child.admin.rpartition(":")
        if host.strip("[]") in _EVERYWHERE:
            host = f"[{asked_host}]" if ":" in asked_host else asked_host
        role, worker = _labels(child)
        yield Target([f"{host}:{port}"], {"role": role, "worker": worker})


class ChildrenHealth:
    """One readiness check per child: whether it runs, and what it says of itself."""

    def __init__(self, supervisor: Supervisor, health: Health) -> None:
        self._supervisor = supervisor
        self._health = health
        self._session: aiohttp.ClientSession | None = None

    def watch(self) -> None:
        """Check the present children from now on; to be called again when they have been replaced."""
        for name in self._health.names() - {child.spec.name for child in self._supervisor.children}:
            self._health.forget(name)
        for child in self._supervisor.children:
            self._health.register(child.spec.name, partial(self._ask, child))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, child: Child) -> str | None:
        if child.admin is None:
            return "does not run, or is not ready yet"
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S))
        host, _, port = child.admin.rpartition(":")
        if host.strip("[]") in _EVERYWHERE:
            host = "127.0.0.1" if host == _EVERYWHERE[0] else "[::1]"
        try:
            async with self._session.get(f"http://{host}:{port}/readyz") as response:
                told = msgspec.json.decode(await response.read(), type=Readiness)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as e:
            return f"does not answer: {type(e).__name__}"
        return None if told.ready else "; ".join(f"{name}: {reason}" for name, reason in told.reasons.items())
