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
            _write(json_line(as_record(one, at)) + "\n")
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
    """In columns of text, as wide as they must be: what is there to be copied or searched for is neither cut nor wrapped."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for one in found:
        kind = one.message_type if one.verb is None else f"{one.message_type} {one.verb}"
        time = _moment(one.at_ms, at).strftime("%Y-%m-%d %H:%M:%S")
        cells = (one.id, time, one.direction, one.connector, kind, one.control_id, one.order_no, one.state, one.answer)
        rows.append(tuple(plain_text(cell or "-") for cell in (*cells, one.reason or "")))
    if not found:
        out.print("There are none.")
        return
    widths = [max(len(row[n]) for row in rows) for n in range(len(_COLUMNS))]
    for row in rows:
        _write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


# --- one message, and files of them ---------------------------------------------------------------------------------

Unmasked = Annotated[bool, typer.Option("--unmasked", help="With patients' data. Takes --reason, and is audited.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit. Write no patient's name into it.")]


@app.command("show")
def show_command(
    hospital: HospitalId,
    message_id: Annotated[str, typer.Argument(help="The message's id, see `messages list`.")],
    config: Config = _DEFAULT,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """One message, segment by segment, with its answer and what to do next; patients' data are masked."""
    import service
    from scheduler_sync.messages.presenting import describe, open_message
    from scheduler_sync.messages.search import load_message

    settings, at = _hospital(config, hospital)
    why = _reason(unmasked, reason)

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
                await _audit(settings, hospital, "show_message", [message_id], why)
            charset = _charsets(settings, at)(whole.summary.connector)
            told = describe(
                whole.summary, opened, vault=store.vault, zone=at.zone, charset=charset, masked=not unmasked
            )
            return list(told)

    _write("\n".join(asyncio.run(read())) + "\n")


