"""Cursors of lists: opaque to clients, checked when they come back."""

from __future__ import annotations

import base64
import binascii

import msgspec

from booking.api.problems import ApiProblem


def encode_cursor(*parts: str | int) -> str:
    """A cursor that carries these parts."""
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> tuple[object, ...]:
    """The parts of a cursor of ours. Raises ApiProblem(cursor_invalid)."""
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        parts = msgspec.json.decode(data, type=list[str | int])
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise ApiProblem("cursor_invalid") from None
    if len(parts) != len(types) or not all(_is_ours(p, t) for p, t in zip(parts, types, strict=True)):
        raise ApiProblem("cursor_invalid")
    return tuple(parts)


def _is_ours(part: str | int, kind: type) -> bool:
    """Whether the part is of its kind and something that a database can compare with."""
    return isinstance(part, kind) and (abs(part) < 2**63 if isinstance(part, int) else "\0" not in part)
