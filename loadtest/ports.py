"""Ports for what a demonstration, a measurement or a test starts."""

from __future__ import annotations

import random
import socket

# Below the range from which Linux (32768) and others (49152) take ports for outgoing connections: a port of that range that
# was free a moment ago may be the near end of somebody's connection when it is to be listened on.
LOWEST, HIGHEST = 12_000, 32_000
_ATTEMPTS = 200


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago, and that no outgoing connection will take."""
    for _ in range(_ATTEMPTS):
        port = random.randint(LOWEST, HIGHEST)
        if not is_taken("127.0.0.1", port):
            return port
    raise OSError(f"no free port found between {LOWEST} and {HIGHEST}")


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
        return False
