"""What concurrent clients write down: when they asked, when they were answered, and what.

Times are milliseconds of one clock of the recording machine. An operation whose answer never came is `unknown`: it may have
happened at any time after it was asked for, or never.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

NEVER = float("inf")


class Kind(StrEnum):
    HOLD = "hold"
    PAY = "pay"
    CANCEL = "cancel"
    EXPIRE = "expire"
    CHANGE = "change"  # the HIS, or a fetch from it, moves a slot's figures by `delta`
    OVER = "over"  # the HIS has ended the booking: refused or released it


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"  # certainly not done; `code` says why
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of one client.

    `key` and `digest` are a hold's idempotency key and request, `body` what it was answered. `delta` is by how many seats the
    slot's figures moved with this operation, beside the seat that a hold takes. `ended`: the booking is over with it;
    `resumed`: late money has taken it up again, with a new seat if it costs one.
    """

    kind: Kind
    asked_ms: float
    answered_ms: float
    outcome: Outcome
    slot: str = ""
    schedule: str = ""
    patient: str = ""
    booking: str = ""
    key: str = ""
    digest: str = ""
    body: str = ""
    code: str = ""
    delta: int = 0
    ended: bool = False
    resumed: bool = False

    @property
    def until_ms(self) -> float:
        """The last moment at which it can have happened."""
        return NEVER if self.outcome == Outcome.UNKNOWN else self.answered_ms


@dataclass
class History:
    """Operations in any order, and how many seats each slot had to sell when the first of them began."""

    seats: dict[str, int]
    operations: list[Operation] = field(default_factory=list)

    def save(self, file: Path) -> None:
        """Write it as JSON, one operation a line, to be looked at or checked again."""
        lines = [json.dumps(asdict(op), ensure_ascii=False) for op in self.operations]
        file.write_text("\n".join([json.dumps(self.seats), *lines]) + "\n", encoding="utf-8")

    @staticmethod
    def load(file: Path) -> History:
        """Read what `save` wrote."""
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        return History(json.loads(first), [_operation(json.loads(line)) for line in lines])


def _operation(fields: Mapping[str, object]) -> Operation:
    kind, outcome = Kind(str(fields["kind"])), Outcome(str(fields["outcome"]))
    return Operation(**{**fields, "kind": kind, "outcome": outcome})  # type: ignore[arg-type]
