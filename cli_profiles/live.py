"""One live read, and what is printed of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from booking.conversion import SettingsError
from cli_messages.output import err, out, plain_text, write_line
from cli_profiles.places import context_of

if TYPE_CHECKING:
    from booking.settings import Hospital
    from cli_profiles.calls import Asked
    from cli_profiles.samples import SoapSample
    from connectors.port import Acknowledged, Connector, Exchanged, HisError, Verb
    from mappings.profile import Profile

MOST_PASSED = 5
_HIDDEN = 'What the profile has no words for is hidden, for it may name somebody: --unmasked --reason "..." shows it.'


class Shown:
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

    def save(self, file: Path) -> None:
        """The last answer, byte for byte. Raises SettingsError where there is none, or the file is there."""
        answers = [reply.body for _, _, _, reply in self._passed if reply is not None]
        answers += [one.answer for one in self._exchanged if one.answer is not None]
        if not answers:
            raise SettingsError(f"--save {file}: there is no answer to save")
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(answers[-1])
        except OSError as error:
            raise SettingsError(f"--save {file}: {error.strerror or error}") from None
        err.print(f"The answer is in {file}.", markup=False, soft_wrap=True)
