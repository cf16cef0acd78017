"""A call to a HIS over SOAP in the message store: what it is found by, and how it is shown."""

from __future__ import annotations

from booking.store.engine import Store
from connectors.port import Accepted
from scheduler_sync.messages.presenting import lines_of
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.references import order_ref, patient_ref
from scheduler_sync.messages.search import Wanted, find_messages, load_message
from tests.booking.world import HOSPITAL
from tests.connectors.soap.soap_hospital import canned, golden_order

DONE = "<Response><ResultCode>0</ResultCode></Response>"


async def test_call_is_found_by_order_and_patient_and_shown_masked_when_it_is_kept(messages: Store) -> None:
    recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    async with canned(DONE) as (peer, his):
        his.record_exchanges(recorder.record)
        assert isinstance(await his.lock_slot(golden_order()), Accepted)
    await recorder.close()
    patient = patient_ref(messages.vault.digest("mrn", HOSPITAL, "0000012345"))
    for ref in (order_ref("20260105000000000001"), patient):
        (one,) = (await find_messages(messages, HOSPITAL, Wanted(linked=((ref,),)))).found
        assert (one.direction, one.state, one.message_type, one.answer) == ("out", "done", "10015", "200")
    whole = await load_message(messages, HOSPITAL, one.id)
    assert whole is not None
    body = messages.vault.open(whole.sealed_body, whole.body_place)
    assert body == peer.requests[0][1]
    shown = "\n".join(line.text for line in lines_of(body, charset="UNICODE UTF-8", masked=True))
    assert "<XMLRequest>" in shown
    assert "0000012345" not in shown
