"""How many connections the API may have."""

from __future__ import annotations

import sys

from monitoring.logs import get_logger

log = get_logger(__name__)

KEPT_DESCRIPTORS = 256
"""Left for the databases, the HIS connections, the logs and the admin listener."""


def allow_connections(wanted: int) -> int:
    """How many connections this process may have, at most `wanted`; where it can, it raises `ulimit -n` for them first.

    The soft limit goes up to the hard one. What is still missing is a warning: accepting a connection without a descriptor
    for it fails, and opening the database then fails too.
    """
    if sys.platform == "win32":  # no such limit
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + KEPT_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(soft - KEPT_DESCRIPTORS, soft // 2)
    log.warning("max_connections_lowered", wanted=wanted, allowed=allowed, descriptors=soft, do="raise ulimit -n")
    return allowed
