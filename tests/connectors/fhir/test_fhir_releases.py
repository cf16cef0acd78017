"""R4 and R5: the same verbs over both, and a server of one release is not read by a profile of the other."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.fhir import FhirConnector, Options, create
from connectors.fhir.statement import Statement, read_statement
from connectors.port import Accepted, HisReplyInvalid, Rejected, Verb
from loadtest.simulators import fhir
from loadtest.simulators.fhir_r5 import to_r5
from mappings import profile as profiles
from mappings.canonical import BillStatus, RegistrationStatus, ReportStatus
from tests.connectors.fhir.fhir_hospital import (
    HOSPITAL,
    STATEMENT,
    bill_payment,
    booked_order,
    canned,
    connected,
    fhir_json,
    hospital,
    patient_of,
    window,
)
from tests.connectors.fhir.test_fhir_replies import ORDER, WINDOW, bundle, slot

MODELS = {"R4": "fhir.resources.R4B", "R5": "fhir.resources"}


@contextlib.asynccontextmanager
async def demo(tmp_path: Path, release: str) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector]]:
    """The demo hospital of either release, read strictly; for R5 its profile is what a site would write."""
    text = (profiles.SHIPPED / "fhir_demo" / "profile.yaml").read_text(encoding="utf-8")
    folder = tmp_path / "demo"
    folder.mkdir(exist_ok=True)
    text = text.replace("name: fhir_demo", "name: demo").replace("fhir_r4@1", f"fhir_{release.lower()}@1")
    (folder / "profile.yaml").write_text(text, encoding="utf-8")
    async with hospital(release=release, validation="strict", profile="demo@1", profiles_dir=tmp_path) as both:
        yield both


def sent(simulator: fhir.FhirSimulator, release: str) -> None:
    """Everything that the simulated server keeps as it was posted is of its release."""
    kept = [*simulator.store.appointments.values(), *simulator.store.payments["PaymentNotice"].values()]
    assert kept
    for one in kept:
        kind = one.resource["resourceType"]
        module = importlib.import_module(f"{MODELS[release]}.{kind.lower()}")
        getattr(module, kind).model_validate(one.resource)


@pytest.mark.parametrize("release", ["R4", "R5"])
async def test_a_booking_lives_from_hold_to_cancel_when_the_server_is_of_either_release(
    tmp_path: Path, release: str
) -> None:
    async with demo(tmp_path, release) as (simulator, connector):
        await connector.ping()
        assert [item.name for item in await connector.fetch_departments()] == ["内科", "外科", "口腔科"]
        assert len(await connector.fetch_practitioners()) == 4
        schedules = await connector.fetch_schedules(window())
        assert {item.clinic_type for item in schedules} == {None if release == "R4" else "outpatient"}
        order = await booked_order(connector)
        registered = await connector.register(order)
        assert isinstance(registered, Accepted)
        sent(simulator, release)
        order = msgspec.structs.replace(order, his_refs=order.his_refs | registered.his_refs)
        found = await connector.fetch_registration(order)
        assert found is not None
        assert (found.status, found.mrn) == (RegistrationStatus.REGISTERED, order.patient.mrn)
        assert isinstance(await connector.cancel_registration(order), Accepted)
        again = await connector.fetch_registration(order)
        assert again is not None
        assert again.status is RegistrationStatus.RELEASED
        sent(simulator, release)


@pytest.mark.parametrize("release", ["R4", "R5"])
async def test_a_bill_is_settled_when_the_server_is_of_either_release(tmp_path: Path, release: str) -> None:
    async with demo(tmp_path, release) as (simulator, connector):
        payment = await bill_payment(simulator, connector)
        assert (payment.bill.amount_fen, payment.bill.status) == (3550, BillStatus.OPEN)
        assert [(item.name, item.amount_fen) for item in payment.bill.items] == [("血常规", 2500), ("挂号", 1050)]
        assert payment.bill.issued_at == dt.datetime.fromisoformat("2026-01-05T09:00:00+08:00")
        assert isinstance(await connector.settle_bill(payment), Accepted)
        found = await connector.fetch_settlement(payment)
        assert found is not None
        assert found.amount_fen == 3550
        module = importlib.import_module(f"{MODELS[release]}.paymentreconciliation")
        [kept] = simulator.store.payments["PaymentReconciliation"].values()
        told = to_r5(kept.resource) if release == "R5" else kept.resource
        module.PaymentReconciliation.model_validate(told)


@pytest.mark.parametrize("release", ["R4", "R5"])
async def test_reports_are_read_when_the_server_is_of_either_release(tmp_path: Path, release: str) -> None:
    async with demo(tmp_path, release) as (simulator, connector):
        patient = await patient_of(connector)
        assert patient.mrn is not None
        report = simulator.hospital.report(patient.mrn)
        [found] = await connector.fetch_reports(patient)
        assert (found.id, found.status) == (report.no, ReportStatus.FINAL)
        assert len(found.observations) == len(report.results)


@pytest.mark.parametrize(
    ("profile", "version", "good"),
    [
        ("fhir_r4", "4.0.1", True),
        ("fhir_r4", "4.3.0", True),
        ("fhir_r4", "5.0.0", False),
        ("fhir_r4", "3.0.2", False),
        ("fhir_r4", "4.1.0", False),  # a draft between the two, with resources of its own
        ("fhir_r5", "5.0.0", True),
        ("fhir_r5", "4.0.1", False),
        ("fhir_r5", "6.0.0-ballot3", False),
    ],
)
async def test_a_server_is_asked_nothing_when_it_says_another_version_than_the_profile_reads(
    profile: str, version: str, good: bool
) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        return bundle(slot("a"))

    async with (
        canned(handler, statement={**STATEMENT, "fhirVersion": version}) as base_url,
        connected(base_url, profile=f"{profile}@1") as connector,
    ):
        if good:
            await connector.ping()
            assert len(await connector.fetch_slots(WINDOW, [])) == 1
            return
        with pytest.raises(HisReplyInvalid, match=version.partition("-")[0]):
            await connector.ping()
        for _ in range(2):
            with pytest.raises(HisReplyInvalid, match="set a profile for that version"):
                await connector.fetch_slots(WINDOW, [])
        outcome = await connector.book(ORDER)
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
    assert asked == []


@pytest.mark.parametrize("status", [200, 401, 404, 500])
async def test_the_profile_is_believed_when_the_server_says_no_version(status: int) -> None:
    told: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        told.append(request.path.rpartition("/")[2])
        return (
            fhir_json(json.dumps({**STATEMENT, "fhirVersion": None}), status)
            if told[-1] == "metadata"
            else bundle(slot("a"))
        )

    async with canned(handler, statement=None) as base_url, connected(base_url) as connector:
        for _ in range(3):
            assert len(await connector.fetch_slots(WINDOW, [])) == 1
    assert told == ["metadata", "Slot", "Slot", "Slot"]  # and it is not asked again at once


async def test_a_read_goes_on_when_the_statement_is_never_answered() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/metadata"):
            assert request.transport is not None
            request.transport.close()
        return bundle(slot("a"))

    async with canned(handler, statement=None) as base_url, connected(base_url) as connector:
        assert len(await connector.fetch_slots(WINDOW, [])) == 1


def test_a_statement_is_read_for_what_is_used_of_it() -> None:
    told = {
        "resourceType": "CapabilityStatement",
        "fhirVersion": "4.0.1",
        "rest": [
            {
                "mode": "server",
                "operation": [{"name": "$export"}],
                "resource": [
                    {"type": "Appointment", "conditionalCreate": True, "operation": [{"name": "hold"}]},
                    {"type": "Patient", "conditionalCreate": False},
                ],
            }
        ],
    }
    assert read_statement(told) == Statement(
        fhir_version="4.0.1",
        conditional_create=frozenset({"Appointment"}),
        operations=frozenset({"export", "Appointment/hold"}),
    )


@pytest.mark.parametrize(
    "body",
    [
        None,
        7,
        [],
        {"resourceType": "Patient", "fhirVersion": "4.0.1"},
        {"resourceType": "CapabilityStatement", "fhirVersion": {"a": 1}, "rest": 7},
        {"resourceType": "CapabilityStatement", "rest": [7, {"resource": [{"operation": [{"name": {}}]}, 7]}]},
        {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1<script>"},
    ],
)
def test_a_statement_says_nothing_when_it_has_no_known_shape(body: Any) -> None:
    assert read_statement(json.loads(json.dumps(body))) == Statement()


def test_settings_are_refused_when_they_name_no_release_of_ours() -> None:
    for connection, message in (
        ({"fhir_release": "STU3"}, "fhir_release"),
        ({"fhir_release": ["R4"]}, "fhir_release"),
        ({"understood_modifiers": "http://x"}, "understood_modifiers"),
    ):
        options = Options(protocol="fhir", profile="fhir_r4@1", base_url="http://h/", connection=connection)
        with pytest.raises(ValueError, match=message):
            create(HOSPITAL, "his", options)


def test_every_verb_is_carried_alike_when_the_profiles_are_compared() -> None:
    old, new = (profiles.load_profile(name) for name in ("fhir_r4", "fhir_r5"))
    for verb in Verb:
        mine, others = old.verbs.get(verb.value), new.verbs.get(verb.value)
        assert (mine is None) == (others is None)
        if mine is not None and others is not None:
            assert (mine.capability, mine.query_back, mine.key) == (others.capability, others.query_back, others.key)
