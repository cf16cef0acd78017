"""A collector of traces for tests: a real HTTP server that reads OTLP with OpenTelemetry's own classes, or misbehaves."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2 as pb

from tests.acceptance.installation import until


@dataclass(frozen=True)
class Received:
    """One span as it came over the wire."""

    span: pb.Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def trace_id(self) -> str:
        return str(self.span.trace_id.hex())

    @property
    def id(self) -> str:
        return str(self.span.span_id.hex())

    @property
    def parent_id(self) -> str:
        return str(self.span.parent_span_id.hex())

    @property
    def links(self) -> list[tuple[str, str]]:
        """Trace and span of each link."""
        return [(link.trace_id.hex(), link.span_id.hex()) for link in self.span.links]

    @property
    def attributes(self) -> dict[str, Any]:
        return _plain(self.span.attributes)

    @property
    def failed(self) -> bool:
        return bool(self.span.status.code == pb.Status.STATUS_CODE_ERROR)


@dataclass
class Receiver:
    """`endpoint` takes spans. `behaviour` is what it does instead of answering well."""

    endpoint: str = ""
    behaviour: str = "well"
    spans: list[Received] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def wait_for(self, *names: str, within_s: float = 30.0) -> list[Received]:
        """All spans so far, once there is one of each of these names."""

        async def look() -> list[Received]:
            return list(self.spans)

        def whole(spans: list[Received]) -> bool:
            return set(names) <= {span.name for span in spans}

        return await until(look, whole, what=f"spans {names}", within_s=within_s)

    async def _take(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()  # aiohttp unpacks it
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        match self.behaviour:
            case "busy":
                return web.Response(status=503)
            case "refuses":
                return web.Response(status=400, text="no")
            case "silent":
                await asyncio.sleep(60)
            case "drips":
                return await self._drip(request)
            case "babbles":
                return web.Response(body=b"\x00\xff<html>" * 100_000, content_type="text/html")
            case "hangs up":
                assert request.transport is not None
                request.transport.abort()
        self._keep(raw)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """An answer without end, a byte now and then."""
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(600):
            await response.write(b"\x00")
            await asyncio.sleep(0.1)
        return response

    def _keep(self, raw: bytes) -> None:
        body = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [Received(span, resource) for span in scope.spans]


def _plain(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def otlp_receiver(behaviour: str = "well") -> AsyncIterator[Receiver]:
    """A receiver on a port of its own."""
    receiver = Receiver(behaviour=behaviour)
    app = web.Application(client_max_size=50_000_000)
    app.router.add_post("/v1/traces", receiver._take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        yield receiver
    finally:
        await runner.cleanup()
