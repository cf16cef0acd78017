"""What the crowd has seen: one row for each request, and one record for each booking that was acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

CLASSES = ("read", "sold_out", "hold", "step", "live", "status", "join")
"""`status`: one booking, or a place in the waiting room, which only the store knows; `join`: of the waiting room."""

READ, HOLD, STEP, LIVE, STATUS, JOIN = 0, 2, 3, 4, 5, 6

# What the generator itself notes of answers beside the service's problem codes.
LIST_NOT_RELEASED, LIST_EMPTY = "list_not_released", "list_empty"  # a 200 that shows no seat, open or sold out
TURNED_AWAY_ADMITTED = "waiting_room_admitted"  # to the waiting room, with a ticket that it had admitted
ROW = np.dtype(
    [
        ("intended_s", "f8"), ("started_s", "f8"), ("ended_s", "f8"), ("status", "u2"), ("request_class", "u1"),
        ("code", "u1"), ("hospital", "u1"), ("client", "u1"), ("journey", "u4"),
    ]
)  # fmt: skip


class Kept(msgspec.Struct, kw_only=True):
    """A booking that a patient was told of. Times are seconds since the crowd's start."""

    id: str
    order_no: str
    hospital: str
    slot_id: str
    fee_fen: int
    held_s: float
    paid: dict[str, Any] | None = None
    cancel: dict[str, Any] | None = None


class Samples:
    """Grows by one tuple for each request."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float, int, int, int, int, int, int]] = []
        self.codes: dict[str, int] = {"": 0}
        self.bookings: list[Kept] = []
        self.sold_out: dict[tuple[str, str], float] = {}
        """When somebody was last told that this hospital's slot is sold out."""

    def code(self, name: str) -> int:
        """The number of a problem code; 255 stands for all beyond the first 254."""
        return self.codes.setdefault(name, min(len(self.codes), 255))

    def write(self, folder: Path) -> None:
        """`samples.npy`, `acknowledged.jsonl` and `sold_out.jsonl`."""
        np.save(folder / "samples.npy", np.array(self.rows, dtype=ROW))
        with (folder / "acknowledged.jsonl").open("wb") as stream:
            for booking in self.bookings:
                stream.write(msgspec.json.encode(booking) + b"\n")
        with (folder / "sold_out.jsonl").open("wb") as stream:
            for (hospital, slot), last_s in self.sold_out.items():
                stream.write(msgspec.json.encode({"hospital": hospital, "slot_id": slot, "last_s": last_s}) + b"\n")

    def lag_ms(self) -> dict[str, float]:
        """How late the generator itself was: started minus intended."""
        if not self.rows:
            return {"p50": 0.0, "p99": 0.0, "max": 0.0}
        late = np.array([row[1] - row[0] for row in self.rows]) * 1000
        return {
            "p50": float(np.percentile(late, 50)),
            "p99": float(np.percentile(late, 99)),
            "max": float(late.max()),
        }
