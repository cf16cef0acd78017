"""The child's side of `monitoring.supervisor`: its orders on stdin, its readiness on stdout, and the end of its parent.

Nothing else may be printed to stdout by a child.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec

_STDIN, _STDOUT = 0, 1
MAX_ORDERS_BYTES = 4_000_000


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is to be. `listening` maps names to descriptors that it inherits; `text` is for the program's own use.

    `life` counts the processes that had these very orders before, all of which have certainly ended.
    """

    role: str
    worker: int
    life: int = 0
    listening: dict[str, int] = {}
    text: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a child says once it can be given work: where its own admin listener is."""

    ready: bool
    admin: str


def read_orders() -> Orders:
    """The first line of stdin. To be called once, before the event loop runs. Raises msgspec.DecodeError."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < MAX_ORDERS_BYTES:
        chunk = os.read(_STDIN, 65_536)
        if not chunk:
            break
        line += chunk
    return msgspec.json.decode(bytes(line), type=Orders)


def report_ready(admin: str) -> None:
    """Tell the parent. A parent that has gone is noticed by `watch_parent`."""
    try:
        sys.stdout.buffer.write(msgspec.json.encode(Report(ready=True, admin=admin)) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        return


def watch_parent(gone: Callable[[], None]) -> None:
    """Call `gone` once when the parent has ended, however it did: its end of our stdin closes with it."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        if not os.read(_STDIN, 65_536):
            loop.remove_reader(_STDIN)
            gone()

    loop.add_reader(_STDIN, look)
