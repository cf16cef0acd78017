"""`hisbridge reads`: who read which report, and whether the record of it is whole. Parses, calls, prints."""

from __future__ import annotations

import typer

from cli_messages.reads.looking import export_command, list_command
from cli_messages.reads.verifying import verify_command

app = typer.Typer(no_args_is_help=True, help="Who read which report.")
for name, command in (("list", list_command), ("export", export_command), ("verify", verify_command)):
    app.command(name)(command)
