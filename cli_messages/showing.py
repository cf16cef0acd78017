"""`hisbridge messages show`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from booking.conversion import SettingsError
from cli_messages.auditing import Reason, Unmasked, unmasking_reason, write_audit
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, charsets_of, hospital_of
from cli_messages.output import write_line


def show_command(
    hospital: HospitalId,
    message_id: Annotated[str, typer.Argument(help="The message's id, see `messages list`.")],
    config: Config = DEFAULT_CONFIG,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """One message, segment by segment, with its answer and what to do next; patients' data are masked."""
    import service
    from scheduler_sync.messages.presenting import describe, open_message
    from scheduler_sync.messages.search import load_message

    settings, at = hospital_of(config, hospital)
    why = unmasking_reason(unmasked, reason)

    async def read() -> list[str]:
        from booking.store.crypto import SealBroken

        async with service.open_store(settings, messages=True) as store:
            whole = await load_message(store, hospital, message_id)
            if whole is None:
                raise SettingsError(f"{hospital} has no message {message_id}")
            try:
                opened: Any = open_message(store.vault, whole)
            except SealBroken as e:
                opened = e
            if why is not None:
                await write_audit(settings, hospital, "show_message", [message_id], why)
            charset = charsets_of(settings, at)(whole.summary.connector)
            told = describe(
                whole.summary, opened, vault=store.vault, zone=at.zone, charset=charset, masked=not unmasked
            )
            return list(told)

    write_line("\n".join(asyncio.run(read())))
