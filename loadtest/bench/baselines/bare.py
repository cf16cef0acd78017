"""An aiohttp handler with no logic: the same request in, the same bytes out. On uvloop, one worker, nothing in between.

    python -m loadtest.bench.baselines.bare <answers.json>      prints its port

The file holds {"method", "path", "status", "headers", "body"} of one answer that the product gave; `path` is the route's
template, so that the router has the same work to do. A POST reads its body, as anybody must who acts on it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

Before = Callable[[web.Request, bytes], Awaitable[None]]


def build(answer: dict[str, object], *, before: Before | None = None) -> web.Application:
    """An application with one route. A POST is answered when `before` has returned, which gets the body."""
    status, body = int(str(answer["status"])), str(answer["body"]).encode()
    pairs = answer["headers"]
    if not isinstance(pairs, dict):
        raise TypeError("headers: expected an object")
    headers = {str(name): str(value) for name, value in pairs.items()}

    async def get(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    async def post(request: web.Request) -> web.Response:
        sent = await request.read()
        if before is not None:
            await before(request, sent)
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route(str(answer["method"]), str(answer["path"]), post if answer["method"] == "POST" else get)
    return app


async def serve(answer: dict[str, object]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(build(answer), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(json.dumps({"ready": True, "port": runner.addresses[0][1]}), flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    answer = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sys.platform == "win32":
        asyncio.run(serve(answer))
    else:
        import uvloop

        uvloop.run(serve(answer))


if __name__ == "__main__":
    main()
