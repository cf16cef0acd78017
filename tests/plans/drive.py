"""Everything that portals, people at the hospital and the clock do, so that each of production's statements runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from typing import Any

from yarl import URL

import service
from booking.attendance import schedules_of_day, visits_awaited
from booking.audit import append_audit, broken_at, read_audit
from booking.merchant_bills import newest_bill
from booking.people import own_patient
from booking.report_reads import WantedReads, find_reads, persons_meant
from booking.retention import forget_commands
from booking.store.ids import new_id
from booking.waitlist.lifecycle import State
from booking.waitlist.records import Entry, add_entry
from connectors.port import Passed, Refused
from scheduler_sync.attention import dead_commands
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.references import control_ref
from scheduler_sync.messages.replay import replay_message, state_of
from scheduler_sync.messages.retention import forget_for_size
from scheduler_sync.messages.search import Wanted, find_messages, load_message
from scheduler_sync.messages.store import list_messages
from scheduler_sync.messages.subjects import refs_of_booking, refs_of_patient
from scheduler_sync.sweeps import Forgetting
from scheduler_sync.truth import Truth
from tests.acceptance.installation import HOSPITALS, Installation, made_up_person, money, until
from tests.scheduler_sync.test_recorder import exchange


async def drive(site: Installation, running: service.Service) -> None:
    """One round of everything at all hospitals."""
    await asyncio.gather(*(_hospital(site, running, hospital_id) for hospital_id in HOSPITALS))
    await _news(site)
    await _people_and_clock(running)


async def _hospital(site: Installation, running: service.Service, hospital_id: str) -> None:
    portal, of = site.portal(), f"/v1/hospitals/{hospital_id}"
    person = made_up_person()
    patient_id = await site.patient(hospital_id, person)
    slot = (await site.open_slots(hospital_id))[0]
    day = dt.datetime.fromisoformat(slot["starts_at"]).date().isoformat()
    for query in (
        {"department_id": slot["department_id"]},
        {"from": day, "to": day, "limit": 5},
        {"practitioner_id": slot["practitioner_id"] or ""},
    ):
        await portal.get(f"{of}/slots", **query)
    await portal.get(f"{of}/departments")
    await portal.get(f"{of}/practitioners", department_id=slot["department_id"])

    body, key = {"user_ref": person["user_ref"], "slot_id": slot["id"], "patient_id": patient_id}, uuid.uuid4().hex
    held = await portal.post(f"{of}/bookings", body, key=key)
    assert (await portal.post(f"{of}/bookings", body, key=key))["id"] == held["id"]
    assert (await portal.call("POST", f"{of}/bookings", body, key=key + "2")).code == "duplicate_booking"
    held = await site.becomes(hospital_id, held, his_state="locked", payable=True)
    paid = await site.pay(hospital_id, held)
    await site.becomes(hospital_id, held, state="booked")
    await _lists(site, hospital_id, patient_id, person["user_ref"])
    await _bills_and_reports(site, hospital_id, patient_id)
    await _fhir(site, hospital_id, patient_id, person)
    await _books(site, hospital_id, paid)
    await site.cancel(hospital_id, held)
    over = await site.becomes(hospital_id, held, state="cancelled", payment_state="refund_due")
    refund = f"{of}/refunds/{over['refunds'][0]['id']}"
    await portal.get(refund)
    await portal.post(f"{refund}/result", {"status": "refunded", "refund_trade_no": "R"})
    await _waitlist(site, running, hospital_id, patient_id, slot["schedule_id"])
    await _stop(site, hospital_id)


async def _lists(site: Installation, hospital_id: str, patient_id: str, user_ref: str) -> None:
    portal, of = site.portal(), f"/v1/hospitals/{hospital_id}"
    await portal.get(f"{of}/patients/{patient_id}")
    await portal.get(f"{of}/patients/{patient_id}/registrations")
    for query in (
        {"patient_id": patient_id},
        {"user_ref": user_ref},
        {"patient_id": patient_id, "state": "booked"},
        {"limit": 1},
    ):
        page = await portal.get(f"{of}/bookings", **query)
        if page["next"]:
            await portal.get(f"{of}/bookings", **query, cursor=page["next"])


async def _waitlist(
    site: Installation, running: service.Service, hospital_id: str, patient_id: str, schedule_id: str
) -> None:
    """Joining as far as the rules let one; then a place in line, whose offer is accepted."""
    portal, of = site.portal(), f"/v1/hospitals/{hospital_id}/waitlist"
    told = await portal.call("POST", of, {"patient_id": patient_id, "schedule_id": schedule_id}, key=uuid.uuid4().hex)
    assert told.status == 409
    other = await site.patient(hospital_id, made_up_person())
    async with running.store.write(hospital_id) as tx:
        _, person = await own_patient(tx, "portal", other)
        clears_ms = tx.now_ms + 3_600_000
        entry = Entry(
            hospital_id=hospital_id, id=new_id(), number=tx.seq, client_id="portal", user_ref="u", patient_id=other,
            person_id=person.id, schedule_id=schedule_id, version=1, state=State.WAITING, live=True, clears_ms=clears_ms,
            due_ms=clears_ms, slot_id=None, booking_id=None, reason=None, created_ms=tx.now_ms, updated_ms=tx.now_ms,
        )  # fmt: skip
        await add_entry(tx, running.settings.hospitals[hospital_id], entry)
    place = f"{of}/{entry.id}"
    offered = await until(lambda: portal.get(place), lambda e: e["offer"] is not None, what="the offer")
    body = {"user_ref": "u", "slot_id": offered["offer"]["slot_id"], "patient_id": other, "waitlist_entry_id": entry.id}
    booking = await portal.post(f"/v1/hospitals/{hospital_id}/bookings", body)
    assert [e["booking_id"] for e in (await portal.get(of, patient_id=other))["items"]] == [booking["id"]]
    assert (await portal.call("DELETE", place)).body["state"] == "accepted"
    await site.cancel(hospital_id, booking)


async def _fhir(site: Installation, hospital_id: str, patient_id: str, person: dict[str, Any]) -> None:
    """Every way in which the FHIR facade finds something."""
    portal, of = site.portal(), f"/fhir/R4/hospitals/{hospital_id}"

    async def pages(path: str, **query: Any) -> list[dict[str, Any]]:
        """The matches of this page and of the next one."""
        found = []
        for page in range(2):
            bundle = await portal.get(path, **query) if not page else (await portal.call("GET", URL(query["url"]))).body
            found += [e["resource"] for e in bundle.get("entry", ())]
            query["url"] = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
            if query["url"] is None:
                break
        return found

    slot = (await pages(f"{of}/Slot", _count=3))[0]
    await pages(f"{of}/Slot", start="ge2020-01-01", _count=3)
    await pages(f"{of}/Slot", _id=slot["id"], _include="Slot:schedule")
    schedule = (await pages(f"{of}/Schedule", _count=1, _include="Schedule:actor"))[0]
    await pages(f"{of}/Schedule", date="ge2020-01-01", _count=1)
    await pages(f"{of}/Schedule", _id=schedule["id"])
    appointment = (await pages(f"{of}/Appointment", patient=patient_id, _include="Appointment:slot"))[0]
    await pages(f"{of}/Appointment", _count=1)
    await pages(f"{of}/Appointment", identifier=appointment["identifier"][0]["value"])
    for identifier in (
        person["user_ref"],
        f"urn:hisbridge:patient|{patient_id}",
        f"urn:oid:2.16.840.1.113883.4.330.156|{person['id_number']}",
    ):
        await pages(f"{of}/Patient", identifier=identifier)
    for kind in ("Practitioner", "PractitionerRole", "HealthcareService", "Location"):
        await pages(f"{of}/{kind}", _count=1)
    for one in (slot, schedule, appointment):
        await portal.get(f"{of}/{one['resourceType']}/{one['id']}")
    for report in await pages(f"{of}/DiagnosticReport", patient=patient_id, _include="DiagnosticReport:result"):
        await portal.get(f"{of}/{report['resourceType']}/{report['id']}")


async def _bills_and_reports(site: Installation, hospital_id: str, patient_id: str) -> None:
    portal, clinic = site.portal(), site.clinics[hospital_id]
    of = f"/v1/hospitals/{hospital_id}/patients/{patient_id}"
    mrn = (await clinic.state())["people"][-1]["mrn"]
    await clinic.do("/bill", {"mrn": mrn, "items": [{"name": "血常规", "amount_fen": 2500}]})
    await clinic.do("/report", {"mrn": mrn})

    async def items(path: str) -> list[dict[str, Any]]:
        return list((await portal.get(f"{of}/{path}"))["items"])

    bill = (await until(lambda: items("bills"), lambda found: len(found) > 0, what="the bill"))[0]
    await portal.post(f"{of}/bills/{bill['id']}/payments", money(bill["amount_fen"]))
    await until(
        lambda: portal.get(f"{of}/bills/{bill['id']}"), lambda b: b["settlement"] == "settled", what="the settlement"
    )
    report = (await until(lambda: items("reports"), lambda found: len(found) > 0, what="the report"))[0]
    await portal.get(f"{of}/reports/{report['id']}")


async def _books(site: Installation, hospital_id: str, paid: dict[str, Any]) -> None:
    portal, of = site.portal(), f"/v1/hospitals/{hospital_id}"
    payment = paid["payments"][0]
    date = dt.datetime.fromisoformat(payment["paid_at"]).date().isoformat()
    line = {"kind": "payment", **{name: payment[name] for name in ("channel", "trade_no", "amount_fen")}}
    for _ in range(2):
        assert (await portal.call("PUT", f"{of}/merchant-bills/{date}", {"lines": [line]})).status == 200
    await portal.get(f"{of}/reconciliations/{date}")


async def _stop(site: Installation, hospital_id: str) -> None:
    """停诊 of a schedule with a booking."""
    held = await site.locked(hospital_id)
    clinic = site.clinics[hospital_id]
    segment = (await clinic.visits(held["order_no"]))[0]["segment"]
    await clinic.do("/stop", {"plan": segment.rpartition("||")[0]})
    await site.becomes(hospital_id, held, state="stopped")


async def _news(site: Installation) -> None:
    portal = site.portal()
    await portal.get("/v1/events", after=0, limit=5)
    await portal.get("/v1/events", after=(await portal.get("/v1/events", after=0, limit=500))["next"])
    hook = await portal.post("/v1/webhooks", {"url": "http://127.0.0.1:9/nobody"})
    await portal.get("/v1/webhooks")
    assert (await portal.call("DELETE", f"/v1/webhooks/{hook['id']}")).status in (200, 204)


async def _people_and_clock(running: service.Service) -> None:
    """What the command line asks for, and the sweep that forgets."""
    settings = running.settings
    for hospital in settings.hospitals.values():
        await dead_commands(running.store, hospital.id)
        await list_messages(running.messages, hospital.id)
        await list_messages(running.messages, hospital.id, state="quarantined")
        await _messages(running, hospital.id)
        await forget_commands(running.store, hospital.id)
        truth = Truth(running.store, hospital)
        await truth.measure()
        await truth.look_through()
        async with running.store.read(hospital.id) as tx:
            await newest_bill(tx)
            today = dt.datetime.fromtimestamp(tx.now_ms / 1000, hospital.zone).date()
            for schedule_id in await schedules_of_day(tx, today):
                await visits_awaited(tx, schedule_id, begin_by_ms=tx.now_ms)
        await _reads(running, hospital.id)
    forgetting = Forgetting(
        running.store,
        running.messages,
        list(settings.hospitals.values()),
        asyncio.Event(),
        keep_messages_days=settings.store.keep_messages_days,
        keep_messages_mb=1,
    )
    await forgetting.forget_old()


async def _reads(running: service.Service, hospital_id: str) -> None:
    """What `hisbridge reads` asks for."""
    async with running.store.read(hospital_id) as tx:
        (newest,) = await find_reads(tx, WantedReads(), limit=1)
        await persons_meant(tx, mrn="M1", report_id=newest.reports.partition(":")[0])
        persons = await persons_meant(tx, patient_id=newest.patient_id, document=("id_card", "110101199003070038"))
        assert persons == (newest.person_id,)
        for wanted in (WantedReads(person_ids=persons), WantedReads(since_ms=newest.at_ms, until_ms=newest.at_ms + 1)):
            assert await find_reads(tx, wanted, limit=1)


async def _messages(running: service.Service, hospital_id: str) -> None:
    """What `hisbridge messages` asks for, and what bounds what it finds."""
    store = running.messages
    recorder = Recorder(store, hospital_id)
    recorder.start()
    for state in (Passed.DONE, Passed.UNKNOWN, Passed.REFUSED):
        recorder.record(exchange(state=state))
    await recorder.flush()
    await recorder.measure()
    await recorder.close()
    async with running.store.read(hospital_id) as tx:
        refs = (await refs_of_booking(tx, "17950000001234567890"), await refs_of_patient(tx, "M1"))
    for wanted in (
        Wanted(),
        Wanted(state="applied", message_type="ADT"),
        *(Wanted(state=state) for state in ("received", "quarantined", "done", "failed")),
        Wanted(linked=refs),
        Wanted(linked=((control_ref("HB1"),),), since_ms=1),
    ):
        findings = await find_messages(store, hospital_id, wanted)
    assert findings.found
    for one in (await find_messages(store, hospital_id, Wanted(), limit=3)).found:
        assert await load_message(store, hospital_id, one.id) is not None
        await replay_message(store, hospital_id, one.id, nobody_reads, again=True)
        await state_of(store, hospital_id, one.id)
    await forget_for_size(store, hospital_id, most_bytes=1)
    async with running.store.write(hospital_id) as tx:
        await append_audit(tx, actor="a@b", action="show_message", subject="m1", reason="drill")
        await read_audit(tx)
        assert await broken_at(tx) is None


def nobody_reads(*_: object) -> Refused:
    """A profile that takes nothing."""
    return Refused(code="refused", text="not taken", retryable=False)
