"""`hisbridge messages replay`: to have messages applied anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import typer

from booking.conversion import SettingsError
from cli_messages.auditing import Reason, write_audit
from cli_messages.filters import Filters, Limit, with_filters
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of, reader_of
from cli_messages.output import out, plain_text, write_line


@with_filters(without=("direction", "state"))
def replay_command(
    hospital: HospitalId,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of messages, see `messages list`.")] = None,
    *,
    config: Config = DEFAULT_CONFIG,
    state: Annotated[str, typer.Option(help="Without ids: of which state, quarantined or applied.")] = "quarantined",
    filters: Filters,
    limit: Limit = 1_000,
    everything: Annotated[bool, typer.Option("--all", help="Without ids: all that the filters find.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of each.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was applied already. Takes --reason.")] = False,
    over_newer: Annotated[
        bool, typer.Option("--over-newer", help="Also where newer details of the patient came since.")
    ] = False,
    reason: Reason = None,
    wait_s: Annotated[float, typer.Option(min=0, max=600, help="How long to wait for the service to apply them.")] = 15,
) -> None:
    """Map messages that were set aside by the profile as it is now, and have them applied in their order."""
    import service
    from scheduler_sync.messages.search import find_messages

    settings, at = hospital_of(config, hospital)
    if not ids and not everything and not dry_run:
        raise SettingsError("give ids, or --all for everything that the filters find; --dry-run shows what that is")
    if again and not dry_run and not reason:
        raise SettingsError("--again takes --reason: why it shall be applied once more")
    asked = replace(filters, direction="in", state=state)
    asked.check(at)
    read_again = reader_of(settings, at)

    async def replay() -> int:
        wanted = None if ids else await asked.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            chosen = ids or []
            if wanted is not None:
                chosen = [one.id for one in (await find_messages(store, hospital, wanted, limit=limit)).found]
            if chosen and not dry_run:
                why = reason or "asked for without a reason"
                await write_audit(settings, hospital, "replay_again" if again else "replay", sorted(chosen), why)
            flags = {"again": again, "over_newer": over_newer, "dry_run": dry_run}
            return await _replay_all(store, hospital, sorted(set(chosen)), read_again, flags, wait_s)

    if asyncio.run(replay()):
        raise typer.Exit(1)


async def _replay_all(
    store: Any, hospital: str, ids: list[str], read_again: Any, flags: dict[str, bool], wait_s: float
) -> int:
    """Oldest first; returns how many will not be applied."""
    from scheduler_sync.messages.replay import replay_message

    queued: dict[str, str] = {}
    failed = 0
    for message_id in ids:
        one = await replay_message(store, hospital, message_id, read_again, **flags)
        if one.queued_as is not None:
            queued[message_id] = one.queued_as
        else:
            failed += not one.would
            write_line(f"{message_id}: {plain_text(one.text)}")
    if not ids:
        out.print("There are none.")
    return failed + await _wait_for(store, hospital, queued, wait_s)


async def _wait_for(store: Any, hospital: str, queued: dict[str, str], wait_s: float) -> int:
    """Say what became of each; returns how many were set aside again."""
    from scheduler_sync.messages.replay import state_of

    loop = asyncio.get_running_loop()
    ends = loop.time() + wait_s
    failed = 0
    while queued:
        for message_id, waits_as in list(queued.items()):
            state, reason = await state_of(store, hospital, waits_as)
            if state == "received":
                continue
            del queued[message_id]
            failed += state != "applied"
            called = message_id if waits_as == message_id else f"{message_id} (as {waits_as})"
            write_line(f"{called}: {state}{'' if reason is None else ': ' + plain_text(reason)}")
        if not queued or loop.time() >= ends:
            break
        await asyncio.sleep(0.25)
    for message_id, waits_as in queued.items():
        write_line(
            f"{message_id}: stored as {waits_as}, and not applied yet: a running service does it, or the next start"
        )
    return failed
