"""Which addresses are ours: a reference to another server's resource is none to ours (R4 references.html#literal)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiohttp import hdrs

from booking.api.fhir.outcomes import FHIR_ROOT
from booking.api.routing import Call

Bases = tuple[str, ...]
"""Host and path of every base under which this hospital is asked, without the scheme: a proxy may have ended TLS."""


def bases_of(call: Call[Any, Any], public_url: str | None = None) -> Bases:
    """The bases by the host that was asked, and by the installation's own address where it has one."""
    return _bases(call.request.headers.get(hdrs.HOST, "").lower(), public_url, call.hospital_id)


@lru_cache(maxsize=1024)
def _bases(host: str, public_url: str | None, hospital_id: str) -> Bases:
    origins = [host] if host else []
    if public_url is not None:
        origins.append(_placed(public_url.rstrip("/").partition("://")[2]))
    return tuple(f"{at}{path}/" for at in origins for path in (f"{FHIR_ROOT}/hospitals/{hospital_id}", FHIR_ROOT))


def relative(reference: str, bases: Bases) -> str | None:
    """The reference without our base; a relative one as it is. None: it is another server's, or no address of HTTP."""
    scheme, mark, rest = reference.partition("://")
    if not mark:
        return reference
    if scheme.lower() not in ("http", "https"):
        return None
    there = _placed(rest)
    below = next((there[len(base) :] for base in bases if there.startswith(base)), None)
    return None if below is None or below.startswith("hospitals/") else below  # that is another hospital's base


def _placed(address: str) -> str:
    """Host and path: a host is the same in any case."""
    host, slash, path = address.partition("/")
    return f"{host.lower()}{slash}{path}"
