"""`hisbridge reconcile`, `ledger`, `payments` and `refunds`: the money of a hospital, day by day and as a whole."""

from __future__ import annotations

import typer

from cli_messages.money.books import ledger_command
from cli_messages.money.days import reconcile_command
from cli_messages.money.returned import refunds
from cli_messages.money.waiting import payments


def add_commands(app: typer.Typer) -> None:
    """Register them with the program."""
    app.command("reconcile")(reconcile_command)
    app.command("ledger")(ledger_command)
    app.add_typer(payments, name="payments")
    app.add_typer(refunds, name="refunds")
