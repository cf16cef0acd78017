"""`hisbridge ledger`: what stands in each account, and whether the sums agree."""

from __future__ import annotations

import asyncio
from typing import Any

import typer
from rich.table import Table

from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import out, plain_text


def ledger_command(hospital: HospitalId, config: Config = DEFAULT_CONFIG) -> None:
    """Show the accounts of the ledger, and every payment that it has otherwise than its records; exits with 1 if there is one."""
    settings, _ = hospital_of(config, hospital)
    held, wrong = asyncio.run(_read(settings, hospital))
    accounts = Table("account", "channel", "fen")
    for one in held:
        accounts.add_row(one.account, plain_text(one.channel), str(one.amount_fen))
    out.print(accounts if held else "Nothing has been posted.")
    if not wrong:
        out.print("The ledger agrees with the records.")
        return
    faults = Table("channel", "trade_no", "account", "ledger_fen", "records_fen")
    for one in wrong:
        faults.add_row(
            plain_text(one.channel), plain_text(one.trade_no), one.account, str(one.ledger_fen), str(one.records_fen)
        )
    out.print(faults)
    raise typer.Exit(1)


async def _read(settings: Any, hospital: str) -> tuple[list[Any], list[Any]]:
    import service
    from booking.ledger import balances, imbalances

    async with service.open_store(settings) as store:
        async with store.read(hospital) as tx:
            held = await balances(tx)
        return held, [one async for one in imbalances(store, hospital)]
