"""Who may connect: by address, and how many at once."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence

NOT_ALLOWED, TOO_MANY, TOO_MANY_OF_PEER = "not_allowed", "too_many", "too_many_of_peer"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(allow: Sequence[str]) -> tuple[Network, ...]:
    """Addresses (`10.0.0.5`) and networks (`10.0.0.0/24`). Raises ValueError for what is neither."""
    return tuple(ipaddress.ip_network(one) for one in allow)


class Admission:
    """The door of one listener. An empty `allow` lets every address in. A connection counts from `enter` to `leave`."""

    def __init__(self, allow: Sequence[str], max_connections: int, max_connections_per_peer: int | None) -> None:
        self._networks = networks(allow)
        self._most = max_connections
        self._most_of_peer = max_connections if max_connections_per_peer is None else max_connections_per_peer
        self._open: Counter[str] = Counter()

    def refusal(self, address: str) -> str | None:
        """Why a connection from there is not taken; None when it is."""
        if self._networks and not self._is_allowed(address):
            return NOT_ALLOWED
        if self._open.total() >= self._most:
            return TOO_MANY
        return TOO_MANY_OF_PEER if self._open[address] >= self._most_of_peer else None

    def enter(self, address: str) -> None:
        self._open[address] += 1

    def leave(self, address: str) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _is_allowed(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        # A listener on "::" sees IPv4 peers as ::ffff:10.0.0.5.
        mapped = getattr(found, "ipv4_mapped", None) or found
        return any(mapped in network or found in network for network in self._networks)
