"""Where a webhook may lead: its address is chosen by a portal, and called from within the hospital's network. Pure.

A name is judged by what it leads to at each delivery, not by what it led to when it was registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Networks = Sequence[IPv4Network | IPv6Network]


def networks_of(texts: Sequence[str]) -> Networks:
    """`[service] webhook_networks` as networks. Raises ValueError."""
    return tuple(ip_network(text) for text in texts)


def may_lead_to(address: str, networks: Networks) -> bool:
    """Whether a webhook may go to an IP address: one of `networks`, or, where none is set, whatever a host can have.

    Link-local addresses (RFC 3927, RFC 4291 section 2.5.6) are those of metadata services of clouds; 0.0.0.0 is this machine.
    """
    try:
        told = ip_address(address)
    except ValueError:
        return False
    mapped = told.ipv4_mapped if isinstance(told, IPv6Address) else None
    is_in: IPv4Address | IPv6Address = mapped or told
    if networks:
        return any(is_in in network for network in networks)
    return not (is_in.is_link_local or is_in.is_multicast or is_in.is_unspecified)


def literal_of(url: str) -> str | None:
    """The IP address that a URL names itself; None where it names a host, which is looked up."""
    try:
        host = urlsplit(url).hostname or ""
        ip_address(host)
    except ValueError:
        return None
    return host
