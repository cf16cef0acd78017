"""What is wrong with a message by the standard's tables."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """What is not as it should be: code of table 0357, and ERL (segment^sequence^field^repetition^component)."""

    code: str
    location: str

    def __str__(self) -> str:
        return f"{self.code} {self.location}"
