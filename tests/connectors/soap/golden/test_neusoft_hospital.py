"""The simulated Neusoft-style hospital: what it insists on, and its further habits."""

from __future__ import annotations

import aiohttp
import pytest
from structlog.testing import capture_logs

from connectors.port import Accepted, Rejected
from mappings.canonical import Department
from tests.connectors.soap.soap_hospital import golden_order, payment, switch, window
from tests.connectors.soap.spoken import Spoken, order_of, take, with_refs

TYPED, BARE = Spoken("neusoft", "neusoft@1", by_wsdl=True), Spoken("neusoft", "neusoft@1")
DEPARTMENTS = [
    Department(id="100", name="内科"),
    Department(id="200", name="外科"),
    Department(id="300", name="口腔科"),
]
ENVELOPE = (
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
    '<n:{0} xmlns:n="http://service.his.neusoft.com/"><hospCode>1</hospCode><userCode>u</userCode>{1}</n:{0}>'
    "</s:Body></s:Envelope>"
)


@pytest.mark.parametrize("habit", ["many_data", "prolog", "junk", "gbk"])
async def test_departments_are_the_same_when_the_hospital_has_a_habit(habit: str) -> None:
    async with TYPED.hospital() as (simulator, his):
        switch(simulator, "fetch_departments", habit)
        assert await his.fetch_departments() == DEPARTMENTS


@pytest.mark.parametrize("spoken", [TYPED, BARE], ids=["typed", "bare"])
async def test_visit_is_booked_paid_checked_in_and_found_without_a_word_about_the_wsdl(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        with capture_logs() as logs:
            order = await order_of(his, simulator)
            order = with_refs(order, await his.book(order), payment=payment(order.fee_fen))
            order = with_refs(order, await his.register(order))
            assert isinstance(await his.check_in(order), Accepted)
            found = await his.fetch_registration(order)
            assert found is not None
            assert found.status == "checked_in"
            again, cancelled = await his.check_in(order), await his.cancel_registration(order)
            assert isinstance(again, Rejected)
            assert isinstance(cancelled, Rejected)
            assert (again.code, cancelled.code) == ("already_done", "too_late")
        assert logs == []
        assert (his._endpoint._service is not None) is spoken.by_wsdl


async def test_seats_left_fall_with_every_seat_that_is_taken() -> None:
    async with TYPED.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        assert (order.schedule.quota, order.slot.seats_left) == (20, 5)
        for taken in (1, 2):
            await take(his, with_refs(order, Accepted(), order_no=f"{taken:020d}"))
            slots = await his.fetch_slots(window(), [order.schedule])
            assert next(s.seats_left for s in slots if s.id == order.slot.id) == 5 - taken


@pytest.mark.parametrize(
    ("operation", "arguments", "status"),
    [
        ("getDeptList", "", 200),
        ("getBedInfo", "<deptCode>100</deptCode>", 200),  # an operation that nobody has a use for: 未知服务
        ("getDeptList", "<nobody>1</nobody>", 500),
        ("getSchemaList", "<deptCode>100</deptCode>", 500),  # dates are missing
        (
            "getSchemaList",
            "<beginDate>20260105</beginDate><endDate>2026-01-05</endDate><deptCode>100</deptCode>",
            500,
        ),  # no xs:date
        (
            "getSchemaList",
            "<deptCode>100</deptCode><beginDate>2026-01-05</beginDate><endDate>2026-01-05</endDate>",
            500,
        ),
        ("getNothing", "", 500),
    ],
)
async def test_call_is_a_fault_when_it_is_not_of_the_wsdls_types(operation: str, arguments: str, status: int) -> None:
    async with BARE.hospital() as (simulator, _), aiohttp.ClientSession() as session:
        async with session.post(simulator.url, data=ENVELOPE.format(operation, arguments)) as reply:
            assert reply.status == status
            text = await reply.text()
        assert ("Fault" in text) is (status == 500)
        assert ("未知服务" in text) is (operation == "getBedInfo")


@pytest.mark.parametrize("spoken", [TYPED, BARE], ids=["typed", "bare"])
async def test_string_of_a_typed_result_is_opened_too(spoken: Spoken) -> None:
    """The other way to say it: the result is read by the WSDL's types, and the string that it is, opened."""
    settings = {
        "reply_form": "typed",
        "opens": [{"path": "/Reply", "root": "Text", "fragment": "result"}],
        "success": [{"path": "/Reply/Text/result/returnCode", "values": ["1"]}],
        "error_code": ["/Reply/Text/result/returnCode"],
        "error_text": ["/Reply/Text/result/returnDesc"],
    }
    async with spoken.hospital(settings=settings) as (simulator, his):
        await his.ping()
        switch(simulator, "ping", "junk", times=1)
        await his.ping()
        switch(simulator, "unlock_slot", "refuse")
        refused = await his.unlock_slot(golden_order())
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.text) == ("limit_reached", "超过当日限制")
