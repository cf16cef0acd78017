"""`hisbridge messages begin-series`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from booking.conversion import SettingsError
from cli_messages.auditing import SHORTEST_REASON, write_audit
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import out


def begin_series_command(
    hospital: HospitalId,
    reason: Annotated[str, typer.Option(help="Why, in five characters or more: it is audited with your name.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Take the next numbered message of each sender of a hospital whatever its number is (`sequence = "check"`).

    For a sender that has lost count and cannot say so itself (MSH-13 = -1).
    """
    import service
    from scheduler_sync.messages.series import begin_series

    settings, _ = hospital_of(config, hospital)
    if len(reason.strip()) < SHORTEST_REASON:
        raise SettingsError("--reason is audited with your name: say why in five characters or more")

    async def forget() -> int:
        await write_audit(settings, hospital, "begin_series", ["all senders"], reason.strip())
        async with service.open_store(settings, messages=True) as store:
            return await begin_series(store, hospital)

    count = asyncio.run(forget())
    out.print(f"{_senders(count)} anew with the next message." if count else "No sender has a number here.")


def _senders(count: int) -> str:
    return "1 sender begins" if count == 1 else f"{count} senders begin"
