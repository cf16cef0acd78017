"""Requests to a FHIR server in the message store: what they are found by, and how they are shown."""

from __future__ import annotations

from booking.store.engine import Store
from connectors.port import Accepted
from scheduler_sync.messages.presenting import lines_of
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.references import order_ref, patient_ref
from scheduler_sync.messages.search import Wanted, find_messages, load_message
from tests.booking.world import HOSPITAL
from tests.connectors.fhir.fhir_hospital import ORDER_NO, PERSON, hospital, order_for


async def test_requests_are_found_by_booking_and_patient_and_shown_masked_when_they_are_kept(messages: Store) -> None:
    async with hospital() as (_, connector):
        order = await order_for(connector)
        recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
        connector.record_exchanges(recorder.record)
        booked = await connector.book(order)
        assert isinstance(booked, Accepted)
        await connector.find_patient(order.patient)
        await recorder.close()
    by_order = (await find_messages(messages, HOSPITAL, Wanted(linked=((order_ref(ORDER_NO),),)))).found
    assert {(one.direction, one.state, one.answer) for one in by_order if one.message_type == "POST-Appointment"} == {
        ("out", "done", "201")
    }
    assert order.patient.mrn is not None
    mine = patient_ref(messages.vault.digest("mrn", HOSPITAL, order.patient.mrn))
    by_patient = (await find_messages(messages, HOSPITAL, Wanted(linked=((mine,),)))).found
    assert {"GET-Patient", "POST-Appointment"} <= {one.message_type for one in by_patient}
    for one in by_patient:
        whole = await load_message(messages, HOSPITAL, one.id)
        assert whole is not None
        body = messages.vault.open(whole.sealed_body, whole.body_place)
        shown = "\n".join(line.text for line in lines_of(body, charset="UNICODE UTF-8", masked=True))
        assert PERSON.name not in shown
        assert str(PERSON.id_number) not in shown
        assert order.patient.mrn not in shown