@app.command("export")
def export_command(
    hospital: HospitalId,
    to: Annotated[Path, typer.Argument(help="A file that ends in .ndjson, or a folder for one file each.")],
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
    limit: Limit = 1_000,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """Write messages into a file or a folder that only you may read; patients' data are masked."""
    import service
    from scheduler_sync.messages.exporting import write_messages
    from scheduler_sync.messages.search import find_messages

    settings, at = _hospital(config, hospital)
    why = _reason(unmasked, reason)
    asked = _Asked(direction, connector, state, message_type, control_id, booking, patient, since, until, text)

    async def write() -> int:
        wanted = await asked.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            found = (await find_messages(store, hospital, wanted, limit=limit)).found
            if why is not None and found:
                await _audit(settings, hospital, "export_messages", [one.id for one in found], why)
            charsets = _charsets(settings, at)
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


@app.command("audit")
def audit_command(hospital: HospitalId, config: Config = _DEFAULT, limit: Limit = 50) -> None:
    """Who has read or replayed messages, newest first, and whether the rows are as they were written."""
    import service
    from booking.audit import broken_at, read_audit

    settings, at = _hospital(config, hospital)

    async def read() -> Any:
        async with service.open_store(settings) as store, store.read(hospital) as tx:
            return await read_audit(tx, limit=limit), await broken_at(tx)

    rows, broken = asyncio.run(read())
    for row in rows:
        moment = _moment(row.at_ms, at).isoformat(" ", "seconds")
        line = f"{row.number}  {moment}  {row.actor}  {row.action}  {row.subject}  {row.reason}"
        _write(plain_text(line) + "\n")
    if not rows:
        out.print("There are none.")
    if broken is not None:
        err.print(f"Row {broken} is missing, or is not what was written: somebody has changed the audit.")
        raise typer.Exit(1)


# --- numbered messages ---------------------------------------------------------------------------------------------


@app.command("begin-series")
def begin_series_command(
    hospital: HospitalId,
    reason: Annotated[str, typer.Option(help="Why, in five characters or more: it is audited with your name.")],
    config: Config = _DEFAULT,
) -> None:
    """Take the next numbered message of each sender of a hospital whatever its number is (`sequence = "check"`).

    For a sender that has lost count and cannot say so itself (MSH-13 = -1).
    """
    import service
    from scheduler_sync.messages.series import begin_series

    settings, _ = _hospital(config, hospital)
    if len(reason.strip()) < 5:
        raise SettingsError("--reason is audited with your name: say why in five characters or more")

    async def forget() -> int:
        await _audit(settings, hospital, "begin_series", ["all senders"], reason.strip())
        async with service.open_store(settings, messages=True) as store:
            return await begin_series(store, hospital)

    count = asyncio.run(forget())
    out.print(f"{count} senders begin anew with their next message." if count else "No sender has a number here.")


# --- having one applied anew ----------------------------------------------------------------------------------------


@app.command("replay")
def replay_command(
    hospital: HospitalId,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of messages, see `messages list`.")] = None,
    config: Config = _DEFAULT,
    connector: Connector = None,
    state: Annotated[str, typer.Option(help="Without ids: of which state, quarantined or applied.")] = "quarantined",
    message_type: Type = None,
    control_id: ControlId = None,
    booking: Booking = None,
    patient: Patient = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    limit: Limit = 1_000,
    everything: Annotated[bool, typer.Option("--all", help="Without ids: all that the filters find.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of each.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was applied already. Takes --reason.")] = False,
    over_newer: Annotated[
        bool, typer.Option("--over-newer", help="Also where newer details of the patient came since.")
    ] = False,
    reason: Reason = None,
    wait_s: Annotated[float, typer.Option(min=0, max=600, help="How long to wait for the service to apply them.")] = 15,
) -> None:
    """Map messages that were set aside by the profile as it is now, and have them applied in their order."""
    import service
    from scheduler_sync.messages.search import find_messages

    settings, at = _hospital(config, hospital)
    if not ids and not everything and not dry_run:
        raise SettingsError("give ids, or --all for everything that the filters find; --dry-run shows what that is")
    if again and not dry_run and not reason:
        raise SettingsError("--again takes --reason: why it shall be applied once more")
    asked = _Asked("in", connector, state, message_type, control_id, booking, patient, since, until, text)
    read_again = _reads_again(settings, at)

    async def replay() -> int:
        wanted = None if ids else await asked.resolve(settings, at)
        async with service.open_store(settings, messages=True) as store:
            chosen = ids or []
            if wanted is not None:
                chosen = [one.id for one in (await find_messages(store, hospital, wanted, limit=limit)).found]
            if chosen and not dry_run:
                why = reason or "asked for without a reason"
                await _audit(settings, hospital, "replay_again" if again else "replay", sorted(chosen), why)
            flags = {"again": again, "over_newer": over_newer, "dry_run": dry_run}
            return await _replay_all(store, hospital, sorted(set(chosen)), read_again, flags, wait_s)

    failed = asyncio.run(replay())
    if failed:
        raise typer.Exit(1)


async def _replay_all(
    store: Any, hospital: str, ids: list[str], read_again: Any, flags: dict[str, bool], wait_s: float
) -> int:
    """Oldest first; returns how many will not be applied."""
    from scheduler_sync.messages.replay import replay_message

    queued: dict[str, str] = {}
    failed = 0
    for message_id in ids:
        one = await replay_message(store, hospital, message_id, read_again, **flags)
        if one.queued_as is not None:
            queued[message_id] = one.queued_as
        else:
            failed += not one.would
            _write(f"{message_id}: {plain_text(one.text)}\n")
    if not ids:
        out.print("There are none.")
    return failed + await _wait_for(store, hospital, queued, wait_s)


async def _wait_for(store: Any, hospital: str, queued: dict[str, str], wait_s: float) -> int:
    """Say what became of each; returns how many were set aside again."""
    from scheduler_sync.messages.replay import state_of

    loop = asyncio.get_running_loop()
    ends = loop.time() + wait_s
    failed = 0
    while queued:
        for message_id, waits_as in list(queued.items()):
            state, reason = await state_of(store, hospital, waits_as)
            if state == "received":
                continue
            del queued[message_id]
            failed += state != "applied"
            called = message_id if waits_as == message_id else f"{message_id} (as {waits_as})"
            _write(f"{called}: {state}{'' if reason is None else ': ' + plain_text(reason)}\n")
        if not queued or loop.time() >= ends:
            break
        await asyncio.sleep(0.25)
    for message_id, waits_as in queued.items():
        _write(
            f"{message_id}: stored as {waits_as}, and not applied yet: a running service does it, or the next start\n"
        )
    return failed


def _reads_again(settings: Settings, at: Hospital) -> Any:
    import service
    from connectors.port import Inbound, ReadsAgain, Refused

    connectors = service.build_connectors(settings, at)

    def read_again(name: str, raw: bytes, peer: str) -> Inbound | Refused:
        connector = connectors.get(name)
        if connector is None:
            return Refused(code="no_connector", text=f"the settings have no connector {name} any more", retryable=False)
        if not isinstance(connector, ReadsAgain):
            return Refused(code="not_offered", text=f"connector {name} cannot read stored messages", retryable=False)
        return connector.read_again(raw, peer)

    return read_again


def _charsets(settings: Settings, at: Hospital) -> Any:
    """The character set of messages that name none, by connector; the standard's where the settings are broken now."""
    import service

    try:
        connectors = service.build_connectors(settings, at)
    except service.STOPS_THE_START:
        connectors = {}

    def charset(name: str) -> str:
        known = getattr(connectors.get(name), "settings", None)
        return str(getattr(known, "charset", "UNICODE UTF-8"))

    return charset


def _reason(unmasked: bool, reason: str | None) -> str | None:
    """The reason of an unmasked reading. Raises SettingsError."""
    if not unmasked:
        return None
    if reason is None or len(reason.strip()) < 5:
        raise SettingsError('--unmasked takes --reason "...", which is audited with your name before anything is shown')
    return reason.strip()


async def _audit(settings: Settings, hospital: str, action: str, ids: Sequence[str], reason: str) -> None:
    """On the disk before anything is shown or changed."""
    import service
    from booking.audit import append_audit, os_actor

    async with service.open_store(settings) as store, store.write(hospital) as tx:
        for start in range(0, len(ids), 50):
            subject = " ".join(ids[start : start + 50])
            await append_audit(tx, actor=os_actor(), action=action, subject=subject, reason=reason)


def plain_text(text: str) -> str:
    """As the terminal may have it, without markup."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def json_line(record: dict[str, Any]) -> str:
    """As the terminal may have it: by itself JSON escapes only what is below a blank."""
    line = json.dumps(record, ensure_ascii=False)
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _write(text: str) -> None:
    sys.stdout.write(text)
