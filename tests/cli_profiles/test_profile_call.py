"""`hisbridge profile call`: one live read over a socket, shown masked; never a write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import service
from loadtest.simulators import fhir, hl7, soap
from loadtest.simulators.hospital import Hospital
from tests.acceptance.installation import to_toml, write_secrets
from tests.cli_profiles.running import Said, profile

PERSON, ID_NUMBER = "欧阳静怡", "440101199001011234"


class Site:
    """A hospital with a simulated HIS, its settings, and a profile of its own."""

    def __init__(self, folder: Path, simulator: soap.SoapSimulator) -> None:
        self.folder, self.simulator = folder, simulator
        self.config = folder / "hisbridge.toml"
        connector = {"protocol": "soap", "profile": "dhc", "endpoint": simulator.url, "timeout_s": {"fetch_bills": 0.3}}
        settings: dict[str, Any] = {
            "profiles_dir": "profiles",
            "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
            "hospital": {"first": {"name": "市第一医院", "connector": {"his": connector}}},
        }
        self.config.write_text(to_toml(settings), encoding="utf-8")
        write_secrets(folder)
        self.write_profile("")

    def write_profile(self, more: str) -> None:
        file = self.folder / "profiles" / "ours" / "profile.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"name: ours\nversion: 1\nprotocol: soap\nextends: dhc@1\n{more}", "utf-8")

    async def call(self, *words: str) -> Said:
        return await asyncio.to_thread(profile, "call", "ours", *words, "--hospital", "first", "--config", self.config)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    simulator = await soap.start(days=1)
    try:
        yield Site(folder, simulator)
    finally:
        await simulator.close()


async def test_request_answer_and_records_are_shown_when_the_hospital_is_asked(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        said = await at.call("fetch_schedules", "--department", "300")
        assert said.code == 0, said.out + said.err
        assert f"  POST {at.simulator.url}" in said.out
        assert '  SOAPAction: "http://tempuri.org/SelfRegService.QueryAdmSchedule"' in said.out
        assert "  inside XMLRequest:" in said.out
        assert "HTTP 200, text/xml" in said.out
        assert "fetch_schedules: 2 records" in said.out
        assert said.out.count('"department_id": "300", "department_name": "口腔科"') == 2


async def test_only_one_department_is_asked_for_when_none_is_named(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        said = await at.call("fetch_schedules")
        assert said.code == 0
        assert "Asked for department 100 only" in said.err
        assert said.out.splitlines().count("Request:") == 2  # the departments, and one
        assert "fetch_schedules: 4 records" in said.out


async def test_segments_of_one_schedule_are_asked_for(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        said = await at.call("fetch_slots", "--department", "300")
        assert said.code == 0
        assert "fetch_slots: 4 records" in said.out
        assert '"seats_left": 5' in said.out


@pytest.mark.parametrize("verb", ["book", "lock_slot", "register", "cancel_registration", "refund", "create_patient"])
async def test_write_is_refused_and_nothing_is_sent(tmp_path: Path, verb: str) -> None:
    async with site(tmp_path) as at:
        said = await at.call(verb)
        assert said.code == 2
        assert f"{verb} changes something at the hospital, and `profile call` only asks" in said.err
        assert at.simulator.board.most_at_once == 0


async def test_patient_is_masked_everywhere(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        person = at.simulator.hospital.create_person(PERSON, ID_NUMBER, "13812345678", "2", "1990-01-01")
        said = await at.call("find_patient", "--id-number", ID_NUMBER, "--name", PERSON)
        assert said.code == 0, said.out + said.err
        assert "find_patient: 1 record" in said.out
        assert '"sex": "female"' in said.out
        for text in (PERSON, ID_NUMBER, "13812345678", "1990-01-01", person.mrn):
            assert text not in said.out + said.err


async def test_nobody_is_named_by_the_sentence_with_which_the_hospital_refuses(tmp_path: Path) -> None:
    """Asked by a number alone, so that the name is none that we could know."""
    async with site(tmp_path) as at:
        person = at.simulator.hospital.create_person(PERSON, ID_NUMBER)
        success = '[{path: /Response/ResultCode, values: ["never"]}]'
        at.write_profile(f"connection: {{success: {success}, error_text: [//PatientName]}}\n")
        said = await at.call("find_patient", "--mrn", person.mrn)
        assert said.code == 1
        assert said.line("HisRefused").endswith(" (refused): 0: <1-4>")
        assert PERSON not in said.out + said.err
        assert "is hidden" in said.err


async def test_sentence_is_shown_whole_when_nobody_in_particular_was_asked_for(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        success = '[{path: /Response/ResultCode, values: ["never"]}]'
        at.write_profile(f"connection: {{success: {success}, error_text: [//DepartmentName]}}\n")
        said = await at.call("fetch_departments")
        assert said.line("HisRefused").endswith(" (refused): 0: 内科")
        assert "is hidden" not in said.err


async def test_words_of_the_profile_are_shown_of_what_the_hospital_says(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        at.simulator.hospital.create_person(PERSON, ID_NUMBER)
        success = '[{path: /Response/ResultCode, values: ["never"]}]'
        known = "error_texts: {taken: [静怡]}"
        at.write_profile(f"connection: {{success: {success}, error_text: [//PatientName], {known}}}\n")
        said = await at.call("find_patient", "--id-number", ID_NUMBER)
        assert said.line("HisRefused").endswith(" (taken): <1-4>静怡")


async def test_unmasked_call_takes_a_reason_and_is_audited(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        at.simulator.hospital.create_person(PERSON, ID_NUMBER)
        words = ("find_patient", "--id-number", ID_NUMBER, "--name", PERSON, "--unmasked")
        refused = await at.call(*words)
        assert refused.code == 2
        assert "--unmasked takes --reason" in refused.err
        await service.migrate_stores(service.read_settings(at.config))
        said = await at.call(*words, "--reason", "the vendor asked")
        assert said.code == 0, said.err
        assert said.out.count(PERSON) >= 2
        settings = service.read_settings(at.config)
        async with service.open_store(settings) as store, store.read("first") as tx:
            from booking.audit import read_audit

            rows = await read_audit(tx, limit=10)
        assert [(r.action, r.subject, r.reason) for r in rows] == [
            ("profile_call", "ours find_patient", "the vendor asked")
        ]


async def test_problem_has_its_place_and_a_hint_when_a_record_cannot_be_mapped(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        at.write_profile("tables: {session: {X: null}}\n")
        said = await at.call("fetch_schedules", "--department", "300")
        assert said.code == 1
        assert "fetch_schedules: 1 record\n" in said.out
        assert (
            "verbs.fetch_schedules.reply.fields.session (from SessionCode): is a code that table session does"
            in said.out
        )
        assert "hint: add the code to `tables: {session: {CODE: WORD}}`" in said.out


async def test_failure_is_told_when_the_hospital_is_not_there(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        await at.simulator.close()
        said = await at.call("fetch_departments")
        assert said.code == 1
        assert "no whole answer came" in said.out
        assert "HisUnavailable: " in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fetch_schedule",), "no verb fetch_schedule: did you mean `fetch_schedules`?"),
        (("fetch_reports",), "ours does not offer fetch_reports: it is off"),
        (("fetch_settlement",), "fetch_settlement cannot be called alone"),
        (("find_patient",), "find_patient asks for a patient: give --mrn"),
        (("fetch_registration",), "fetch_registration asks for one order: give --order-no"),
        (("fetch_schedules", "--date-from", "tomorrow"), "--date-from: expected a day as 2026-01-05"),
        (("fetch_schedules", "--connector", "lis"), "first has no soap connector lis: his"),
    ],
)
async def test_what_is_missing_is_said_when_a_call_cannot_be_made(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    async with site(tmp_path) as at:
        said = await at.call(*words)
        assert said.code == 2
        assert told in said.err


async def test_order_is_looked_up_by_its_number(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        hospital = at.simulator.hospital
        person = hospital.create_person(PERSON, ID_NUMBER)
        hospital.take("20260105000000000001", person.mrn, next(iter(hospital.segments)))
        said = await at.call("fetch_registration", "--order-no", "20260105000000000009")
        assert said.code == 0
        assert "fetch_registration: 0 records" in said.out


@pytest.mark.parametrize("protocol", ["hl7v2", "fhir"])
async def test_hospitals_of_other_protocols_are_asked_too(tmp_path: Path, protocol: str) -> None:
    simulator: Any = await (hl7.start(hospital=Hospital("H", days=1)) if protocol == "hl7v2" else fhir.start(days=1))
    address = {"host": "127.0.0.1", "port": simulator.port} if protocol == "hl7v2" else {"base_url": simulator.base_url}
    connector = {"protocol": protocol, "profile": f"{protocol}_demo", **address}
    config = tmp_path / "hisbridge.toml"
    settings = {
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {"first": {"name": "市第一医院", "connector": {"his": connector}}},
    }
    config.write_text(to_toml(settings), encoding="utf-8")
    try:
        words = ("call", f"{protocol}_demo", "fetch_schedules", "--hospital", "first", "--config", config)
        said = await asyncio.to_thread(profile, *words)
    finally:
        await simulator.close()
    assert said.code == 0, said.out + said.err
    assert "fetch_schedules: 8 records" in said.out
    assert ("  MSH|" in said.out) is (protocol == "hl7v2")
    assert ("not shown for fhir" in said.out) is (protocol == "fhir")


async def test_answer_is_saved_for_profile_try_when_nobody_in_particular_was_asked_for(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        file = tmp_path / "reply.xml"
        said = await at.call("fetch_schedules", "--department", "300", "--save", str(file))
        assert said.code == 0, said.out + said.err
        assert f"The answer is in {file}" in said.err
        assert file.stat().st_mode & 0o077 == 0
        words = ("try", "ours", "--sample", file, "--verb", "fetch_schedules", "--config", at.config)
        tried = await asyncio.to_thread(profile, *words)
        assert "judged:  done" in tried.out
        assert "Schedule 2" in tried.out
        before = file.read_bytes()
        again = await at.call("fetch_departments", "--save", str(file))
        assert again.code == 2
        assert "File exists" in again.err
        assert file.read_bytes() == before


async def test_answer_about_a_patient_is_saved_only_unmasked(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        file = tmp_path / "reply.xml"
        said = await at.call("find_patient", "--mrn", "P1", "--save", str(file))
        assert said.code == 2
        assert "is about somebody: --unmasked" in said.err
        assert not file.exists()
        assert at.simulator.board.most_at_once == 0
