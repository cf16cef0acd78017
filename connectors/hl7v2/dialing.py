"""Making a connection to the HIS, and when to try again: jittered exponential backoff, shared by all lines to one HIS."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable

import msgspec

from connectors.hl7v2.conversation import NotSent
from connectors.hl7v2.wire import Wire, keep_alive
from connectors.tls import TLSContext

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0


def backoff_s(failures: int, chance: float) -> float:
    """Wait after the n-th failed connect: min(10, 0.2 * 2**(n-1)) seconds, times 0.5 to 1 by chance (0 to 1).

    The third failure waits 0.4 to 0.8 s.
    """
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (min(failures, 16) - 1)) * (0.5 + chance / 2))


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the HIS listens. `server_name`: what its certificate must be made out to, if not `host`."""

    host: str
    port: int
    connect_timeout_s: float
    tls: TLSContext | None = None
    server_name: str | None = None


class Dialer:
    """Connects to one HIS. `works` says whether the last try did, None before the first; `trouble` why it did not."""

    def __init__(self, address: Address, chance: Callable[[], float] = random.random) -> None:
        self.address = address
        self.works: bool | None = None
        self.trouble = ""
        self._chance = chance
        self._failures = 0
        self._retry_at = 0.0

    @property
    def retry_in_s(self) -> float:
        """How long until the next try may be made; 0 when it may be made now."""
        return max(0.0, self._retry_at - asyncio.get_running_loop().time())

    def wait_s(self, failures: int) -> float:
        """The wait after this many failures in a row, of whatever kind."""
        return backoff_s(failures, self._chance())

    async def connect(self) -> Wire:
        """Connect. Raises NotSent; then `retry_in_s` is set."""
        loop = asyncio.get_running_loop()
        address = self.address
        try:
            async with asyncio.timeout(address.connect_timeout_s):
                context = None if address.tls is None else await address.tls.current()
                transport, wire = await loop.create_connection(
                    lambda: Wire(_nothing, is_tls=context is not None),
                    address.host,
                    address.port,
                    ssl=context,
                    server_hostname=(address.server_name or address.host) if context is not None else None,
                )
        except (
            OSError,
            ValueError,
        ) as error:  # a time-out and a bad certificate are OSErrors, a name that is none a ValueError
            self.works = False
            self._failures += 1
            self._retry_at = loop.time() + self.wait_s(self._failures)
            self.trouble = _reason(error)
            raise NotSent(f"no connection to the HIS: {self.trouble}") from error
        self.trouble = ""
        self.works, self._failures, self._retry_at = True, 0, 0.0
        keep_alive(transport)
        return wire


def _nothing(wire: Wire) -> None:
    """Whoever connects runs the conversation."""


def _reason(error: Exception) -> str:
    """What went wrong, without what the peer's certificate says of itself."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused ({error.verify_message})"
    return type(error).__name__
