"""Where patient data must not be found: the log at its most talkative, /metrics, traces, the database files, error answers."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from loadtest.demo.walk import PATIENT, WAITING, Walk
from tests.acceptance.installation import (
    HOSPITALS,
    KEY,
    Installation,
    lay_out,
    made_up_person,
    run_process,
    until,
)
from tests.acceptance.test_walk import AS_THE_DEMO
from tests.otlp_receiver import otlp_receiver
from tests.patient_texts import assert_absent, personal, wrapped

# What the walk's bills and reports say: contents that are nobody's business either.
CONTENTS = ["血常规", "白细胞"]
PERSON = {
    **made_up_person(950),
    "name": "欧阳静怡",
    "card": {"type": "health", "number": "H7788990011"},
    "guardian": {"name": "诸葛长风", "id_number": str(made_up_person(951)["id_number"])},
}
NAMESAKE = {**made_up_person(952), "name": "令狐小冲"}


async def live_a_little(site: Installation) -> list[str]:
    """Walks, failures and refusals at every hospital; returns every name and number of the patients."""
    assert site.session is not None
    session = site.session

    async def walk(hospital_id: str) -> None:
        control = f"http://127.0.0.1:{site.clinics[hospital_id].simulator.control_port}"
        async for _ in Walk(session, site.base_url, KEY, hospital_id, control).run():
            pass

    async def go_wrong(hospital_id: str) -> None:
        clinic = site.clinics[hospital_id]
        of = f"/v1/hospitals/{hospital_id}"
        await site.patient(hospital_id, PERSON)
        # The hospital knows this number under another name; what it answers quotes both.
        clinic.simulator.hospital.create_person("令狐大冲", NAMESAKE["id_number"])
        made = await site.portal().post(f"{of}/patients", NAMESAKE)
        rejected = await until(
            lambda: site.portal().get(f"{of}/patients/{made['id']}"),
            lambda p: p["his_state"] != "pending",
            what="the patient refused",
        )
        assert (rejected["his_state"], rejected["reject_code"]) == ("rejected", "patient_mismatch")
        for wrong in (
            {"name": 7},
            {"id_number": PERSON["id_number"][:-1] + "Y"},
            {PERSON["id_number"]: PERSON["phone"]},
        ):
            refused = await site.portal().call("POST", f"{of}/patients", {**PERSON, **wrong}, key=uuid.uuid4().hex)
            assert refused.status == 422
            assert_absent(refused.data, personal(PERSON), "an error's answer")
        for op in ("find_patient", "create_patient", "fetch_bills"):
            await clinic.fault(op, "garbage", times=1)
        patient_id = await site.patient(hospital_id)
        await site.portal().call("GET", f"{of}/patients/{patient_id}/bills", user=PERSON["phone"])
        await site.portal().call("GET", f"{of}/patients/{PERSON['id_number']}")
        await clinic.heal()

    await asyncio.gather(*(walk(hospital_id) for hospital_id in HOSPITALS))
    await asyncio.gather(*(go_wrong(hospital_id) for hospital_id in HOSPITALS))
    found = personal(PATIENT) + personal(WAITING) + personal(PERSON) + personal(NAMESAKE) + ["令狐大冲"]
    for clinic in site.clinics.values():
        people = (await clinic.state())["people"]
        found += [person["mrn"] for person in people] + [person["name"] for person in people]
    return sorted(set(found))


def database_files(folder: Path, when: str) -> dict[str, bytes]:
    """Every file of both databases, their write-ahead logs included."""
    return {f"{path.name} ({when})": path.read_bytes() for path in folder.glob("*.db*")}


async def openmetrics(site: Installation) -> str:
    """/metrics as a Prometheus scrapes it that takes exemplars."""
    assert site.session is not None
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with site.session.get(f"{site.admin_url}/metrics", headers=accept) as response:
        return await response.text()


async def test_nothing_of_a_patient_is_readable_when_log_metrics_traces_and_databases_are_searched(
    tmp_path: Path,
) -> None:
    talkative = {"log_level": "debug", "access_log": "all"}
    async with (
        otlp_receiver() as receiver,
        lay_out(
            tmp_path,
            service_table=talkative,
            tracing={"endpoint": receiver.endpoint, "sample_ratio": 1.0},
            **AS_THE_DEMO,
        ) as site,
        run_process(site) as process,
    ):
        secrets = await live_a_little(site)
        assert len(secrets) > 15
        metrics = await site.metrics() + await openmetrics(site)
        databases = database_files(tmp_path, "while running")
        process.terminate()
        assert await process.exit_code() == 0
    log = process.log.read_bytes()
    databases |= database_files(tmp_path, "afterwards")

    assert len(log.splitlines()) > 100
    assert sum(len(data) for data in databases.values()) > 200_000
    assert b"soap-demo" in log
    assert b"soap-demo" in databases["hisbridge.db (afterwards)"]  # the search can find what is there
    assert_absent(log, secrets, "the log")
    assert_absent(metrics.encode(), secrets, "/metrics")
    spans = b"".join(receiver.bodies)
    assert {"holds commit", "his create_patient", "his lock_slot", "outbox register", "inbound"} <= {
        span.name for span in receiver.spans
    }
    assert b"soap-demo" in spans
    assert "# {trace_id=" in metrics
    assert_absent(spans, secrets, "the traces")
    for where, data in (("the log", log), ("/metrics", metrics.encode()), ("the traces", spans)):
        assert_absent(data, secrets, f"{where}, in another form", forms=wrapped)
    for name, data in databases.items():
        assert_absent(data, secrets, name)
        assert_absent(data, CONTENTS, name)


async def test_names_and_numbers_are_masked_when_a_patient_is_read(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site, run_process(site):
        patient_id = await site.patient("hl7-demo", PERSON)
        read = await site.portal().call("GET", f"/v1/hospitals/hl7-demo/patients/{patient_id}")
        assert_absent(read.data, personal(PERSON), "the patient's own view")
        assert read.body["name"] == "欧阳**"
        assert read.body["phone"] == f"{PERSON['phone'][:3]}****{PERSON['phone'][-4:]}"
        number = PERSON["id_number"]
        assert read.body["id_number"] == f"{number[:3]}{'*' * 11}{number[-4:]}"


def test_a_measured_number_is_not_taken_for_a_phone_when_its_digits_are_those() -> None:
    assert_absent(b"bucket 7.0 # {} 0.13800000000082946 1795922682.469248", ["13800000000"], "a metric")
    for held in (b"phone 13800000000", b"1.2.156.13800000000", b"oid:2.16.13800000000", b"13800000000.5"):
        with pytest.raises(AssertionError, match="stands in a place"):
            assert_absent(held, ["13800000000"], "a place")


@pytest.mark.parametrize("text", [str(PERSON["name"]), str(PERSON["phone"]), str(PERSON["id_number"])])
def test_the_search_finds_what_is_wrapped_when_it_stands_there(text: str) -> None:
    """The test above would prove nothing if it looked for forms that nobody writes."""
    for around in range(6):
        data = b"." * around + text.encode() + b"." * (5 - around)
        for packed in (
            base64.b64encode(data),
            base64.urlsafe_b64encode(data),
            data.hex().encode(),
            quote(data).encode(),
            json.dumps(data.decode()).encode(),
        ):
            with pytest.raises(AssertionError, match="stands in a place"):
                assert_absent(packed, [text], "a place", forms=wrapped)
