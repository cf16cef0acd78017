"""`hisbridge messages`: to see what a hospital sent and was sent, and to have one applied anew. Parses, calls, prints."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from booking.conversion import SettingsError

if TYPE_CHECKING:
    from booking.settings import Hospital, Settings
    from scheduler_sync.messages.search import Found, Wanted

app = typer.Typer(no_args_is_help=True, help="Messages that hospitals sent, and what they were asked and answered.")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (TOML).")]
HospitalId = Annotated[str, typer.Argument(help="The hospital's id.")]
Direction = Annotated[str | None, typer.Option(help="in (the HIS began) or out.")]
Connector = Annotated[str | None, typer.Option(help="The connector's name in the settings.")]
State = Annotated[
    str | None, typer.Option(help="received, applied, quarantined, done, failed, unknown, refused or duplicate.")
]
Type = Annotated[str | None, typer.Option("--type", help="As ADT^A08, or ADT for all of them.")]
ControlId = Annotated[str | None, typer.Option(help="MSH-10, or what else the protocol calls it.")]
Booking = Annotated[str | None, typer.Option(help="A booking's id or order number, or the HIS's own id of it.")]
Patient = Annotated[str | None, typer.Option(help="The patient's number at the hospital (MRN).")]
Since = Annotated[str | None, typer.Option(help="2026-11-30, 2026-11-30T07:00 (the hospital's time), or 90m, 12h, 7d.")]
Until = Annotated[str | None, typer.Option(help="The same; what began at this very time is left out.")]
Words = Annotated[str | None, typer.Option("--text", help="Words of the reason.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")]
_DEFAULT = Path("hisbridge.toml")
_COLUMNS = ("id", "time", "dir", "connector", "type", "control id", "booking", "state", "answer", "reason")


@app.command("list")
def list_command(
    hospital: HospitalId,
    config: Config = _DEFAULT,
    direction: Direction = None,
    connector: Connector = None,
    state: State = None,
    message_type: Type = None,
    control_id: ControlId = None,
    booking: Booking = None,
    patient: Patient = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    as_json: AsJson = False,
    limit: Limit = 50,
) -> None:
    """The newest messages of a hospital, in and out, without their bodies."""
    import service
    from scheduler_sync.messages.search import find_messages

    settings, at = _hospital(config, hospital)
    asked = _Asked(direction, connector, state, message_type, control_id, booking, patient, since, until, text)

    async def read() -> Any:
        wanted = await asked.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            return await find_messages(store, hospital, wanted, limit=limit)

    findings = asyncio.run(read())
    if as_json:
        for one in findings.found:
            _print_line(as_record(one, at))
    else:
        _print_table(findings.found, at)
    if not findings.complete:
        err.print("Only the newest were looked at: narrow it with --since and --until.")


def as_record(one: Found, at: Hospital) -> dict[str, Any]:
    """A message as `--json` and NDJSON show it; `at` is the time with the hospital's offset."""
    import msgspec

    record = msgspec.structs.asdict(one)
    return {"id": record.pop("id"), "at": _moment(record.pop("at_ms"), at).isoformat(timespec="milliseconds"), **record}


class _Asked:
    """What the options ask for."""

    def __init__(
        self,
        direction: str | None,
        connector: str | None,
        state: str | None,
        message_type: str | None,
        control_id: str | None,
        booking: str | None,
        patient: str | None,
        since: str | None,
        until: str | None,
        text: str | None,
    ) -> None:
        from scheduler_sync.messages.search import EXCHANGE_STATES, MESSAGE_STATES

        if direction not in (None, "in", "out"):
            raise SettingsError("--direction is in or out")
        if state not in (None, *MESSAGE_STATES, *EXCHANGE_STATES):
            raise SettingsError(f"--state is one of {', '.join((*MESSAGE_STATES, *EXCHANGE_STATES))}")
        self._plain = {
            "direction": direction,
            "connector": connector,
            "state": state,
            "message_type": message_type,
            "text": text,
        }
        self._control_id, self._booking, self._patient = control_id, booking, patient
        self._since, self._until = since, until

    async def resolve(self, settings: Settings, at: Hospital) -> Wanted:
        """As the message store is asked: the booking store says under which numbers a booking and a patient go."""
        import service
        from scheduler_sync.messages.references import control_ref
        from scheduler_sync.messages.search import Wanted
        from scheduler_sync.messages.subjects import refs_of_booking, refs_of_patient

        if self._connector_unknown(at):
            raise SettingsError(f"{at.id} has no connector {self._plain['connector']}: {', '.join(at.connector)}")
        linked: list[tuple[str, ...]] = [] if self._control_id is None else [(control_ref(self._control_id),)]
        if self._booking is not None or self._patient is not None:
            async with service.open_store(settings) as store, store.read(at.id) as tx:
                if self._booking is not None:
                    linked.append(await refs_of_booking(tx, self._booking))
                if self._patient is not None:
                    linked.append(await refs_of_patient(tx, self._patient))
        times = {"since_ms": _time_ms(self._since, at, "--since"), "until_ms": _time_ms(self._until, at, "--until")}
        return Wanted(**self._plain, **times, linked=tuple(linked))  # type: ignore[arg-type]

    def _connector_unknown(self, at: Hospital) -> bool:
        return self._plain["connector"] is not None and self._plain["connector"] not in at.connector


def _time_ms(text: str | None, at: Hospital, option: str) -> int | None:
    """An instant of the hospital's zone, or so long ago. Raises SettingsError."""
    if text is None:
        return None
    seconds = {"m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    try:
        if seconds is not None and text[:-1].isdecimal():
            moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(text[:-1]) * seconds)
        else:
            moment = dt.datetime.fromisoformat(text)
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=at.zone)
        return max(0, round(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise SettingsError(f"{option}: expected 2026-11-30, 2026-11-30T07:00, or as 90m, 12h, 7d") from None


def _hospital(config: Path, hospital_id: str) -> tuple[Settings, Hospital]:
    import service

    settings = service.read_settings(config)
    if hospital_id not in settings.hospitals:
        raise SettingsError(f"there is no hospital {hospital_id} in {config}")
    return settings, settings.hospitals[hospital_id]


def _moment(at_ms: int, at: Hospital) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_ms / 1000, at.zone)


def _print_table(found: Sequence[Found], at: Hospital) -> None:
    if not found:
        out.print("There are none.")
        return
    table = Table()
    for name in _COLUMNS:
        # What is there to be copied is never cut.
        table.add_column(name, no_wrap=name in ("id", "booking"), overflow="fold")
    for one in found:
        kind = one.message_type if one.verb is None else f"{one.message_type} ({one.verb})"
        time = _moment(one.at_ms, at).strftime("%m-%d %H:%M:%S")
        cells = (one.id, time, one.direction, one.connector, kind, one.control_id, one.order_no, one.state, one.answer)
        table.add_row(*(plainly(cell or "") for cell in (*cells, one.reason)))
    out.print(table)


def plainly(text: str) -> str:
    """A text that a peer chose: no control characters for the terminal, and no markup for `rich`."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))


def _print_line(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
