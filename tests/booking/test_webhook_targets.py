"""Which addresses a webhook may lead to."""

from __future__ import annotations

import pytest

from booking.webhook_targets import literal_of, may_lead_to, networks_of


@pytest.mark.parametrize(
    ("address", "networks", "may"),
    [
        ("10.2.3.4", [], True),  # portals stand in the hospital's own network
        ("127.0.0.1", [], True),
        ("::1", [], True),
        ("2001:db8::1", [], True),
        ("169.254.169.254", [], False),  # where clouds tell a machine its passwords
        ("::ffff:169.254.169.254", [], False),
        ("fe80::1", [], False),
        ("fe80::1%eth0", [], False),
        ("0.0.0.0", [], False),  # this machine
        ("::", [], False),
        ("224.0.0.1", [], False),
        ("100.100.100.200", [], False),  # where Alibaba Cloud tells them
        ("100.100.100.201", [], True),
        ("::ffff:100.100.100.200", [], False),
        ("fd00:ec2::254", [], False),  # AWS
        ("fd20:ce::254", [], False),  # Google Cloud
        ("fd00:ec2::255", [], True),
        ("64:ff9b::a9fe:a9fe", [], False),  # 169.254.169.254 behind NAT64
        ("64:ff9b:1::a9fe:a9fe", [], False),
        ("64:ff9b::a02:304", [], True),  # 10.2.3.4
        ("2002:a9fe:a9fe::1", [], False),  # by 6to4
        ("2002:a02:304::1", [], True),
        ("::169.254.169.254", [], False),
        ("booking.example", [], False),
        ("10.2.255.255", ["10.2.0.0/16"], True),
        ("10.3.0.0", ["10.2.0.0/16"], False),
        ("::ffff:10.2.0.1", ["10.2.0.0/16"], True),
        ("127.0.0.1", ["10.2.0.0/16", "2001:db8::/32"], False),
        ("2001:db8::1", ["10.2.0.0/16", "2001:db8::/32"], True),
        ("169.254.1.1", ["169.254.0.0/16"], True),
        ("100.100.100.200", ["100.64.0.0/10"], True),  # who says so means it
    ],
)
def test_address_is_one_that_a_webhook_may_lead_to(address: str, networks: list[str], may: bool) -> None:
    assert may_lead_to(address, networks_of(networks)) is may


@pytest.mark.parametrize(
    ("url", "literal"),
    [
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("https://[fe80::1]:8443/hook", "fe80::1"),
        ("http://me:secret@10.0.0.1/", "10.0.0.1"),
        ("https://booking.example/10.0.0.1", None),
        ("http://2852039166/", None),  # looked up, and judged by what comes of it
        ("http://[::1", None),
        ("http:///x", None),
    ],
)
def test_address_in_a_url_is_known_before_it_is_called(url: str, literal: str | None) -> None:
    assert literal_of(url) == literal
