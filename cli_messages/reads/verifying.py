"""`hisbridge reads verify`."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import err, out


def verify_command(hospital: HospitalId, config: Config = DEFAULT_CONFIG) -> None:
    """Look through the whole record; tells each place where it is not what was written, and ends with 1 if there is one."""
    import service
    from booking.report_reads import verify_reads

    settings, _ = hospital_of(config, hospital)

    async def look() -> Any:
        async with service.open_store(settings) as store:
            return await verify_reads(store, hospital)

    verdict = asyncio.run(look())
    if verdict.last < verdict.first and not verdict.faults:
        out.print("There are none.")
        return
    for fault in verdict.faults:
        err.print(f"{fault}.", soft_wrap=True)
    if verdict.faults:
        err.print("Somebody has changed the record.")
        raise typer.Exit(1)
    # Who notes both elsewhere can tell later whether the end was cut off, or all of it was replaced by an older state.
    out.print(f"Rows {verdict.first} to {verdict.last} are as they were written.", soft_wrap=True)
    out.print(f"The last digest is {verdict.closing}", soft_wrap=True)
