"""`hisbridge reconcile`: the books of a day compared, as a table and as files."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from booking.conversion import SettingsError
from cli_messages.hospitals import DEFAULT_CONFIG, Config, hospital_of
from cli_messages.money.files import Row, write_csv, write_xlsx
from cli_messages.money.kinds import EXPLAINED
from cli_messages.money.orders import orders_of
from cli_messages.output import err, out, plain_text, yuan

if TYPE_CHECKING:
    from booking.reconciled import Run

_SHOWN = 200  # rows of the table; the files have all
_WIDE = 115  # columns of a terminal that shows all
_LOOK_S = 0.25


def reconcile_command(
    date: Annotated[str, typer.Argument(help="The day, as 2026-01-05.")],
    hospital: Annotated[str | None, typer.Option(help="The hospital's id; left out: all of the settings.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write all differences into this CSV file.")] = None,
    xlsx: Annotated[Path | None, typer.Option(help="Also write all differences into this Excel file.")] = None,
    wait_s: Annotated[float, typer.Option(min=0, max=3600, help="How long to wait for the running service.")] = 120,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Have the running service compare the books of a day; exits with 1 if they differ or could not be compared."""
    import service

    day = _day(date)
    settings = service.read_settings(config)
    if hospital is not None:
        hospital_of(config, hospital)
    wanted = [hospital] if hospital is not None else sorted(settings.hospitals)
    made = asyncio.run(_all(settings, wanted, day, wait_s))
    rows = [row for _, found in made.values() for row in found]
    for hospital_id, (run, found) in made.items():
        _print(hospital_id, day, run, found)
    try:
        if csv is not None:
            write_csv(csv, rows)
        if xlsx is not None:
            write_xlsx(xlsx, rows)
    except OSError as e:
        raise SettingsError(f"{e.filename}: cannot be written: {e.strerror}") from None
    if any(run is None or run.done_ms is None or run.failed or run.differences for run, _ in made.values()):
        raise typer.Exit(1)


def _day(text: str) -> dt.date:
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise SettingsError("the day is given as 2026-01-05") from None
    if not 2000 <= day.year <= 2199:
        raise SettingsError("the day is far beyond any bill")
    return day


async def _all(
    settings: Any, hospitals: list[str], day: dt.date, wait_s: float
) -> dict[str, tuple[Run | None, list[Row]]]:
    import service

    async with service.open_store(settings) as store:
        return dict(
            zip(hospitals, await asyncio.gather(*(_one(store, h, day, wait_s) for h in hospitals)), strict=True)
        )


async def _one(store: Any, hospital_id: str, day: dt.date, wait_s: float) -> tuple[Run | None, list[Row]]:
    """Ask for the comparison and wait until whoever works the hospital has made it."""
    from booking.merchant_bills import whole_revisions
    from booking.reconciled import load_run, page_of
    from booking.reopening import ask_run

    async with store.read(hospital_id) as tx:
        if not await whole_revisions(tx, day):
            return None, []
    async with store.write(hospital_id) as tx:
        number = await ask_run(tx, day)
    loop = asyncio.get_running_loop()
    ends = loop.time() + wait_s
    while True:
        async with store.read(hospital_id) as tx:
            run = await load_run(tx, day, number)
        if run is None or run.done_ms is not None or loop.time() >= ends:
            break
        await asyncio.sleep(_LOOK_S)
    rows: list[Row] = []
    if run is None or run.done_ms is None or run.failed:
        return run, rows
    after = 0
    while True:
        async with store.read(hospital_id) as tx:
            page = await page_of(tx, run, after=after)
            orders = await orders_of(tx, [one for _, one in page])
        for _, one in page:
            rows.append((hospital_id, day.isoformat(), one.kind, EXPLAINED[one.kind].term_zh, one.channel or "", one.trade_no,
                         one.merchant_fen, one.ours_fen, one.his_fen, orders.get((one.channel, one.trade_no), "")))  # fmt: skip
        if not page:
            return run, rows
        after = page[-1][0]


def _print(hospital_id: str, day: dt.date, run: Run | None, rows: list[Row]) -> None:
    head = f"{hospital_id} {day}"
    if run is None:
        to = f"/v1/hospitals/{hospital_id}/merchant-bills/{day}/SOURCE"
        err.print(
            f"{head}: no merchant's bill was sent. Send it with PUT {to}, as the API guide shows.", soft_wrap=True
        )
        return
    if run.done_ms is None:
        err.print(
            f"{head}: asked for, and not made yet: a running service does it. Is it up, with these settings?",
            soft_wrap=True,
        )
        return
    if run.failed:
        err.print(f"{head}: could not be compared: {run.failed}. The log says more; try again later.", soft_wrap=True)
        return
    his = "no statement" if run.his_lines is None else f"{run.his_lines} of the hospital"
    out.print(f"{head}: {run.merchant_lines} lines of the merchant, {run.our_lines} of ours, {his}.")
    if not rows:
        out.print("The books agree.")
        return
    out.print(_table(rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        out.print(f"... and {len(rows) - _SHOWN} more: --csv or --xlsx has them all.")
    _explain([row[2] for row in rows])


def _table(rows: list[Row]) -> Table:
    """Trade numbers whole, to be copied; the booking or bill where there is room for it (the files always have it)."""
    wide = out.width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("kind", no_wrap=True)
    table.add_column("channel", overflow="fold")
    table.add_column("trade_no", overflow="fold", min_width=min(28, max(len(row[5]) for row in rows)))
    for name in ("merchant", "ours", "his"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("booking or bill", overflow="fold")
    for _, _, kind, _, channel, trade_no, *amounts, order in rows:
        cells = (kind, channel, trade_no, *map(yuan, amounts), *([order] if wide else []))
        table.add_row(*(Text(plain_text(cell)) for cell in cells))
    return table


def _explain(kinds: list[str]) -> None:
    """What the kinds that were found say, and what to do next."""
    for kind, words in EXPLAINED.items():
        if count := kinds.count(kind):
            out.print(f"{kind} ({count}): {words.says_en}. Next: {words.do_en}.")
            out.print(f"  {words.term_zh}：{words.says_zh}。下一步：{words.do_zh}。")
