"""The admin listener's application: `/metrics`, `/healthz`, `/readyz`. On loopback by default and without keys."""

from __future__ import annotations

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitoring.health import Health
from monitoring.metrics import REGISTRY

_HEALTH: web.AppKey[Health] = web.AppKey("health", Health)
_REGISTRY: web.AppKey[CollectorRegistry] = web.AppKey("registry", CollectorRegistry)


def build_admin_app(health: Health, *, registry: CollectorRegistry = REGISTRY) -> web.Application:
    """The aiohttp application; the composition root binds it to `admin_listen` and may add the console's routes."""
    app = web.Application()
    app[_HEALTH] = health
    app[_REGISTRY] = registry
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", _ready)
    return app


async def _metrics(request: web.Request) -> web.Response:
    """The Prometheus text or OpenMetrics format, by the scraper's Accept header."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(request.app[_REGISTRY]), headers={"Content-Type": content_type})


async def _alive(_request: web.Request) -> web.Response:
    return web.json_response({"alive": True})


async def _ready(request: web.Request) -> web.Response:
    readiness = await request.app[_HEALTH].readiness()
    return web.Response(
        body=msgspec.json.encode(readiness), status=200 if readiness.ready else 503, content_type="application/json"
    )
