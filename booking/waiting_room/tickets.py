"""The ticket: what a portal carries from joining to holding, verified without the store. Pure.

`w1.<release>.<expiry>.<masked rank>.<patient>.<signature>`, instants in milliseconds and numbers in hexadecimal. The signature is
an HMAC-SHA-256 over all before it, the hospital and the API client, cut to 128 bits (RFC 2104, section 5). The rank stays hidden
until the release: it is added (XOR) to a keyed pseudo-random number that is used for this one rank of this one ticket only.
Who joins again gets the very same text.
"""

from __future__ import annotations

import hmac
from typing import Protocol

import msgspec

_VERSION = "w1"
_PARTS = 6
_MOST_CHARACTERS = 256
_SIGNATURE_DIGITS = 32


class Digests(Protocol):
    """What of the installation's vault is needed: keyed digests."""

    def digest(self, kind: str, hospital_id: str, value: str) -> str: ...


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A place in one hospital's waiting room of one release. The client is the one whose patient it is."""

    hospital_id: str
    client_id: str
    patient_id: str
    release_ms: int
    expires_ms: int
    rank: int


class TicketForged(Exception):
    """This is no ticket of this installation, or not of this hospital and API client."""


def write_ticket(key: Digests, ticket: Ticket) -> str:
    """The text of a ticket."""
    masked = ticket.rank ^ _mask(key, ticket.hospital_id, ticket.release_ms, ticket.expires_ms, ticket.patient_id)
    said = f"{_VERSION}.{ticket.release_ms:x}.{ticket.expires_ms:x}.{masked:x}.{ticket.patient_id}"
    return f"{said}.{_sign(key, ticket.hospital_id, ticket.client_id, said)}"


def read_ticket(key: Digests, text: str, *, hospital_id: str, client_id: str) -> Ticket:
    """The ticket that we have written so. Whether it is still good is another question. Raises TicketForged."""
    said, _, signature = text.rpartition(".")
    parts = text.split(".")
    if len(text) > _MOST_CHARACTERS or not text.isascii() or len(parts) != _PARTS or parts[0] != _VERSION:
        raise TicketForged
    if not hmac.compare_digest(_sign(key, hospital_id, client_id, said), signature):
        raise TicketForged
    release_ms, expires_ms, masked = (int(part, 16) for part in parts[1:4])
    return Ticket(
        hospital_id=hospital_id,
        client_id=client_id,
        patient_id=parts[4],
        release_ms=release_ms,
        expires_ms=expires_ms,
        rank=masked ^ _mask(key, hospital_id, release_ms, expires_ms, parts[4]),
    )


def _sign(key: Digests, hospital_id: str, client_id: str, said: str) -> str:
    return key.digest("waiting_room_ticket", hospital_id, f"{client_id}\0{said}")[:_SIGNATURE_DIGITS]


def _mask(key: Digests, hospital_id: str, release_ms: int, expires_ms: int, patient_id: str) -> int:
    return int(key.digest("waiting_room_rank", hospital_id, f"{release_ms}.{expires_ms}.{patient_id}")[:16], 16)
