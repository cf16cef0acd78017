"""`hisbridge messages audit`, and the rows that other commands write into the audit before they show or change anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from booking.conversion import SettingsError
from cli_messages.filters import Limit
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import AsJson, err, iso_time, json_line, moment, out, plain_text, write_line

if TYPE_CHECKING:
    from booking.audit import AuditRow
    from booking.settings import Hospital, Settings

Unmasked = Annotated[bool, typer.Option("--unmasked", help="With patients' data. Takes --reason, and is audited.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit. Write no patient's name into it.")]
SHORTEST_REASON = 5  # characters


def audit_command(
    hospital: HospitalId, config: Config = DEFAULT_CONFIG, as_json: AsJson = False, limit: Limit = 50
) -> None:
    """Who has read or replayed messages, newest first, and whether the rows are as they were written."""
    import service
    from booking.audit import broken_at, read_audit

    settings, at = hospital_of(config, hospital)

    async def read() -> Any:
        async with service.open_store(settings) as store, store.read(hospital) as tx:
            return await read_audit(tx, limit=limit), await broken_at(tx)

    rows, broken = asyncio.run(read())
    for row in rows:
        write_line(json_line(_record(row, at)) if as_json else plain_text(_line(row, at)))
    if not rows and not as_json:
        out.print("There are none.")
    if broken is not None:
        err.print(f"Row {broken} is missing, or is not what was written: somebody has changed the audit.")
        raise typer.Exit(1)


def _line(row: AuditRow, at: Hospital) -> str:
    time = moment(row.at_ms, at).isoformat(" ", "seconds")
    return f"{row.number}  {time}  {row.actor}  {row.action}  {row.subject}  {row.reason}"


def _record(row: AuditRow, at: Hospital) -> dict[str, Any]:
    import msgspec

    record = msgspec.structs.asdict(row)
    return {"number": record.pop("number"), "at": iso_time(record.pop("at_ms"), at), **record}


def unmasking_reason(unmasked: bool, reason: str | None) -> str | None:
    """The reason of an unmasked reading, None where it is masked. Raises SettingsError."""
    if not unmasked:
        return None
    if reason is None or len(reason.strip()) < SHORTEST_REASON:
        raise SettingsError('--unmasked takes --reason "...", which is audited with your name before anything is shown')
    return reason.strip()


async def write_audit(settings: Settings, hospital: str, action: str, ids: Sequence[str], reason: str) -> None:
    """On the disk before anything is shown or changed."""
    import service
    from booking.audit import append_audit, os_actor

    async with service.open_store(settings) as store, store.write(hospital) as tx:
        for start in range(0, len(ids), 50):
            subject = " ".join(ids[start : start + 50])
            await append_audit(tx, actor=os_actor(), action=action, subject=subject, reason=reason)
