"""`hisbridge payments`: what patients have paid and the hospital has not booked yet, with its age."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import moment, out, plain_text, write_columns, yuan

payments = typer.Typer(no_args_is_help=True, help="Payments that the hospital has not booked yet.")
LONG_MS = 600_000  # as the alert HisbridgePaidNotSettled
_COLUMNS = ("waiting", "reported", "amount", "settlement", "channel", "trade_no", "client", "of")


@payments.callback()
def _several() -> None:
    """Keeps `waiting` a word of its own, although it is the only one."""


@payments.command("waiting")
def waiting_command(hospital: HospitalId, config: Config = DEFAULT_CONFIG) -> None:
    """Show what is paid and not settled, oldest first, by order number or bill; exits with 1 if one waits for over 10 minutes."""
    settings, at = hospital_of(config, hospital)
    rows, orders, total, now_ms = asyncio.run(_read(settings, hospital))
    if not rows:
        out.print("Nothing waits.")
        return
    cells = [
        (
            age(now_ms - row.created_ms),
            moment(row.created_ms, at).strftime("%Y-%m-%d %H:%M:%S"),
            yuan(row.left_fen),
            row.settlement,
            plain_text(row.channel),
            plain_text(row.trade_no),
            plain_text(row.client_id),
            row.bill_id or orders.get(str(row.booking_id)) or str(row.booking_id),
        )
        for row in rows
    ]
    write_columns([_COLUMNS, *cells])
    if total > len(rows):
        out.print(f"... and {total - len(rows)} more that have waited for less long.")
    if now_ms - rows[0].created_ms > LONG_MS:
        raise typer.Exit(1)


def age(ms: int) -> str:
    """How long something has waited: its two largest units."""
    seconds = max(0, ms) // 1000
    for size, large, part, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {large} {seconds % size // part} {small}"
    return f"{seconds} s"


async def _read(settings: Any, hospital: str) -> tuple[list[Any], dict[str, str], int, int]:
    """The oldest, their order numbers, how many there are, and the store's time."""
    import service
    from booking.settling import count_unsettled, order_numbers, unsettled_of

    async with service.open_store(settings) as store, store.read(hospital) as tx:
        rows = await unsettled_of(tx)
        orders = await order_numbers(tx, [row.booking_id for row in rows if row.booking_id is not None])
        return rows, orders, await count_unsettled(tx), tx.now_ms
