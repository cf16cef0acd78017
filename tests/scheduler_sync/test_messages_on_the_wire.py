"""From the sockets to the message store: what passes in both directions stands there with all that it is found by, sealed."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create
from connectors.port import Accepted
from loadtest.simulators.mllp import read_frame
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.references import control_ref, order_ref, patient_ref
from scheduler_sync.messages.search import Wanted, find_messages, load_message
from scheduler_sync.messages.tables import exchanges, message_links
from scheduler_sync.messages.tables import messages as message_table
from tests.booking.world import HOSPITAL
from tests.connectors.hl7v2.scripted import FakeHis, ack, number_of
from tests.connectors.hl7v2.wire.rows import adt, framed
from tests.golden.subjects import BILL_PAYMENT

ORDER, MRN, NAME = "20260104000000000001", "MRN4711X", "Ouyang"
SCH = f"SCH|{ORDER}|V1|||||||||^^^20260106080000+0800" + "|" * 14 + "{status}\r"
PID = f"PID|1||{MRN}^^^H^MR||{NAME}^Jing\r"
SENT = (
    ("GOOD", adt("GOOD", kind="SIU^S12", body=SCH.format(status="Booked") + PID)),
    ("BAD", adt("BAD", kind="SIU^S12", body=SCH.format(status="Fest") + PID)),
    ("OTHER", adt("OTHER", kind="BAR^P01", body=PID)),
)


async def everything(messages: Store) -> bytes:
    """Every value of every row that a message leaves, one behind the other."""
    async with messages.read(HOSPITAL) as tx:
        rows: list[dict[str, Any]] = []
        for table in (message_table, exchanges, message_links):
            rows += [dict(row) for row in await tx.all(select(table))]
    values = [value for row in rows for value in row.values()]
    return b"\0".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


async def test_message_is_kept_sealed_with_its_peer_type_id_state_and_links_when_it_comes_in_or_goes_out(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital
) -> None:
    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ack(number_of(payload)))

    context = HospitalContext(id=hospital.id, zone=hospital.zone, currency=hospital.currency)
    recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    listening = Inbox(store, messages, hospital, recorder=recorder)
    await listening.heal()
    async with FakeHis(his).listening() as fake:
        options = Options(protocol="hl7v2", profile="hl7v2", listen_port=0, host="127.0.0.1", port=fake.port)
        connector = create(context, "main", options)
        connector.record_exchanges(recorder.record)
        await connector.serve(listening.handle)
        reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        peer = "127.0.0.1:{}".format(writer.get_extra_info("sockname")[1])
        for _, message in SENT:
            writer.write(framed(message))
            assert await asyncio.wait_for(read_frame(reader), 20) is not None
        assert isinstance(await connector.settle_bill(BILL_PAYMENT), Accepted)
        (asked,) = fake.received
        writer.close()
        await writer.wait_closed()
        await connector.close()
    await listening.apply_all()
    await listening.close()
    await recorder.close()

    found = (await find_messages(messages, HOSPITAL, Wanted())).found
    kept = {
        one.control_id: (one.direction, one.connector, one.peer, one.message_type, one.state, one.answer)
        for one in found
    }
    assert kept == {
        "GOOD": ("in", "main", peer, "SIU^S12", "applied", "AA"),
        "BAD": ("in", "main", peer, "SIU^S12", "quarantined", "AA"),
        "OTHER": ("in", "main", peer, "BAR^P01", "refused", "AR"),
        number_of(asked): ("out", "main", f"127.0.0.1:{fake.port}", "DFT^P03", "done", "AA"),
    }
    why = {one.control_id: one.reason or "" for one in found}
    assert "appointment_status" in why["BAD"]
    assert "(200)" in why["OTHER"]
    patient = patient_ref(messages.vault.digest("mrn", HOSPITAL, MRN))
    paying = patient_ref(messages.vault.digest("mrn", HOSPITAL, str(BILL_PAYMENT.patient.mrn)))
    for refs, ids in (
        ((order_ref(ORDER),), {"GOOD", "BAD"}),
        ((patient,), {"GOOD", "BAD"}),
        ((paying,), {number_of(asked)}),
        ((control_ref("OTHER"),), {"OTHER"}),
    ):
        linked = (await find_messages(messages, HOSPITAL, Wanted(linked=(refs,)))).found
        assert {one.control_id for one in linked} == ids, refs

    bodies = {name: message.encode() for name, message in SENT} | {number_of(asked): asked}
    for one in found:
        whole = await load_message(messages, HOSPITAL, one.id)
        assert whole is not None
        assert messages.vault.open(whole.sealed_body, whole.body_place) == bodies[one.control_id]
    told = await everything(messages)
    for secret in (MRN, NAME, str(BILL_PAYMENT.patient.name), str(BILL_PAYMENT.patient.mrn)):
        assert secret.encode() not in told
