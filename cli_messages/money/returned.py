"""`hisbridge refunds`: those that are not at their end, and a person's word that the hospital has booked one."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from booking.conversion import SettingsError
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import moment, out, plain_text, write_columns, yuan

refunds = typer.Typer(no_args_is_help=True, help="Refunds that wait for a portal, for the hospital, or for a person.")

_COLUMNS = ("refund", "due since", "amount", "status", "his", "his_code", "channel", "trade_no", "of")


@refunds.command("list")
def list_command(hospital: HospitalId, config: Config = DEFAULT_CONFIG) -> None:
    """Show what has not gone back yet, and what has and the hospital does not know of, oldest first; exits with 1 if one needs a person."""  # noqa: E501 - one line of help
    settings, at = hospital_of(config, hospital)
    rows = asyncio.run(_read(settings, hospital))
    if not rows:
        out.print("None is open.")
        return
    cells = [
        (
            row["id"],
            moment(row["created_ms"], at).strftime("%Y-%m-%d %H:%M:%S"),
            yuan(row["amount_fen"]),
            row["status"],
            row["his"],
            plain_text(row["his_code"] or "-"),
            plain_text(row["channel"]),
            plain_text(row["trade_no"]),
            row["booking_id"] or row["bill_id"] or "-",
        )
        for row in rows
    ]
    write_columns([_COLUMNS, *cells])
    if any(row["his"] == "rejected" for row in rows):
        raise typer.Exit(1)


@refunds.command("booked")
def booked_command(
    hospital: HospitalId,
    refund_id: Annotated[str, typer.Argument(help="The refund's id, see `refunds list`.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Say that the hospital has booked a refund of which it did not hear by itself."""
    settings, _ = hospital_of(config, hospital)
    if not asyncio.run(_book(settings, hospital, refund_id)):
        raise SettingsError(f"there is no refund {refund_id} at {hospital} of which the hospital did not hear")
    out.print(f"{refund_id}: booked.")


async def _read(settings: Any, hospital: str) -> list[dict[str, Any]]:
    """The rejected ones first of all: what portals owe must not crowd them out."""
    import service
    from booking.open_refunds import open_refunds

    async with service.open_store(settings) as store, store.read(hospital) as tx:
        rejected = await open_refunds(tx, his="rejected")
        others = [row for row in await open_refunds(tx) if row["his"] != "rejected"]
    return rejected + others


async def _book(settings: Any, hospital: str, refund_id: str) -> bool:
    import service
    from booking.open_refunds import book_by_hand

    async with service.open_store(settings) as store, store.write(hospital) as tx:
        return await book_by_hand(tx, refund_id)
