"""The `hisbridge` command: parses, calls, prints.

The program itself is imported by the commands, not here: `--help` and a mistyped word are answered without it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import cli_messages
import cli_messages.money
import cli_messages.reads
import cli_profiles
from booking.conversion import SettingsError
from booking.secrets import new_data_key, new_digest_key
from cli_messages.output import plain_text, write_columns

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Booking middleware between hospitals and portals.")
keys = typer.Typer(no_args_is_help=True, help="API keys of portals.")
commands = typer.Typer(no_args_is_help=True, help="Commands to hospitals that wait for a person.")
app.add_typer(keys, name="keys")
app.add_typer(cli_messages.app, name="messages")
app.add_typer(cli_messages.reads.app, name="reads")
app.add_typer(commands, name="commands")
app.add_typer(cli_profiles.app, name="profile")
cli_messages.money.add_commands(app)

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (TOML).")]
_DEFAULT = Path("hisbridge.toml")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"hisbridge {metadata.version('hisbridge')}")
        raise typer.Exit


@app.callback()
def hisbridge(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Which version this is.")
    ] = False,
) -> None:
    """Booking middleware between hospitals and portals."""


@app.command()
def serve(config: Config = _DEFAULT) -> None:
    """Run the service until it is told to stop."""
    import service

    raise typer.Exit(service.serve(config))


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Do the walk and exit: 0, or 1 with the step that failed.")
    ] = False,
    port: Annotated[int, typer.Option(help="The API's port; 0 takes any free one.")] = 8080,
    admin_port: Annotated[int, typer.Option(help="The admin listener's port; 0 takes any free one.")] = 8081,
) -> None:
    """Three simulated hospitals, the service, and a patient walked through each of them."""
    import service
    from booking.api.auth import SCOPES
    from loadtest.demo.show import KEY, run_demo

    gc.enable()  # this one runs for long

    async def prepare(config: Path) -> None:
        _write_secrets(config.parent / "data.key", config.parent / "digest.key")
        await service.migrate_stores(service.read_settings(config))
        await _add_key(config, KEY, "demo-portal", list(SCOPES), None)

    try:
        code = asyncio.run(run_demo(port=port, admin_port=admin_port, once=once, prepare=prepare, console=out))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 0
    raise typer.Exit(code)


@app.command()
def check(config: Config = _DEFAULT) -> None:
    """Read the settings and the profiles and say what is wrong with them; no connection is opened."""
    import service

    settings = service.read_settings(config)
    service.check_secrets(settings)
    for hospital in settings.hospitals.values():
        connectors = service.build_connectors(settings, hospital)
        service.check_listeners(settings, hospital, connectors)
        out.print(
            f"{hospital.id}: {hospital.mode}, reserve_by {hospital.reserve_by}, connectors {', '.join(connectors)}"
        )
        if (missing := service.missing_verb(hospital, connectors)) is not None:
            err.print(
                f"{hospital.id}: no connector offers {missing}, by which reserve_by {hospital.reserve_by} takes a seat: "
                "nothing can be booked there. See reserve_by, and which verbs the profile offers.",
                soft_wrap=True,
            )
    out.print("The settings are good.")


@app.command()
def migrate(config: Config = _DEFAULT) -> None:
    """Bring the databases to this program's schema."""
    import service

    asyncio.run(service.migrate_stores(service.read_settings(config)))
    out.print("The databases have this program's schema.")


@app.command()
def secrets(
    data_key: Annotated[Path, typer.Option(help="Where to write the data key.")] = Path("data.key"),
    digest_key: Annotated[Path, typer.Option(help="Where to write the digest key.")] = Path("digest.key"),
) -> None:
    """Make the keys that encrypt patient data. Keep them apart from the backups: without them the data cannot be read."""
    _write_secrets(data_key, digest_key)
    out.print(f"Wrote {data_key} and {digest_key}.")


@keys.command("add")
def keys_add(
    client: Annotated[str, typer.Argument(help="The portal's id, for example city-portal.")],
    config: Config = _DEFAULT,
    scope: Annotated[list[str] | None, typer.Option(help="Repeat for several; left out: all.")] = None,
    hospital: Annotated[
        list[str] | None, typer.Option(help="Repeat for several; left out: all, later ones too.")
    ] = None,
) -> None:
    """Make a key for a portal and show it, this once."""
    import service
    from booking.api.auth import SCOPES, new_api_key

    unknown = sorted(set(scope or ()) - set(SCOPES))
    if unknown:
        raise SettingsError(f"no such scope: {', '.join(unknown)}; known: {', '.join(SCOPES)}")
    strangers = sorted(set(hospital or ()) - set(service.read_settings(config).hospitals))
    if strangers:
        raise SettingsError(f"no such hospital in {config}: {', '.join(strangers)}")
    key = new_api_key(client)
    asyncio.run(_add_key(config, key, client, scope or list(SCOPES), hospital))
    out.print(key, soft_wrap=True)


