"""One contract for every SOAP dialect and every way to take a seat: a visit, and its three outcomes."""

from __future__ import annotations

import msgspec
import pytest

from connectors.port import (
    Accepted,
    HisReplyInvalid,
    Rejected,
    Unknown,
    Verb,
)
from mappings.canonical import RegistrationStatus
from tests.connectors.soap.soap_hospital import PERSON, payment, switch, window
from tests.connectors.soap.spoken import EACH_WAY, Spoken, offers, order_of, take, taking, with_refs

pytestmark = EACH_WAY


async def test_seat_is_taken_registered_found_and_given_back(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        assert await his.fetch_registration(order) is None
        taken = await take(his, order)
        order = with_refs(order, taken)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        paid = payment(order.fee_fen)
        registered = await his.register(msgspec.structs.replace(order, payment=paid))
        order = with_refs(order, registered, payment=paid)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        assert found.mrn in (None, order.patient.mrn)
        (visit,) = simulator.hospital.visits.values()
        assert (visit.state, visit.paid_fen, visit.trade_no) == ("registered", order.fee_fen, "4200001")
        assert isinstance(await his.cancel_registration(order), Accepted)
        again = await his.cancel_registration(order)
        # "cancel of something already done must answer success", or say that it is done
        assert isinstance(again, Accepted) or (isinstance(again, Rejected) and again.code == "already_done")
        found = await his.fetch_registration(order)
        assert found is None or found.status is RegistrationStatus.RELEASED
        assert visit.state == "released"


async def test_seat_is_free_again_when_it_was_taken_and_not_paid(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await take(his, order))
        (visit,) = simulator.hospital.visits.values()
        given_back = his.unlock_slot if offers(his, Verb.UNLOCK_SLOT) else his.cancel_registration
        assert isinstance(await given_back(order), Accepted)
        assert simulator.hospital.segments[visit.segment].taken == 0


async def test_sixth_is_refused_as_full_when_five_seats_are_taken(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        for n in range(5):
            assert isinstance(await take(his, msgspec.structs.replace(order, order_no=f"2{n:019d}")), Accepted)
        refused = await take(his, order)
        assert isinstance(refused, Rejected)
        assert refused.code == "full"
        assert simulator.hospital.oversold == 0


async def test_seat_is_taken_and_none_is_left_when_the_hospital_oversells(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        for n in range(5):
            assert isinstance(await take(his, msgspec.structs.replace(order, order_no=f"2{n:019d}")), Accepted)
        switch(simulator, taking(his).value, "oversell", times=1)
        assert isinstance(await take(his, order), Accepted)
        assert simulator.hospital.oversold == 1
        left = [
            slot.seats_left for slot in await his.fetch_slots(window(), [order.schedule]) if slot.id == order.slot.id
        ]
        assert left in ([0], [])
        refused = await take(his, msgspec.structs.replace(order, order_no="3" * 20))
        assert isinstance(refused, Rejected)
        assert refused.code == "full"


async def test_refusal_is_known_wherever_its_words_stand(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        simulator.hospital.stop(next(iter(simulator.hospital.plans)))
        switch(simulator, "*", "other_place")
        refused = await take(his, order)
        assert isinstance(refused, Rejected)
        assert refused.code == "stopped"
        assert "停" in refused.text or spoken.name == "ninth"


async def test_wrong_amount_is_refused_and_registers_nothing(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await take(his, order))
        refused = await his.register(msgspec.structs.replace(order, payment=payment(order.fee_fen + 1)))
        assert isinstance(refused, Rejected)
        assert [v.state for v in simulator.hospital.visits.values()] == ["locked"]


@pytest.mark.parametrize("mode", ["lose_reply", "already_exists"])
async def test_taking_is_found_by_our_number_when_the_hospital_did_it_and_did_not_say_so(
    spoken: Spoken, mode: str
) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode, times=1)
        outcome = await take(his, order)
        if mode == "lose_reply":
            assert isinstance(outcome, Unknown)
        else:
            assert isinstance(outcome, Rejected)
            assert outcome.code == "already_exists"
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        # what was found is enough to go on with
        order = msgspec.structs.replace(order, his_refs=found.his_refs, payment=payment(order.fee_fen))
        switch(simulator, "register", "lose_reply", times=1)
        assert isinstance(await his.register(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        order = msgspec.structs.replace(order, his_refs=order.his_refs | found.his_refs)
        switch(simulator, "cancel_registration", "lose_reply", times=1)
        assert isinstance(await his.cancel_registration(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is None or found.status is RegistrationStatus.RELEASED


async def test_repeated_taking_is_recognised_by_our_order_number(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        assert isinstance(await take(his, order), Accepted)
        again = await take(his, order)
        assert isinstance(again, Rejected)
        assert (again.code, again.retryable) == ("already_exists", False)
        assert len(simulator.hospital.visits) == 1


async def test_booking_is_never_taken_for_absent_when_the_hospital_does_not_repeat_our_number(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        taken = await take(his, order)
        switch(simulator, "*", "no_order_no")
        for asked in (with_refs(order, taken), order):
            try:
                found = await his.fetch_registration(asked)
            except HisReplyInvalid:  # it may be another's, and is not guessed at
                continue
            assert found is not None
            assert found.status is RegistrationStatus.LOCKED


async def test_taking_is_unknown_when_no_reply_comes(spoken: Spoken) -> None:
    async with spoken.hospital(timeout_s={"lock_slot": 0.4, "book": 0.4}) as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, "hang")
        assert isinstance(await take(his, order), Unknown)
        assert await his.fetch_registration(order) is None


@pytest.mark.parametrize("mode", ["slow", "junk", "gbk"])
async def test_taking_is_accepted_when_the_reply_is_only_odd(spoken: Spoken, mode: str) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode, delay_s=0.1)
        assert isinstance(await take(his, order), Accepted)


@pytest.mark.parametrize(("mode", "code"), [("refuse", "full"), ("bare_text", "invalid_request")])
async def test_taking_is_rejected_when_the_hospital_says_no(spoken: Spoken, mode: str, code: str) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode)
        outcome = await take(his, order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == code


async def test_records_are_the_same_when_a_list_of_one_collapses_to_an_object(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await take(his, order))
        before = (await his.find_patient(PERSON), await his.fetch_registration(order))
        switch(simulator, "*", "collapse")
        assert (await his.find_patient(PERSON), await his.fetch_registration(order)) == before
