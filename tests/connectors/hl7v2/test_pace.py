"""The rate of a peer's messages, and who may connect, by arithmetic."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.admission import Admission
from connectors.hl7v2.pace import REMEMBERED_PEERS, Pace, Paces
from connectors.hl7v2.wire import keep_alive
from monitoring.sparse import EVERY_S, MOST_KEYS, SparseLog


@given(st.floats(0.1, 1000), st.integers(1, 50), st.integers(1, 200))
def test_message_of_a_crowd_waits_for_its_place(per_s: float, burst: int, number: int) -> None:
    pace = Pace(per_s, burst)
    waits = [pace.take(100.0) for _ in range(number)]
    assert waits[-1] == pytest.approx(max(0.0, (number - burst) / per_s), abs=1e-6)


def test_nobody_waits_when_messages_come_at_the_rate() -> None:
    pace = Pace(10, 1)
    assert [pace.take(now / 10) for now in range(100)] == pytest.approx([0.0] * 100)


def test_burst_is_there_again_when_the_peer_was_quiet_for_as_long() -> None:
    pace = Pace(2, 3)
    assert [pace.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert [pace.take(2.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_pace_is_that_of_the_address_and_bounded_in_number() -> None:
    paces = Paces(1, 1)
    assert paces.of("10.0.0.1") is paces.of("10.0.0.1")
    assert paces.of("10.0.0.1") is not paces.of("10.0.0.2")
    for n in range(2 * REMEMBERED_PEERS):
        paces.of(f"peer {n}")
    assert len(paces._known) == REMEMBERED_PEERS
    assert Paces(None, 1).of("10.0.0.1") is None


def test_pace_of_a_peer_that_goes_on_is_kept_when_many_others_come() -> None:
    """Else whoever has thousands of addresses gives itself, and everybody, the burst anew."""
    paces = Paces(1, 1)
    mine = paces.of("10.0.0.1")
    for n in range(2 * REMEMBERED_PEERS):
        paces.of(f"peer {n}")
        assert paces.of("10.0.0.1") is mine


@pytest.mark.parametrize(
    ("allow", "address", "allowed"),
    [
        ([], "10.0.0.5", True),
        (["10.0.0.5"], "10.0.0.5", True),
        (["10.0.0.5"], "10.0.0.50", False),
        (["10.0.0.0/24"], "10.0.0.255", True),
        (["10.0.0.0/24"], "10.0.1.0", False),
        (["10.0.0.0/24"], "::ffff:10.0.0.9", True),  # as a listener on "::" sees it
        (["10.0.0.0/24"], "::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["10.0.0.0/24"], "?", False),
    ],
)
def test_address_is_let_in_when_it_is_named(allow: list[str], address: str, allowed: bool) -> None:
    assert Admission(allow, 10, None).refusal(address) == (None if allowed else "not_allowed")


def test_line_is_left_out_when_its_like_was_just_written() -> None:
    written: list[dict[str, object]] = []
    now = [0.0]

    def write(event: str, **fields: object) -> None:
        written.append({"event": event, **fields})

    log = SparseLog(write, clock=lambda: now[0])
    for _ in range(3):
        log("dropped", reason="junk", size=1)
    log("dropped", reason="other", size=1)
    now[0] = EVERY_S
    log("dropped", reason="junk", size=2)
    assert written == [
        {"event": "dropped", "reason": "junk", "size": 1},
        {"event": "dropped", "reason": "other", "size": 1},
        {"event": "dropped", "reason": "junk", "size": 2, "left_out": 2},
    ]
    for n in range(3 * MOST_KEYS):
        log("dropped", reason=f"{n}")
    assert len(log._last) <= MOST_KEYS


def test_system_is_told_to_probe_a_silent_peer() -> None:
    """A peer that has vanished is noticed 60 + 4 * 15 s after its last byte."""

    class Transport:
        def get_extra_info(self, name: str) -> socket.socket:
            return sock

    with socket.socket() as sock:
        keep_alive(Transport())  # type: ignore[arg-type]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if (option := getattr(socket, name, None)) is not None:
                assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