@keys.command("list")
def keys_list(config: Config = _DEFAULT) -> None:
    """Every key, without the key itself."""
    import service
    from booking.keys import list_keys

    async def read() -> list[dict[str, str]]:
        async with service.open_store(service.read_settings(config)) as store, store.read() as tx:
            return await list_keys(tx)

    _print_rows(asyncio.run(read()), ("id", "client_id", "scopes", "hospitals", "revoked"))


@keys.command("revoke")
def keys_revoke(key_id: str, config: Config = _DEFAULT) -> None:
    """Revoke a key by its id; it works for up to `service.key_cache_s` longer. A portal's last key ends its webhooks too."""
    import service
    from booking.keys import end_key

    async def revoke() -> int | None:
        async with service.open_store(service.read_settings(config)) as store:
            return await end_key(store, key_id)

    ended = asyncio.run(revoke())
    if ended is None:
        raise SettingsError(f"there is no unrevoked key {key_id}")
    out.print(
        f"Revoked {key_id}." + (f" It was the portal's last: webhooks that end with it: {ended}." if ended else "")
    )


@commands.command("list")
def commands_list(
    hospital: Annotated[str, typer.Argument(help="The hospital's id.")], config: Config = _DEFAULT
) -> None:
    """Commands that no machine can settle."""
    import service
    from scheduler_sync.attention import dead_commands

    async def read() -> list[dict[str, str]]:
        async with service.open_store(service.read_settings(config)) as store:
            return await dead_commands(store, hospital)

    _print_rows(asyncio.run(read()), ("id", "verb", "order_no", "line", "reason"))


@commands.command("settle")
def commands_settle(
    hospital: Annotated[str, typer.Argument(help="The hospital's id.")],
    command_id: Annotated[str, typer.Argument(help="The command's id, see `commands list`.")],
    outcome: Annotated[str, typer.Argument(help="accepted, rejected or retry: what the hospital says of it.")],
    config: Config = _DEFAULT,
) -> None:
    """Say how a command really ended, after asking the hospital."""
    import service
    from scheduler_sync.attention import settle_dead

    if outcome not in ("accepted", "rejected", "retry"):
        raise SettingsError("the outcome is accepted, rejected or retry")
    settings = service.read_settings(config)
    at = settings.named(hospital)

    async def settle() -> bool:
        async with service.open_store(settings) as store:
            return await settle_dead(store, at, command_id, outcome)

    if not asyncio.run(settle()):
        raise SettingsError(f"there is no waiting command {command_id} at {hospital}")
    out.print(f"{command_id}: {outcome}.")


async def _add_key(config: Path, key: str, client: str, scopes: list[str], hospitals: list[str] | None) -> None:
    import service
    from booking.keys import SCOPE, add_key

    async with service.open_store(service.read_settings(config)) as store, store.write(SCOPE) as tx:
        await add_key(tx, key, client_id=client, name=client, scopes=scopes, hospitals=hospitals)


def _write_secrets(data_key: Path, digest_key: Path) -> None:
    for path, text in ((data_key, new_data_key()), (digest_key, new_digest_key())):
        try:
            with path.open("x", encoding="ascii") as stream:
                path.chmod(0o600)
                stream.write(text + "\n")
        except FileExistsError:
            raise SettingsError(f"{path} exists; a key that is overwritten can never be had again") from None


def _print_rows(rows: list[dict[str, str]], columns: tuple[str, ...]) -> None:
    if not rows:
        out.print("There are none.")
        return
    write_columns([columns, *(tuple(plain_text(row[c] or "-") for c in columns) for row in rows)])


def main() -> None:
    """The entry point: errors that a person can mend are one line each, not a traceback."""
    gc.disable()  # importing is most of what a command does, and none of it is garbage; what runs for long turns it on again
    try:
        app()
    except Exception as e:
        from service import STOPS_THE_START

        if not isinstance(e, STOPS_THE_START):
            raise
        err.print(str(e), markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
