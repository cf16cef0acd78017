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


_PASSWORDS = frozenset(
    ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
"""Metadata services of clouds, which tell a machine its passwords, where they are not link-local."""
_CARRIES = (
    (ip_network("64:ff9b::/96"), 0),  # RFC 6052: translated by the network (NAT64)
    (ip_network("64:ff9b:1::/48"), 0),  # RFC 8215: the same
    (ip_network("::/96"), 0),  # RFC 4291, section 2.5.5.1: IPv4-compatible
    (ip_network("2002::/16"), 80),  # RFC 3056: 6to4
)
"""IPv6 networks whose addresses are those of IPv4 hosts, and how many bits stand to the right of these."""


def may_lead_to(address: str, networks: Networks) -> bool:
    """Whether a webhook may go to an IP address: one of `networks`, or, where none is set, whatever a host can have.

    Link-local addresses (RFC 3927, RFC 4291 section 2.5.6) are those of metadata services of clouds; 0.0.0.0 is this machine.
    """
    try:
        told = ip_address(address)
    except ValueError:
        return False
    is_in = _mapped(told)
    if networks:
        return any(is_in in network for network in networks)
    return all(_is_fit(one) for one in (is_in, *_carried(is_in)))


def _mapped(told: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Another way to write an IPv4 address is that address."""
    return (told.ipv4_mapped if isinstance(told, IPv6Address) else None) or told


def _is_fit(address: IPv4Address | IPv6Address) -> bool:
    is_host = not (address.is_link_local or address.is_multicast or address.is_unspecified)
    return is_host and address not in _PASSWORDS


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 host that a network makes of an IPv6 address. ::1 and :: are none."""
    if int(address) <= 1:
        return []
    return [IPv4Address(int(address) >> right & 0xFFFFFFFF) for network, right in _CARRIES if address in network]


def literal_of(url: str) -> str | None:
    """The IP address that a URL names itself; None where it names a host, which is looked up."""
    try:
        host = urlsplit(url).hostname or ""
        ip_address(host)
    except ValueError:
        return None
    return host
