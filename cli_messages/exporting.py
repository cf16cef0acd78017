"""`hisbridge messages export`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from booking.conversion import SettingsError
from cli_messages.auditing import Reason, Unmasked, unmasking_reason, write_audit
from cli_messages.filters import Filters, Limit, with_filters
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, charsets_of, hospital_of
from cli_messages.output import as_record, out


@with_filters()
def export_command(
    hospital: HospitalId,
    to: Annotated[Path, typer.Argument(help="A file that ends in .ndjson, or a folder for one file each.")],
    *,
    config: Config = DEFAULT_CONFIG,
    filters: Filters,
    limit: Limit = 1_000,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """Write messages into a file or a folder that only you may read; patients' data are masked."""
    import service
    from scheduler_sync.messages.exporting import write_messages
    from scheduler_sync.messages.search import find_messages

    settings, at = hospital_of(config, hospital)
    why = unmasking_reason(unmasked, reason)
    filters.check(at)

    async def write() -> int:
        wanted = await filters.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            found = (await find_messages(store, hospital, wanted, limit=limit)).found
            if why is not None and found:
                await write_audit(settings, hospital, "export_messages", [one.id for one in found], why)
            charsets = charsets_of(settings, at)
            return await write_messages(
                store, to, [(as_record(one, at), charsets(one.connector)) for one in found], masked=not unmasked
            )

    try:
        count = asyncio.run(write())
    except FileExistsError as e:
        raise SettingsError(f"{e.filename} exists, and is not overwritten") from None
    except OSError as e:
        raise SettingsError(f"{to}: cannot be written: {e.strerror}") from None
    out.print(f"Wrote {count} {'message' if count == 1 else 'messages'} to {to}.", markup=False, soft_wrap=True)
