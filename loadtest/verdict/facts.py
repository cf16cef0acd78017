"""What a run folder tells, as typed objects. Times ending in `_s` are seconds since `started_at`; money is in fen.

What the generator adds to its files later is ignored; what is named here must be there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

Count = Annotated[int, msgspec.Meta(ge=0)]
Samples = npt.NDArray[np.void]
"""One row for each request, of type `SAMPLE`."""

SAMPLE = np.dtype(
    [
        ("intended_s", "f8"),
        ("started_s", "f8"),
        ("ended_s", "f8"),
        ("status", "u2"),  # 0: there was no answer
        ("request_class", "u1"),
        ("code", "u1"),
        ("hospital", "u1"),
        ("client", "u1"),
        ("journey", "u4"),
    ]
)


class Span(msgspec.Struct, frozen=True):
    from_s: float
    to_s: float


class Phase(Span, frozen=True):
    name: str


class Fault(msgspec.Struct, frozen=True):
    """Something that was done to the service or to a HIS. `until_s` is None where it was a moment."""

    at_s: float
    what: str
    until_s: float | None = None
    hospital: str | None = None


class Machine(msgspec.Struct, frozen=True):
    """`loop_ms`: what a million turns of plain Python took before the run; 0 where nobody measured."""

    model: str
    cores: int
    memory_gib: float
    kernel: str
    loop_ms: float = 0.0


class Lag(msgspec.Struct, frozen=True):
    p50: float
    p99: float
    max: float


class Generator(msgspec.Struct, frozen=True):
    lag_ms: Lag
    cpu_s: float
    void: bool


class Server(msgspec.Struct, frozen=True):
    cpu_s: float
    requests: Count


class Judged(msgspec.Struct, frozen=True):
    """What the profile is judged by. `policy`: whether a client stayed within the published rate limits."""

    classes: tuple[str, ...]
    peak: bool
    policy: dict[str, bool]
    recovery_s: float | None = None


FLOOR = 10_000
"""What a verdict takes of a class, in valid samples."""


class Facts(msgspec.Struct, frozen=True):
    """`run.json`."""

    profile: str
    started_at: float
    opens_at_s: float | None
    duration_s: float
    engine: Literal["sqlite", "postgresql"]
    workers: int
    phases: tuple[Phase, ...]
    peak: Span | None
    stated: tuple[str, ...]
    rates: dict[str, float]
    classes: tuple[str, ...]
    codes: tuple[str, ...]
    hospitals: tuple[str, ...]
    clients: tuple[str, ...]
    faults: tuple[Fault, ...]
    machine: Machine
    generator: Generator
    server: Server
    objective: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    judged: Judged
    floor: int = FLOOR
    """Valid samples below which a class of this run has no percentage."""


# --- bookings that were acknowledged --------------------------------------------------------------------------------


class Paid(msgspec.Struct, frozen=True):
    """A payment that the service acknowledged."""

    trade_no: str
    amount_fen: int
    acknowledged_s: float


class Cancel(msgspec.Struct, frozen=True):
    acknowledged_s: float


class Refund(msgspec.Struct, frozen=True):
    amount_fen: int
    state: str


class Final(msgspec.Struct, frozen=True):
    """The booking as it was read after the drain. `order_no` where it is another than at first (late money takes a new one)."""

    status: int
    state: str | None = None
    his_state: str | None = None
    payment_state: str | None = None
    rejected_code: str | None = None
    order_no: str | None = None
    refunds: tuple[Refund, ...] | None = ()

    @property
    def owed_fen(self) -> int:
        """What was given back, or is about to be."""
        return sum(refund.amount_fen for refund in self.refunds or ())


class Booking(msgspec.Struct, frozen=True):
    """A line of `bookings.jsonl`."""

    id: str
    order_no: str
    hospital: str
    slot_id: str
    fee_fen: int
    held_s: float
    paid: Paid | None
    cancel: Cancel | None
    final: Final

    @property
    def order_nos(self) -> set[str]:
        """By what the HIS may know it."""
        return {self.order_no, self.final.order_no or self.order_no}

    @property
    def was_locked(self) -> bool:
        """Whether the HIS has confirmed the seat at some time."""
        return self.final.his_state in ("locked", "registered", "released")


class SoldOut(msgspec.Struct, frozen=True):
    """A line of `sold_out.jsonl`: when somebody was last told that this slot is sold out."""

    hospital: str
    slot_id: str
    last_s: float


# --- what the HIS says ----------------------------------------------------------------------------------------------


class Segment(msgspec.Struct, frozen=True):
    code: str
    capacity: int
    taken: int


class Visit(msgspec.Struct, frozen=True):
    """A lock or a registration at the HIS; `key` is our order number."""

    no: str
    key: str
    segment: str
    state: Literal["locked", "registered", "released"]
    fee_fen: int
    paid_fen: int
    trade_no: str | None

    @property
    def occupies(self) -> bool:
        return self.state != "released"


class His(msgspec.Struct, frozen=True):
    """One hospital of `his.json`. `oversold` is its own count of seats that it gave away beyond a segment's capacity."""

    oversold: Count
    most_at_once: Count
    allowed_at_once: Count
    calls: dict[str, int]
    segments: tuple[Segment, ...]
    visits: tuple[Visit, ...]


# --- the rest -------------------------------------------------------------------------------------------------------

Line = tuple[float | None, ...]


class Series(msgspec.Struct, frozen=True):
    """`series.json`: a value for each of `t_s`, None where it is not known."""

    t_s: tuple[float, ...]
    seats_left: dict[str, Line] = {}
    his_running: dict[str, Line] = {}
    server_cpu_share: Line = ()
    server_rss_mb: Line = ()
    generator_cpu_share: Line = ()

    def lines(self) -> dict[str, Line]:
        """Every line under a name, the empty ones left out."""
        named: dict[str, Line] = {
            "server_cpu_share": self.server_cpu_share,
            "server_rss_mb": self.server_rss_mb,
            "generator_cpu_share": self.generator_cpu_share,
            **{f"seats_left of {name}": line for name, line in self.seats_left.items()},
            **{f"his_running of {name}": line for name, line in self.his_running.items()},
        }
        return {name: line for name, line in named.items() if line}


class SliCount(msgspec.Struct, frozen=True):
    hospital: str
    request_class: str
    phase: str
    verdict: str
    count: float


class ServerSli(msgspec.Struct, frozen=True):
    """`prometheus.json`. `lost_counts`: a process was killed and took counts with it."""

    source: Literal["prometheus", "metrics", "none"]
    sli: tuple[SliCount, ...]
    lost_counts: bool


class Run(msgspec.Struct, frozen=True):
    """A whole run folder."""

    folder: Path
    facts: Facts
    samples: Any  # Samples: msgspec does not know arrays
    bookings: tuple[Booking, ...]
    sold_out: tuple[SoldOut, ...]
    his: dict[str, His]
    series: Series
    server_sli: ServerSli
