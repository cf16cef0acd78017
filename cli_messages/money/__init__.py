"""`hisbridge reconcile` and `hisbridge ledger`: the money of a hospital, day by day and as a whole."""

from __future__ import annotations

import typer

from cli_messages.money.books import ledger_command
from cli_messages.money.days import reconcile_command


def add_commands(app: typer.Typer) -> None:
    """Register both with the program."""
    app.command("reconcile")(reconcile_command)
    app.command("ledger")(ledger_command)
