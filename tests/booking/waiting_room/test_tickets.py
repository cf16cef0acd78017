"""A ticket is what we wrote, for whom we wrote it, and shows nothing of the place that it holds."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.store.crypto import Vault
from booking.waiting_room.ranks import FIRST_LATE
from booking.waiting_room.tickets import Ticket, TicketForged, read_ticket, write_ticket
from tests.stores import make_vault

VAULT = make_vault()
TICKET = Ticket(
    hospital_id="h1",
    client_id="portal",
    patient_id="01a2000b-09fb-76f0-aba4-d01a67112864",
    release_ms=1_930_000_000_000,
    expires_ms=1_930_003_600_000,
    rank=123_456_789,
)
TEXT = write_ticket(VAULT, TICKET)


def read(text: str, *, vault: Vault = VAULT, hospital_id: str = "h1", client_id: str = "portal") -> Ticket:
    return read_ticket(vault, text, hospital_id=hospital_id, client_id=client_id)


@given(st.integers(0, FIRST_LATE + 10**9), st.integers(0, 1 << 45), st.uuids())
def test_ticket_is_read_as_it_was_written_and_always_the_same(rank: int, release_ms: int, patient: object) -> None:
    ticket = msgspec.structs.replace(TICKET, rank=rank, release_ms=release_ms, patient_id=str(patient))
    text = write_ticket(VAULT, ticket)
    assert read(text) == ticket
    assert write_ticket(VAULT, ticket) == text


@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_ticket_is_refused_when_any_character_is_another(place: int, character: str) -> None:
    altered = TEXT[:place] + character + TEXT[place + 1 :]
    if altered == TEXT:
        return
    with pytest.raises(TicketForged):
        read(altered)


@given(st.text(max_size=300))
def test_ticket_is_refused_when_it_is_anything_else(text: str) -> None:
    with pytest.raises(TicketForged):
        read(text)


def test_ticket_is_refused_at_another_hospital_for_another_client_and_under_another_key() -> None:
    with pytest.raises(TicketForged):
        read(TEXT, hospital_id="h2")
    with pytest.raises(TicketForged):
        read(TEXT, client_id="other")
    with pytest.raises(TicketForged):
        read(TEXT, vault=Vault({"k1": b"1" * 32}, b"e" * 32))


def test_rank_cannot_be_seen_when_tickets_are_compared() -> None:
    """The hidden figure of 400 patients in the order of their ranks: as many pairs rise as fall.

    Of n random figures the number of rises has mean (n-1)/2 and variance (n+1)/12: 5 deviations are 29.
    """
    chance = random.Random(11)
    ranks = sorted(chance.getrandbits(62) for _ in range(400))
    tickets = [msgspec.structs.replace(TICKET, patient_id=f"p{chance.getrandbits(64)}", rank=rank) for rank in ranks]
    shown = [int(write_ticket(VAULT, ticket).split(".")[3], 16) for ticket in tickets]
    rises = sum(a < b for a, b in pairwise(shown))
    assert abs(rises - 199.5) < 29
