"""`hisbridge profile call`."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from booking.conversion import SettingsError
from cli_messages.auditing import Reason, Unmasked, unmasking_reason, write_audit
from cli_messages.output import err, out, plain_text, write_line
from cli_profiles.places import (
    DEFAULT_CONFIG,
    Config,
    Name,
    ProfilesDir,
    connector_of,
    context_of,
    load,
    profiles_folder,
    site_of,
)

if TYPE_CHECKING:
    from booking.settings import Hospital, Settings
    from cli_profiles.calls import Asked
    from cli_profiles.samples import SoapSample
    from connectors.port import Acknowledged, Connector, Exchanged, HisError, Verb
    from mappings.profile import Profile

Day = Annotated[str | None, typer.Option(help="As 2026-01-05; left out: today.")]
Of = Annotated[str | None, typer.Option(help="Of the patient.")]
MOST_PASSED = 5
_HIDDEN = 'What the profile has no words for is hidden, for it may name somebody: --unmasked --reason "..." shows it.'


def call_command(
    name: Name,
    verb: Annotated[str, typer.Argument(help="A read, as fetch_schedules. Writes are refused.")],
    hospital: Annotated[str, typer.Option(help="The hospital's id in the settings.")],
    *,
    config: Config = DEFAULT_CONFIG,
    profiles_dir: ProfilesDir = None,
    connector: Annotated[str | None, typer.Option(help="Which one, where several could be meant.")] = None,
    date_from: Day = None,
    date_to: Day = None,
    department: Annotated[
        str | None, typer.Option(help="Its code; left out: the HIS's first, where it is asked by it.")
    ] = None,
    mrn: Of = None,
    patient_name: Annotated[str | None, typer.Option("--name", help="Of the patient.")] = None,
    id_number: Of = None,
    phone: Of = None,
    card_number: Of = None,
    card_type: Of = None,
    order_no: Annotated[str | None, typer.Option(help="Our number of the order.")] = None,
    his_ref: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of his_refs. Repeat for several.")] = None,
    report_id: Annotated[str | None, typer.Option(help="The report's number.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many records are shown.")] = 20,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """Ask a hospital once, with its settings and this profile: request, answer, records and problems, masked.

    Only reads. Nothing of it is stored or applied. The hospital's connector need not name the profile yet.
    """
    from cli_profiles.calls import verb_of

    why = unmasking_reason(unmasked, reason)
    profile = load(name, profiles_folder(config, profiles_dir))
    wanted = verb_of(verb, profile)
    settings, at = site_of(config, hospital) or (None, None)
    assert settings is not None and at is not None  # noqa: S101, PT018 - a hospital is named
    if profiles_dir is not None:
        settings = msgspec.structs.replace(settings, profiles_dir=str(profiles_dir))
    called, table = connector_of(at, profile, connector)
    his = _built(settings, at, called, table | {"profile": name})
    person = {"mrn": mrn, "name": patient_name, "id_number": id_number, "phone": phone, "card_number": card_number,
              "card_type": card_type}  # fmt: skip
    asked = _asked(at, date_from, date_to, department, order_no, report_id, his_ref or [], person)
    if why is not None:
        asyncio.run(write_audit(settings, at.id, "profile_call", [f"{name} {wanted}"], why))
    shown = _Shown(profile, table, at, masked=not unmasked, most=most)
    if not asyncio.run(shown.call(his, wanted, asked)):
        raise typer.Exit(1)


def _built(settings: Settings, at: Hospital, name: str, table: dict[str, Any]) -> Connector:
    """The hospital's connector with this profile, and none of its others. Raises SettingsError, ProfileError."""
    import service

    return service.build_connectors(settings, msgspec.structs.replace(at, connector={name: table}))[name]


def _asked(
    at: Hospital,
    date_from: str | None,
    date_to: str | None,
    department: str | None,
    order_no: str | None,
    report_id: str | None,
    his_refs: list[str],
    person: dict[str, str | None],
) -> Asked:
    from cli_profiles.calls import Asked

    first = _day(date_from, "--date-from") or dt.datetime.now(at.zone).date()
    last = _day(date_to, "--date-to") or (first if date_from else first + dt.timedelta(days=at.horizon_days - 1))
    refs = dict(one.partition("=")[::2] for one in his_refs)
    given = {key: value for key, value in person.items() if value is not None}
    return Asked(
        date_from=first, date_to=last, department=department, order_no=order_no, report_id=report_id, his_refs=refs,
        patient=given,
    )  # fmt: skip


def _day(text: str | None, option: str) -> dt.date | None:
    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{option}: expected a day as 2026-01-05") from None


