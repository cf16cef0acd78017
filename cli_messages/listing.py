"""`hisbridge messages list`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli_messages.filters import Filters, Limit, with_filters
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.output import (
    AsJson,
    as_record,
    err,
    iso_time,
    json_line,
    moment,
    out,
    plain_text,
    write_columns,
    write_line,
)

if TYPE_CHECKING:
    from booking.settings import Hospital
    from scheduler_sync.messages.alike import Alike
    from scheduler_sync.messages.search import Findings, Found

_COLUMNS = ("id", "time", "dir", "connector", "type", "control id", "booking", "state", "answer", "times", "reason")
Each = Annotated[
    bool, typer.Option("--each", help="Also what passed alike before: by itself only its newest is listed.")
]


@with_filters()
def list_command(
    hospital: HospitalId,
    *,
    config: Config = DEFAULT_CONFIG,
    filters: Filters,
    each: Each = False,
    as_json: AsJson = False,
    limit: Limit = 50,
) -> None:
    """The newest messages of a hospital, in and out, without their bodies.

    Of what was asked, refused or sent again many times alike only the newest is listed, with how many times that was.
    """
    import service
    from scheduler_sync.messages.search import find_messages

    settings, at = hospital_of(config, hospital)
    filters.check(at)

    async def read() -> Any:
        wanted = await filters.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            return await find_messages(store, hospital, wanted, limit=limit, alike_once=not each)

    findings = asyncio.run(read())
    if as_json:
        for one in findings.found:
            write_line(json_line(as_record(one, at) | _repeated(findings, one, at)))
    else:
        _print_table(findings, at)
    if not findings.complete:
        err.print("Only the newest were looked at: narrow it with --since and --until.")


def _repeated(findings: Findings, one: Found, at: Hospital) -> dict[str, Any]:
    alike = findings.alike.get(one.id)
    return {"times": 1} if alike is None else {"times": alike.times, "first_at": iso_time(alike.first_ms, at)}


def _print_table(findings: Findings, at: Hospital) -> None:
    if not findings.found:
        out.print("There are none.")
        return
    write_columns([_COLUMNS, *(_cells(one, findings.alike.get(one.id), at) for one in findings.found)])


def _cells(one: Found, alike: Alike | None, at: Hospital) -> tuple[str, ...]:
    kind = one.message_type if one.verb is None else f"{one.message_type} {one.verb}"
    times = None if alike is None else f"{alike.times} since {_time(alike.first_ms, at)}"
    about = (one.direction, one.connector, kind, one.control_id, one.order_no, one.state, one.answer, times)
    cells = (one.id, _time(one.at_ms, at), *(cell or "-" for cell in about), one.reason or "")
    return tuple(plain_text(cell) for cell in cells)


def _time(at_ms: int, at: Hospital) -> str:
    return moment(at_ms, at).strftime("%Y-%m-%d %H:%M:%S")
