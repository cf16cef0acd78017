"""`hisbridge ledger`: what stands in each account, and whether the sums agree."""

from __future__ import annotations

import asyncio
from typing import Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import out, plain_text, yuan


def ledger_command(hospital: HospitalId, config: Config = DEFAULT_CONFIG) -> None:
    """Show the accounts of the ledger, and every payment that it has otherwise than its records; exits with 1 if there is one."""
    settings, _ = hospital_of(config, hospital)
    held, wrong = asyncio.run(_read(settings, hospital))
    if not held:
        out.print("Nothing has been posted.")
    else:
        out.print(_accounts(held))
        out.print(_sum(held), soft_wrap=True)
    if not wrong:
        out.print("The ledger agrees with the records.")
        return
    faults = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("channel", "trade_no", "account", "ledger", "records"):
        faults.add_column(name, overflow="fold")
    for one in wrong:
        named = f"{one.trade_no} {one.piece}".rstrip()  # with the bill, where one payment was for several
        cells = (one.channel, named, one.account, yuan(one.ledger_fen), yuan(one.records_fen))
        faults.add_row(*(Text(plain_text(cell)) for cell in cells))
    out.print(faults)
    out.print("The ledger has these payments otherwise than their records: see the runbook HisbridgeLedgerImbalance.")
    raise typer.Exit(1)


MEANT = {
    "merchant_clearing": ("应收商户款", "held by the merchant for us"),
    "receipts": ("待入账", "paid, and not booked by the hospital"),
    "his_settlement": ("医院已入账", "booked by the hospital"),
    "refunds_payable": ("待退款", "to go back, and not returned yet"),
}


def _accounts(held: list[Any]) -> Table:
    accounts = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("account", "中文", "what stands there", "channel"):
        accounts.add_column(name, overflow="fold")
    accounts.add_column("amount", justify="right", no_wrap=True)
    before = ""
    for one in held:
        words = (one.account, *MEANT[one.account]) if one.account != before else ("", "", "")
        accounts.add_row(*words, Text(plain_text(one.channel)), yuan(one.amount_fen))
        before = one.account
    return accounts


def _sum(held: list[Any]) -> str:
    """The equation of double entry, of all channels together."""
    fen = {name: sum(one.amount_fen for one in held if one.account == name) for name in MEANT}
    clearing, *others = fen.values()
    agrees = "=" if clearing == sum(others) else "is NOT"
    told = " + ".join(f"{name} {yuan(fen[name])}" for name in tuple(MEANT)[1:])
    return f"merchant_clearing {yuan(clearing)} {agrees} {told}"


async def _read(settings: Any, hospital: str) -> tuple[list[Any], list[Any]]:
    import service
    from booking.ledger import balances, imbalances

    async with service.open_store(settings) as store:
        async with store.read(hospital) as tx:
            held = await balances(tx)
        return held, [one async for one in imbalances(store, hospital)]
