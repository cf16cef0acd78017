"""`hisbridge profile`: to teach hisbridge a HIS without Python. Parses, calls, prints."""

from __future__ import annotations

import typer

from cli_profiles.calling import call_command
from cli_profiles.checking import check_command
from cli_profiles.new import new_command
from cli_profiles.trying import try_command

app = typer.Typer(
    no_args_is_help=True, help="Mapping profiles: begin one, check it, try it on a reply and on a hospital."
)
for name, command in (
    ("new", new_command),
    ("check", check_command),
    ("try", try_command),
    ("call", call_command),
):
    app.command(name)(command)
