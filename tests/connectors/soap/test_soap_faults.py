"""A write has three outcomes: what each way of failing becomes, and that a query-back then tells the truth."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import pytest
from aiohttp import web

from connectors.clock import HisClock
from connectors.port import (
    Accepted,
    BillPayment,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    Outcome,
    Rejected,
    Unknown,
    Verb,
)
from connectors.soap import SoapConnector
from connectors.soap.client import NotSent, Sent, SoapClient
from loadtest.ports import free_port
from mappings.canonical import RegistrationStatus
from monitoring.metrics import REGISTRY
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    canned,
    connected,
    golden_bill_payment,
    golden_order,
    hospital,
    order_for,
    payment,
    switch,
    window,
)

NOT_DONE_AND_UNKNOWN = ["fault", "html", "garbage", "diffgram", "hang"]


async def test_write_was_not_sent_when_the_connection_is_refused() -> None:
    async with connected(endpoint=f"http://127.0.0.1:{free_port()}/") as his:
        outcome = await his.lock_slot(golden_order())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
        with pytest.raises(HisUnavailable):
            await his.fetch_departments()
        assert REGISTRY.get_sample_value("hisbridge_connector_up", {"hospital": "soap-demo", "connector": "his"}) == 0


@pytest.mark.parametrize("address", ["http://his:99999/", "http://[::bad/", "http://a..b/"])
async def test_request_was_not_sent_when_its_address_is_none(address: str) -> None:
    client = SoapClient(clock=HisClock(HOSPITAL, "his"))
    try:
        with pytest.raises(NotSent):
            await client.send(Sent(method="POST", url=address, body=b"x"), timeout_s=1)
    finally:
        await client.close()


async def test_write_was_not_sent_when_every_connection_is_busy_until_the_time_out() -> None:
    async with hospital(max_connections=1, timeout_s={"lock_slot": 0.3}) as (simulator, his):
        order = await order_for(his)
        switch(simulator, "find_patient", "slow", times=1, delay_s=0.8)
        reading = asyncio.create_task(his.find_patient(PERSON))
        await asyncio.sleep(0.05)
        outcome = await his.lock_slot(order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "not_sent"
        assert simulator.board.calls["lock_slot"] == 0
        await reading


@pytest.mark.parametrize("mode", NOT_DONE_AND_UNKNOWN)
async def test_write_is_unknown_when_no_usable_reply_comes(mode: str) -> None:
    async with hospital(timeout_s={"lock_slot": 0.4}) as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", mode)
        assert isinstance(await his.lock_slot(order), Unknown)
        assert await his.fetch_registration(order) is None


async def test_lock_is_found_by_our_number_when_the_hospital_did_it_and_lost_the_reply() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", "lose_reply", times=1)
        assert isinstance(await his.lock_slot(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        assert set(found.his_refs) >= {"transaction_id", "lock_queue_no"}
        order = msgspec.structs.replace(order, his_refs=found.his_refs, payment=payment(order.fee_fen))
        switch(simulator, "register", "lose_reply", times=1)
        assert isinstance(await his.register(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        assert "adm_no" in found.his_refs


async def test_late_commit_is_absent_first_and_found_afterwards() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", "late_commit", times=1, delay_s=0.3)
        assert isinstance(await his.lock_slot(order), Unknown)
        assert await his.fetch_registration(order) is None
        await asyncio.sleep(0.4)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        assert len(simulator.hospital.visits) == 1


async def test_write_is_rejected_as_existing_when_the_hospital_says_so_after_doing_it() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", "already_exists", times=1)
        outcome = await his.lock_slot(order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "already_exists"
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED


@pytest.mark.parametrize(("mode", "code"), [("refuse", "full"), ("bare_text", "invalid_request")])
async def test_write_is_rejected_when_the_hospital_says_no(mode: str, code: str) -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", mode)
        outcome = await his.lock_slot(order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == code


@pytest.mark.parametrize("mode", ["slow", "junk", "gbk"])
async def test_write_is_accepted_when_the_reply_is_only_odd(mode: str) -> None:
    labels = {"hospital": "soap-demo", "connector": "his", "kind": "gb18030"}
    before = REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", mode, delay_s=0.1)
        assert isinstance(await his.lock_slot(order), Accepted)
    after = REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0
    assert after - before == (1 if mode == "gbk" else 0)


async def test_names_are_whole_when_gbk_bytes_stand_under_a_utf8_label() -> None:
    async with hospital() as (simulator, his):
        switch(simulator, "fetch_departments", "gbk")
        assert [d.name for d in await his.fetch_departments()] == ["内科", "外科", "口腔科"]


async def test_settlement_is_found_by_its_payment_when_the_reply_was_lost() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        assert order.patient.mrn is not None
        simulator.hospital.charge(order.patient.mrn, [("血常规", 12050)])
        (bill,) = await his.fetch_bills(order.patient)
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=order.patient, payment=golden_bill_payment().payment)
        switch(simulator, "settle_bill", "lose_reply", times=1)
        assert isinstance(await his.settle_bill(paying), Unknown)
        found = await his.fetch_settlement(paying)
        assert found is not None
        assert found.receipt_no == simulator.hospital.charges[bill.id].receipt


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("fault", HisReplyInvalid),
        ("html", HisUnavailable),  # status 502
        ("garbage", HisReplyInvalid),
        ("diffgram", HisReplyInvalid),
        ("refuse", HisRefused),
        ("bare_text", HisRefused),
        ("lose_reply", HisUnavailable),
        ("hang", HisUnavailable),
    ],
)
async def test_read_raises_its_own_error_when_the_hospital_fails(mode: str, error: type[Exception]) -> None:
    async with hospital(timeout_s={"fetch_departments": 0.4}) as (simulator, his):
        switch(simulator, "fetch_departments", mode)
        with pytest.raises(error) as raised:
            await his.fetch_departments()
        assert getattr(raised.value, "hospital_id", "") == "soap-demo"
        assert getattr(raised.value, "verb", "") == "fetch_departments"


async def test_whole_fetch_fails_when_its_calls_do() -> None:
    async with hospital() as (simulator, his):
        schedules = await his.fetch_schedules(window())
        switch(simulator, "fetch_slots", "html")
        with pytest.raises(HisUnavailable):
            await his.fetch_slots(window(), schedules)


async def test_fetch_is_whole_when_a_few_of_its_calls_had_to_be_made_again() -> None:
    async with hospital() as (simulator, his):
        schedules = await his.fetch_schedules(window())
        all_of_them = await his.fetch_slots(window(), schedules)
        switch(simulator, "fetch_slots", "html", times=2)
        assert await his.fetch_slots(window(), schedules) == all_of_them


async def test_refusal_shows_no_patient_when_the_hospital_quotes_one() -> None:
    async with hospital() as (_, his):
        assert isinstance(await his.create_patient(PERSON), Accepted)
        other = msgspec.structs.replace(PERSON, name="李四光")
        with pytest.raises(HisRefused) as raised:
            await his.find_patient(other)
        assert raised.value.code == "patient_mismatch"
        assert "李四光" not in str(raised.value)
        assert "110101" not in str(raised.value)


def _http(status: int) -> web.Response:
    return web.Response(status=status, text="no", content_type="text/plain")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (_http(404), Rejected(code="invalid_request", text="HTTP 404, a bare text")),
        (_http(429), Rejected(code="busy", text="HTTP 429, a bare text", retryable=True)),
        (_http(503), Unknown(reason="HTTP 503, a bare text")),
        (_http(408), Unknown(reason="HTTP 408, a bare text")),
        (
            "<Response><ResultCode>-9</ResultCode><ErrorMsg>其他</ErrorMsg></Response>",
            Rejected(code="refused", text="-9: 其他"),
        ),
        (
            "<Response><ResultCode>-1</ResultCode><ResultMsg>号源已满</ResultMsg></Response>",
            Rejected(code="full", text="号源已满"),
        ),
        ("<Response/>", Unknown(reason="the reply does not say whether it was done")),
        ("", Unknown(reason="an empty reply")),
        ("<Other/>", Unknown(reason="the reply's root is not <Response>")),
        ("服务器内部错误", Unknown(reason="a bare text where a document should be")),
        (
            "<!DOCTYPE r [<!ENTITY a 'b'>]><Response><ResultCode>0</ResultCode></Response>",
            Unknown(reason="the document has a DOCTYPE"),
        ),
    ],
)
async def test_lock_outcome_follows_the_reply(reply: web.Response | str, expected: Outcome) -> None:
    async with canned(reply) as (_, his):
        assert await his.lock_slot(golden_order()) == expected


async def test_lock_is_unknown_when_a_done_reply_cannot_be_mapped() -> None:
    async with canned("<Response><ResultCode>0</ResultCode><RegFee>seven</RegFee></Response>") as (_, his):
        outcome = await his.lock_slot(golden_order())
        assert isinstance(outcome, Unknown)
        assert "verbs.lock_slot.reply" in outcome.reason
        assert "seven" not in outcome.reason


async def test_lock_is_unknown_when_the_reply_is_larger_than_allowed() -> None:
    async with canned("<Response><ResultCode>0</ResultCode></Response>" + " " * 5000, max_message_bytes=4000) as (
        _,
        his,
    ):
        outcome = await his.lock_slot(golden_order())
        assert isinstance(outcome, Unknown)
        assert "larger than 4000" in outcome.reason


async def test_query_back_is_refused_when_it_answers_about_another_order() -> None:
    reply = "<Response><ResultCode>0</ResultCode><RegStatus>R</RegStatus><ExtOrderNo>1</ExtOrderNo></Response>"
    async with canned(reply) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_registration(golden_order())


async def test_lock_stays_in_doubt_when_the_hospital_does_not_repeat_our_number() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", "lose_reply", times=1)
        switch(simulator, "fetch_registration", "no_order_no")
        assert isinstance(await his.lock_slot(order), Unknown)
        with pytest.raises(HisReplyInvalid):
            await his.fetch_registration(order)
        visit = simulator.hospital.visit_by_key(order.order_no)
        assert visit is not None
        # Known by the hospital's own number, where a reply has told us that.
        known = msgspec.structs.replace(order, his_refs={"transaction_id": visit.no})
        found = await his.fetch_registration(known)
        assert found is not None
        assert (found.order_no, found.his_id) == (None, visit.no)


async def test_bill_paid_by_another_is_not_settled_by_us() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        assert order.patient.mrn is not None
        simulator.hospital.charge(order.patient.mrn, [("血常规", 12050)])
        (bill,) = await his.fetch_bills(order.patient)
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=order.patient, payment=golden_bill_payment().payment)
        simulator.hospital.settle(bill.id, 12050, "at the window")
        refused = await his.settle_bill(paying)
        assert isinstance(refused, Rejected)
        assert refused.code == "already_exists"
        with pytest.raises(HisRefused) as raised:
            await his.fetch_settlement(paying)
        assert raised.value.code == "taken"


async def test_request_is_rejected_unsent_when_the_charset_lacks_a_character() -> None:
    async with canned("<Response/>", settings={"encoding": "gb2312"}) as (peer, his):
        outcome = await his.create_patient(msgspec.structs.replace(PERSON, name="朱镕基"))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "charset"
        assert peer.requests == []


async def test_request_is_rejected_unsent_when_the_profile_needs_what_it_lacks() -> None:
    async with canned("<Response/>") as (peer, his):
        order = golden_order()
        bad = msgspec.structs.replace(order, patient=msgspec.structs.replace(order.patient, mrn="bad\x01mrn"))
        outcome = await his.lock_slot(bad)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"
        assert peer.requests == []


async def test_write_raises_cancelled_when_its_caller_gives_up() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        switch(simulator, "lock_slot", "hang")
        task = asyncio.create_task(his.lock_slot(order))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _calls(his: SoapConnector) -> list[Outcome]:
    order = golden_order()
    return [await his.lock_slot(order), await his.register(order), await his.settle_bill(golden_bill_payment())]


async def test_writes_are_not_sent_when_the_connector_is_closed() -> None:
    async with canned("<Response/>") as (_, his):
        await his.close()
        await his.close()
        for outcome in await _calls(his):
            assert isinstance(outcome, Rejected)
            assert outcome.code == "not_sent"
        assert his.traits(Verb.SETTLE_BILL).query_back == "key"


async def test_faults_can_be_set_over_the_control_port() -> None:
    async with hospital() as (simulator, his), aiohttp.ClientSession() as session:
        control = f"http://127.0.0.1:{simulator.control_port}"
        async with session.post(f"{control}/faults", json={"op": "fetch_departments", "mode": "fault"}) as reply:
            assert reply.status == 200
        with pytest.raises(HisReplyInvalid):
            await his.fetch_departments()
        async with session.delete(f"{control}/faults") as reply:
            assert reply.status == 200
        assert len(await his.fetch_departments()) == 3


async def test_redirection_is_not_followed_when_a_write_is_answered_by_one() -> None:
    """It would be made again, at another's: what was done is looked up instead."""
    async with canned("<Response><ResultCode>0</ResultCode></Response>") as (other, _):
        there = web.Response(status=307, headers={"Location": other.url})
        async with canned(there) as (peer, his):
            assert isinstance(await his.lock_slot(golden_order()), Unknown)
            assert len(peer.requests) == 1
        assert other.requests == []