class _Shown:
    """One call, and what is printed of it."""

    def __init__(self, profile: Profile, table: dict[str, Any], at: Hospital, *, masked: bool, most: int) -> None:
        self._profile, self._table, self._at = profile, table, at
        self._masked, self._most = masked, most
        self._passed: list[tuple[Any, Any, Any, Any]] = []
        self._exchanged: list[Exchanged] = []
        self._charset = "UNICODE UTF-8"

    async def call(self, his: Connector, verb: Verb, asked: Asked) -> bool:
        """Whether the HIS answered with what can be read without a problem."""
        import structlog.testing

        from cli_profiles.calls import ask
        from connectors.port import HisError, Recording
        from connectors.soap import SoapConnector

        if isinstance(his, SoapConnector):
            his.watch(lambda *passed: self._passed.append(passed))
        elif isinstance(his, Recording):
            his.record_exchanges(self._note)
            self._charset = str(getattr(getattr(his, "settings", None), "charset", self._charset))
        failure: HisError | None = None
        records: list[Any] = []
        with structlog.testing.capture_logs() as logged:
            await his.start()
            try:
                asked = await self._narrowed(his, verb, asked)
                records = list(await ask(his, verb, asked, self._at.zone))
            except HisError as error:
                failure = error
            finally:
                await his.close()
        self._tell_passed()
        problems = list(self._problems(verb))
        self._tell(verb, records, problems, failure, logged)
        return failure is None and not problems

    async def _narrowed(self, his: Connector, verb: Verb, asked: Asked) -> Asked:
        """A HIS that is asked department by department is asked for one."""
        from connectors.port import Verb

        spec = self._profile.verbs[verb.value]
        by_department = verb in (Verb.FETCH_SCHEDULES, Verb.FETCH_SLOTS) and asked.department is None
        if not by_department or "departments" not in (
            spec.call.get("per"), self._profile.verbs[Verb.FETCH_SCHEDULES.value].call.get("per")
        ):  # fmt: skip
            return asked
        departments = await his.fetch_departments()
        if not departments:
            return asked
        err.print(f"Asked for department {departments[0].id} only: --department chooses another.", markup=False)
        return replace(asked, department=departments[0].id)

    def _note(self, exchanged: Exchanged | Acknowledged) -> None:
        from connectors.port import Exchanged

        if isinstance(exchanged, Exchanged):
            self._exchanged.append(exchanged)

    def _tell_passed(self) -> None:
        from cli_profiles.passed import message_text, reply_lines, request_lines

        for one in self._exchanged[-MOST_PASSED:]:
            for name, data in (("Request:", one.request), ("Answer:", one.answer)):
                write_line(name)
                for line in (
                    ["no answer came"]
                    if data is None
                    else message_text(data, charset=self._charset, masked=self._masked)
                ):
                    write_line(f"  {plain_text(line)}")
        if not self._passed and not self._exchanged:
            unseen = f"What passes on the wire is not shown for {self._profile.protocol}."
            write_line(unseen if self._profile.protocol == "fhir" else "Nothing was sent.")
        for _, _, sent, reply in self._passed[-MOST_PASSED:]:
            write_line("Request:")
            for line in request_lines(sent, masked=self._masked):
                write_line(f"  {plain_text(line)}")
            write_line("Answer:")
            for line in reply_lines(reply, masked=self._masked):
                write_line(f"  {plain_text(line)}")

    def _sample(self) -> SoapSample:
        from cli_profiles.samples import SoapSample
        from connectors.soap.options import read_secrets

        settings = self._table.get("settings", {})
        ctx = context_of(self._at, self._profile.connection | settings)
        return SoapSample(self._profile, settings, read_secrets(self._table.get("secret_files", {})), ctx)

    def _problems(self, verb: Verb) -> list[str]:
        """Of the answers to this verb, with hints."""
        from cli_profiles.hints import problem_lines
        from cli_profiles.samples import fields_of

        if not self._passed:
            return []
        sample = self._sample()
        found: dict[str, None] = {}
        for case, request, _, reply in self._passed:
            tried = None if reply is None else sample.try_call(reply.body, verb.value, case, request)
            traced = None if tried is None else tried.traced
            for one in fields_of([] if traced is None else traced.records):
                for line in [] if one.problem is None else problem_lines(one.problem):
                    found.setdefault(line)
        return list(found)

    def _hides(self, failure: HisError) -> bool:
        """Whether the HIS's words may be about somebody: not where nobody in particular was asked for."""
        from connectors.soap.asked import OF_NOBODY

        return self._masked and failure.verb not in OF_NOBODY

    def _failed(self, failure: HisError) -> str:
        """What a failure says; of the HIS's own words those that the profile knows."""
        from cli_profiles.passed import sentence

        code = str(getattr(failure, "code", ""))
        kind = type(failure).__name__ + (f" ({code})" if code else "")
        if not failure.said:
            return f"{kind}: {failure}"
        known, masked = self._sample().known(failure.verb), self._hides(failure)
        return f"{kind}: {sentence(failure.said, known, masked=masked, coded=code == 'refused')}"

    def _tell(
        self, verb: Verb, records: list[Any], problems: list[str], failure: HisError | None, logged: list[Any]
    ) -> None:
        from cli_profiles.passed import record_line

        write_line(f"{verb}: {len(records)} {'record' if len(records) == 1 else 'records'}")
        for record in records[: self._most]:
            write_line(f"  {record_line(record, masked=self._masked)}")
        if len(records) > self._most:
            write_line(f"  ... {len(records) - self._most} more: --most shows them")
        if problems:
            write_line("Problems:")
        for line in problems:
            write_line(f"  {line}")
        for entry in logged:
            if entry["log_level"] in ("warning", "error") and entry["event"] != "records_unmapped":
                told = {key: value for key, value in entry.items() if key not in ("log_level", "event")}
                err.print(f"{entry['event']}: {told}", markup=False, soft_wrap=True)
        if failure is not None:
            out.print(self._failed(failure), markup=False, soft_wrap=True)
            if failure.said and self._hides(failure):
                err.print(_HIDDEN, markup=False, soft_wrap=True)
