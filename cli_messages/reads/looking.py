"""`hisbridge reads list` and `export`."""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from booking.conversion import SettingsError
from cli_messages.auditing import Reason, Unmasked, unmasking_reason, write_audit
from cli_messages.filters import Limit, time_ms
from cli_messages.hospitals import DEFAULT_CONFIG, Config, HospitalId, hospital_of
from cli_messages.money.files import harmless
from cli_messages.output import AsJson, iso_time, json_line, moment, out, plain_text, write_columns, write_line

if TYPE_CHECKING:
    from booking.report_reads import ReadRow, WantedReads
    from booking.settings import Hospital, Settings

COLUMNS = ("number", "at", "client", "user", "patient", "person", "what", "reports", "outcome", "request")

Patient = Annotated[
    str | None,
    typer.Option(help="Whose reports: a patient's id, mrn:NUMBER, or id_card:NUMBER (any type of document)."),
]
ReportId = Annotated[str | None, typer.Option("--report", help="A report's id.")]
Client = Annotated[str | None, typer.Option(help="The portal's id.")]
Since = Annotated[str | None, typer.Option(help="2026-11-30, 2026-11-30T07:00 (the hospital's time), or 90m, 12h, 7d.")]
Until = Annotated[str | None, typer.Option(help="The same; what was at this very time is left out.")]


def list_command(
    hospital: HospitalId,
    config: Config = DEFAULT_CONFIG,
    patient: Patient = None,
    report: ReportId = None,
    client: Client = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
    limit: Limit = 50,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """Reads of reports, newest first. The portals' names of their users are masked."""
    settings, at = hospital_of(config, hospital)
    why = unmasking_reason(unmasked, reason)
    wanted = _Wanted(patient, report, client, time_ms(since, at, "--since"), time_ms(until, at, "--until"))

    async def read() -> list[ReadRow]:
        return [row async for row in _rows(settings, at, wanted, limit, why)]

    rows = asyncio.run(read())
    if as_json:
        for row in rows:
            write_line(json_line(dict(zip(COLUMNS, _cells(row, at, why is not None), strict=True))))
        return
    if not rows:
        out.print("There are none.")
        return
    table = [COLUMNS, *(tuple(_plain(cell) for cell in _cells(row, at, why is not None, short=True)) for row in rows)]
    write_columns(table)


def export_command(
    hospital: HospitalId,
    path: Annotated[Path, typer.Argument(help="A new file; .csv, or else one JSON object on each line.")],
    config: Config = DEFAULT_CONFIG,
    patient: Patient = None,
    report: ReportId = None,
    client: Client = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100_000,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """The same as a file, readable for its owner only: for who asks who has seen their reports."""
    settings, at = hospital_of(config, hospital)
    why = unmasking_reason(unmasked, reason)
    wanted = _Wanted(patient, report, client, time_ms(since, at, "--since"), time_ms(until, at, "--until"))

    async def export(write: Callable[[tuple[Any, ...]], None]) -> int:
        count = 0
        async for row in _rows(settings, at, wanted, limit, why):
            write(_cells(row, at, why is not None))
            count += 1
        return count

    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} exists, and is not overwritten") from None
    except OSError as e:
        raise SettingsError(f"{path}: cannot be written: {e.strerror}") from None
    as_csv = path.suffix == ".csv"
    with open(opened, "w", encoding="utf-8-sig" if as_csv else "utf-8", newline="") as stream:
        writer = csv.writer(stream)
        if as_csv:
            writer.writerow(COLUMNS)

        def write(cells: tuple[Any, ...]) -> None:
            if as_csv:
                writer.writerow([harmless(cell) for cell in cells])
            else:
                stream.write(json_line(dict(zip(COLUMNS, cells, strict=True))) + "\n")

        count = asyncio.run(export(write))
    out.print(f"Wrote {count} reads to {path}.", soft_wrap=True)


class _Wanted:
    def __init__(
        self, patient: str | None, report: str | None, client: str | None, since_ms: int | None, until_ms: int | None
    ) -> None:
        self.patient, self.report, self.client = patient, report, client
        self.since_ms, self.until_ms = since_ms, until_ms

    async def resolve(self, store: Any, at: Hospital) -> WantedReads:
        """As the store is asked: persons by their ids."""
        from booking.report_reads import WantedReads, persons_meant

        persons: tuple[str, ...] | None = None
        if self.patient is not None:
            named = _named(self.patient)
            async with store.read(at.id) as tx:
                persons = await persons_meant(tx, **named)
        elif self.report is not None:
            async with store.read(at.id) as tx:
                # A report is one person's: by their reads, which have an index, its own are found soon.
                persons = await persons_meant(tx, report_id=self.report) or None
        return WantedReads(
            client_id=self.client,
            person_ids=persons,
            report_id=self.report,
            since_ms=self.since_ms,
            until_ms=self.until_ms,
        )


def _named(patient: str) -> dict[str, Any]:
    """Whom `--patient` means. Raises SettingsError."""
    from booking.documents import DocumentUnfit, check_document

    kind, colon, number = patient.partition(":")
    if not colon:
        return {"patient_id": patient}
    if kind == "mrn":
        return {"mrn": number}
    try:
        return {"document": check_document(kind, number)}
    except DocumentUnfit as e:
        raise SettingsError(f"--patient: expected as {e.field} {e.expected}") from None


async def _rows(
    settings: Settings, at: Hospital, wanted: _Wanted, limit: int, why: str | None
) -> AsyncIterator[ReadRow]:
    """Page by page, newest first; whoever sees more than is masked is in the audit before."""
    import msgspec

    import service
    from booking.report_reads import find_reads
    from booking.report_reads.finding import PAGE

    if why is not None:
        await write_audit(settings, at.id, "show_reads", [wanted.report or "reads"], why)
    async with service.open_store(settings) as store:
        asked = await wanted.resolve(store, at)
        while limit > 0:
            async with store.read(at.id, clock=False) as tx:
                page = await find_reads(tx, asked, limit=min(limit, PAGE))
            for row in page:
                yield row
            limit -= len(page)
            if len(page) < PAGE:
                return
            asked = msgspec.structs.replace(asked, before=page[-1].number)


def _cells(row: ReadRow, at: Hospital, unmasked: bool, *, short: bool = False) -> tuple[Any, ...]:
    time = moment(row.at_ms, at).isoformat(" ", "seconds") if short else iso_time(row.at_ms, at)
    user = row.user_ref if unmasked or row.user_ref is None else _masked(row.user_ref)
    about = (row.client_id, user, row.patient_id, row.person_id, row.what, row.reports, row.outcome, row.request_id)
    return (row.number, time, *about)


def _masked(user_ref: str) -> str:
    """The first two characters: a portal may call its users by their phone numbers."""
    return user_ref[:2] + "*" * 3


def _plain(cell: object) -> str:
    return "-" if cell in (None, "") else plain_text(str(cell))
