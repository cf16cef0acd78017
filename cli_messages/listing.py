"""`hisbridge messages list`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli_messages.filters import Filters, Limit, with_filters
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import AsJson, as_record, err, json_line, moment, out, plain_text, write_line

if TYPE_CHECKING:
    from booking.settings import Hospital
    from scheduler_sync.messages.search import Found

_COLUMNS = ("id", "time", "dir", "connector", "type", "control id", "booking", "state", "answer", "reason")


@with_filters()
def list_command(
    hospital: HospitalId,
    *,
    config: Config = DEFAULT_CONFIG,
    filters: Filters,
    as_json: AsJson = False,
    limit: Limit = 50,
) -> None:
    """The newest messages of a hospital, in and out, without their bodies."""
    import service
    from scheduler_sync.messages.search import find_messages

    settings, at = hospital_of(config, hospital)
    filters.check(at)

    async def read() -> Any:
        wanted = await filters.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            return await find_messages(store, hospital, wanted, limit=limit)

    findings = asyncio.run(read())
    if as_json:
        for one in findings.found:
            write_line(json_line(as_record(one, at)))
    else:
        _print_table(findings.found, at)
    if not findings.complete:
        err.print("Only the newest were looked at: narrow it with --since and --until.")


def _print_table(found: Sequence[Found], at: Hospital) -> None:
    """In columns of text, as wide as they must be: what is there to be copied or searched for is neither cut nor wrapped."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for one in found:
        kind = one.message_type if one.verb is None else f"{one.message_type} {one.verb}"
        time = moment(one.at_ms, at).strftime("%Y-%m-%d %H:%M:%S")
        cells = (one.id, time, one.direction, one.connector, kind, one.control_id, one.order_no, one.state, one.answer)
        rows.append(tuple(plain_text(cell or "-") for cell in (*cells, one.reason or "")))
    if not found:
        out.print("There are none.")
        return
    widths = [max(len(row[n]) for row in rows) for n in range(len(_COLUMNS))]
    for row in rows:
        write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
