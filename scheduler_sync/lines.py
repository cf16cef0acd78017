"""Every kind of outbox line, by the first word of its name."""

from __future__ import annotations

from scheduler_sync.commands import BillCommand, BookingCommand, LineCommand, PersonCommand
from scheduler_sync.refund_command import RefundCommand

COMMANDS: dict[str, LineCommand] = {
    "booking": BookingCommand(),
    "person": PersonCommand(),
    "bill": BillCommand(),
    "refund": RefundCommand(),
}
