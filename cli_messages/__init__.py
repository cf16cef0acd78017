"""`hisbridge messages`: to see what a hospital sent and was sent, and to have one applied anew. Parses, calls, prints."""

from __future__ import annotations

import typer

from cli_messages.auditing import audit_command
from cli_messages.exporting import export_command
from cli_messages.listing import list_command
from cli_messages.replaying import replay_command
from cli_messages.series import begin_series_command
from cli_messages.showing import show_command

app = typer.Typer(no_args_is_help=True, help="Messages that hospitals sent, and what they were asked and answered.")
for name, command in (
    ("list", list_command),
    ("show", show_command),
    ("export", export_command),
    ("audit", audit_command),
    ("begin-series", begin_series_command),
    ("replay", replay_command),
):
    app.command(name)(command)
