"""The FHIR examples of the corpus through the `fhir_r4` profile; expected values are read off the files by hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from connectors.fhir.calls import compile_calls
from connectors.fhir.documents import Document, decode_json
from connectors.fhir.validation import Rules, flaws_of
from mappings.canonical import (
    Bill,
    BillItem,
    BillStatus,
    Department,
    Identifier,
    Observation,
    Patient,
    Practitioner,
    Registration,
    RegistrationStatus,
    Report,
    ReportKind,
    ReportStatus,
    Schedule,
    Session,
    Settlement,
    Sex,
    Slot,
)
from mappings.engine import MapContext, Mapped
from mappings.profile import load_profile

# The examples' hospital is in Den Burg: UTC+1 in winter.
ZONE = ZoneInfo("Europe/Amsterdam")
CALLS = compile_calls(load_profile("fhir_r4@1"))


def load(corpus: Path, name: str) -> dict[str, Any]:
    decoded: dict[str, Any] = decode_json((corpus / "fhir" / f"{name}.json").read_text(encoding="utf-8"))
    return decoded


def read(verb: str, *resources: dict[str, Any], zone: ZoneInfo = ZONE) -> Mapped:
    reply = CALLS[verb].reply
    assert reply is not None
    context = MapContext(hospital_id="h", zone=zone, currency="CNY", now=dt.datetime.now(dt.UTC))
    document = resources[0] if resources[0]["resourceType"] == "Bundle" else {}
    root = Document(document) if document else Document.of([{"resource": item} for item in resources])
    return reply.read(root, context)


def one(verb: str, *resources: dict[str, Any], zone: ZoneInfo = ZONE) -> Any:
    mapped = read(verb, *resources, zone=zone)
    assert mapped.problems == ()
    assert len(mapped.records) == 1
    return mapped.records[0]


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


def test_every_example_passes_the_r4b_models_and_our_rules(corpus: Path) -> None:
    files = sorted((corpus / "fhir").glob("*.json"))
    assert len(files) == 19
    for file in files:
        root = load(corpus, file.stem)
        resources = [entry["resource"] for entry in root.get("entry", ())] or [root]
        assert flaws_of([root, *resources], Rules(mode="strict")) == [], file.name


def test_slot_free_is_one_seat_at_its_local_session(corpus: Path) -> None:
    slot = load(corpus, "r4-Slot-example")
    expected = Slot(
        id="example",
        schedule_id="example",
        date=dt.date(2013, 12, 25),
        session=Session.AM,  # 09:15Z is 10:15 in Den Burg
        starts_at=utc(2013, 12, 25, 9, 15),
        ends_at=utc(2013, 12, 25, 9, 30),
        seats_left=1,
    )
    assert one("fetch_slots", slot) == expected
    assert one("fetch_slots", slot, zone=ZoneInfo("Asia/Shanghai")).session is Session.PM  # 17:15
    assert one("fetch_slots", slot, zone=ZoneInfo("Asia/Tokyo")).session is Session.NIGHT  # 18:15


def test_slot_busy_has_no_seat(corpus: Path) -> None:
    assert one("fetch_slots", load(corpus, "r4-Slot-1")).seats_left == 0


def test_slot_banana_is_no_slot(corpus: Path) -> None:
    slot = load(corpus, "r4-Slot-example") | {"status": "banana"}
    mapped = read("fetch_slots", slot)
    assert mapped.records == ()
    assert "banana" not in str(mapped.problems[0])


def test_schedule_with_a_location_alone_is_read_with_its_slot(corpus: Path) -> None:
    names = ("r4-Slot-example", "r4-Schedule-example", "r4-Location-1")
    assert one("fetch_schedules", *(load(corpus, name) for name in names)) == Schedule(
        id="example",
        date=dt.date(2013, 12, 25),
        session=Session.AM,
        department_id="1",
        department_name="Burgers UMC, South Wing, second floor",
        clinic_type="A previously unscheduled walk-in visit",
        location="South Wing, second floor",
    )


def test_schedule_whose_slots_come_without_it_is_a_problem_and_no_guess(corpus: Path) -> None:
    mapped = read("fetch_schedules", load(corpus, "r4-Slot-example"))
    assert mapped.records == ()
    assert mapped.problems[0].path == "verbs.fetch_schedules.reply.fields.department_id"


def test_appointment_becomes_a_registration(corpus: Path) -> None:
    assert one("fetch_registration", load(corpus, "r4-Appointment-example")) == Registration(
        status=RegistrationStatus.REGISTERED,
        his_id="example",
        mrn="example",
        practitioner_id="example",
        practitioner_name="Dr Adam Careful",
        starts_at=utc(2013, 12, 10, 9),
        ends_at=utc(2013, 12, 10, 11),
        check_in_place="South Wing, second floor",
        his_refs={"appointment": "example"},
    )


def test_appointment_with_two_doctors_and_a_phone_call_names_the_first_doctor(corpus: Path) -> None:
    record = one("fetch_registration", load(corpus, "r4-Appointment-2docs"))
    assert (record.mrn, record.practitioner_id, record.practitioner_name) == ("example", "example", "Dr Adam Careful")
    assert record.check_in_place is None
    assert (record.starts_at, record.ends_at) == (utc(2013, 12, 9, 9), utc(2013, 12, 9, 11))


def test_ihe_bundle_gives_its_three_proposals_when_an_outcome_is_among_them(corpus: Path) -> None:
    mapped = read("fetch_registration", load(corpus, "ihe-example-iti-scheduling-bundle"))
    assert mapped.problems == ()
    assert [(record.his_id, record.status, record.starts_at) for record in mapped.records] == [
        ("proposed-appt1a-1", RegistrationStatus.PROPOSED, utc(2017, 7, 17, 0, 45)),
        ("proposed-appt1a-2", RegistrationStatus.PROPOSED, utc(2017, 7, 17, 1)),
        ("proposed-appt1a-3", RegistrationStatus.PROPOSED, utc(2017, 7, 17, 2)),
    ]


def test_ihe_appointment_names_patient_and_doctor(corpus: Path) -> None:
    record = one("fetch_registration", load(corpus, "ihe-example-appointment"))
    assert (record.mrn, record.practitioner_id, record.practitioner_name) == ("pat1", "dr-y", "Dr Y")
    assert record.starts_at == utc(2025, 3, 17, 0, 45)


def test_patient_has_the_official_name_and_the_record_number(corpus: Path) -> None:
    assert one("find_patient", load(corpus, "r4-Patient-example")) == Patient(
        name="Peter James Chalmers",
        mrn="12345",
        phone="(03) 3410 5613",
        birth_date=dt.date(1974, 12, 25),
        sex=Sex.MALE,
        address="534 Erewhon St PeasantVille, Rainbow, Vic  3999",
        identifiers=(Identifier(value="12345", type="MR", system="urn:oid:1.2.36.146.595.217.0.1"),),
        his_refs={"patient": "example"},
    )


def test_ihe_patient_is_read_from_the_usual_name(corpus: Path) -> None:
    record = one("find_patient", load(corpus, "ihe-example-patient"))
    assert (record.name, record.mrn, record.phone) == ("Meiko Lufhir Jr., PhD", "12345", "321-555-2222")
    assert (record.sex, record.birth_date) == (Sex.FEMALE, dt.date(1978, 3, 22))


def test_invoice_keeps_its_currency(corpus: Path) -> None:
    assert one("fetch_bills", load(corpus, "r4-Invoice-example")) == Bill(
        id="654321",
        amount_fen=4800,  # totalGross 48 EUR
        currency="EUR",
        status=BillStatus.OPEN,
        mrn="example",
        issued_at=utc(2017, 1, 25, 7),
        his_refs={"invoice": "example", "account": "Account/example"},
    )


def test_invoice_line_is_read_through_its_charge_item(corpus: Path) -> None:
    line = {"chargeItemReference": {"reference": "ChargeItem/example"}}
    invoice = load(corpus, "r4-Invoice-example") | {"lineItem": [line]}
    assert one("fetch_bills", invoice, load(corpus, "r4-ChargeItem-example")).items == (
        BillItem(
            name="Zusatzpauschale für Beobachtung nach diagnostischer Koronarangiografie",
            amount_fen=4000,  # priceOverride 40 EUR
            quantity="1",
            code="01510",
        ),
    )


def test_payment_notice_settles_only_a_balanced_invoice(corpus: Path) -> None:
    notice, invoice = load(corpus, "r4-PaymentNotice-77654"), load(corpus, "r4-Invoice-example")
    assert read("fetch_settlement", notice, invoice) == Mapped()  # it speaks of somebody else's claim
    ours = notice | {"request": {"reference": "Invoice/example"}}
    assert read("fetch_settlement", ours, invoice) == Mapped()  # issued, not balanced
    assert one("fetch_settlement", ours, invoice | {"status": "balanced"}) == Settlement(
        bill_id="654321",
        receipt_no="77654",
        amount_fen=1250000,  # 12500.00 USD
        his_refs={"payment_notice": "77654", "payment_reconciliation": "PaymentReconciliation/ER2500"},
    )


def test_report_102_has_no_observations_when_they_are_not_at_hand(corpus: Path) -> None:
    assert one("fetch_reports", load(corpus, "r4-DiagnosticReport-102")) == Report(
        id="102",
        kind=ReportKind.LAB,
        status=ReportStatus.FINAL,
        name="DXA BONE DENSITOMETRY",
        mrn="pat2",
        code="38269-7",
        issued_at=utc(2008, 6, 17, 23, 23),
        effective_at=dt.datetime(2008, 6, 17, tzinfo=ZONE),
        conclusion="At risk of osteoporotic fracture",
        his_refs={"report": "102"},
    )


def test_lipid_report_has_its_four_results(corpus: Path) -> None:
    report = one("fetch_reports", load(corpus, "r4-Bundle-lipids"))
    assert (report.id, report.kind, report.status) == ("5234342", ReportKind.LAB, ReportStatus.FINAL)
    assert (report.name, report.code, report.mrn) == ("Lipid Panel", "24331-1", "pat2")
    assert report.issued_at == utc(2013, 1, 27, 0, 45, 33)
    assert report.effective_at == utc(2011, 3, 3, 21, 30)

    def line(name: str, code: str, value: str, reference_range: str) -> Observation:
        return Observation(
            name=name, code=code, value=value, unit="mmol/L", reference_range=reference_range, status=ReportStatus.FINAL
        )

    assert report.observations == (
        line("Cholesterol", "35200-5", "6.3", "<=4.5"),
        line("Triglyceride", "35217-9", "1.3", "<=2.0"),
        line("Cholesterol in HDL", "2085-9", "1.3", ">=1.5"),
        line("LDL Chol. (Calc)", "13457-7", "4.6", "<=3.0"),
    )


def test_ultrasound_is_an_exam(corpus: Path) -> None:
    report = one("fetch_reports", load(corpus, "r4-DiagnosticReport-ultrasound"))
    assert (report.kind, report.name, report.conclusion) == (
        ReportKind.EXAM,
        "Abdominal Ultrasound",
        "Unremarkable study",
    )
    assert report.effective_at == report.issued_at == utc(2012, 12, 1, 11)


def test_service_and_role_become_department_and_practitioner(corpus: Path) -> None:
    service, place = load(corpus, "r4-HealthcareService-example"), load(corpus, "r4-Location-1")
    assert one("fetch_departments", service, place) == Department(
        id="example",
        name="Consulting psychologists and/or psychology services",
        campus="South Wing, second floor",
        his_refs={"identifier": "HS-12"},
    )
    assert one("fetch_practitioners", load(corpus, "r4-PractitionerRole-example")) == Practitioner(
        id="example", name="Dr Adam Careful", department_id="example", his_refs={"role": "example"}
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "banana"}, "status is not a code of the required binding"),
        ({"end": "2013-12-25T09:15:00Z"}, "end is not after start"),
        ({"end": "2013-12-25T10:00:00+01:00"}, "end is not after start"),
        ({"end": None}, "start and end are not two instants"),
        ({"start": "2013-12-25T09:15:00"}, "start or end has no offset"),
    ],
)
@pytest.mark.parametrize("mode", ["strict", "lenient", "off"])
def test_slot_that_the_models_let_pass_is_refused_by_our_rules(
    corpus: Path, change: dict[str, Any], reason: str, mode: Any
) -> None:
    flaws = flaws_of([load(corpus, "r4-Slot-example") | change], Rules(mode=mode))
    assert [(flaw.resource_type, flaw.reason) for flaw in flaws] == [("Slot", reason)]
