"""One contract for every SOAP dialect: each of its writes has three outcomes, whatever the hospital does to its reply."""

from __future__ import annotations

import asyncio

import pytest

from connectors.port import Accepted, Rejected, Unknown
from tests.connectors.soap.acts import Act, Write, act_of, writes_of
from tests.connectors.soap.soap_hospital import switch
from tests.connectors.soap.spoken import BOOKING, SPOKEN, Spoken

OF_A_SEAT = (Write.TAKE, Write.GIVE_BACK, Write.REGISTER, Write.CANCEL)
WRITES = [
    *((spoken, write) for spoken in SPOKEN for write in writes_of(spoken)),
    *((spoken, write) for spoken in BOOKING for write in OF_A_SEAT),
]

pytestmark = pytest.mark.parametrize(("spoken", "write"), WRITES, ids=str)


async def is_done(act: Act) -> bool:
    """Whether the hospital has done it; it tells us so, where it can be asked."""
    told = set()
    if act.done is not None:
        told.add(act.done())
    if act.found is not None:
        told.add(await act.found())
    (done,) = told
    return done


async def test_write_is_not_done_when_the_hospital_breaks_or_says_no_and_can_be_tried_again(
    spoken: Spoken, write: Write
) -> None:
    async with spoken.hospital() as (simulator, his):
        act = await act_of(write, his, simulator)
        for mode in ("fault", "html", "garbage", "diffgram"):
            switch(simulator, act.op, mode, times=1)
            assert isinstance(await act.do(), Unknown), mode
        for mode in ("refuse", "bare_text"):
            switch(simulator, act.op, mode, times=1)
            assert isinstance(await act.do(), Rejected), mode
        assert not await is_done(act)
        switch(simulator, act.op, "junk", times=1)
        assert isinstance(await act.do(), Accepted)
        assert await is_done(act)


async def test_write_is_in_doubt_and_found_when_its_reply_is_lost(spoken: Spoken, write: Write) -> None:
    async with spoken.hospital() as (simulator, his):
        act = await act_of(write, his, simulator)
        switch(simulator, act.op, "lose_reply", times=1)
        assert isinstance(await act.do(), Unknown)
        assert await is_done(act)
        before = len(simulator.hospital.visits), len(simulator.hospital.people)
        again = await act.do()
        # "cancel and refund of something already done must answer success", or say that it is done
        assert isinstance(again, Accepted) or (
            isinstance(again, Rejected) and again.code in ("already_exists", "already_done")
        )
        assert await is_done(act)
        assert (len(simulator.hospital.visits), len(simulator.hospital.people)) == before


async def test_write_is_absent_first_and_found_afterwards_when_it_is_done_late(spoken: Spoken, write: Write) -> None:
    async with spoken.hospital() as (simulator, his):
        act = await act_of(write, his, simulator)
        switch(simulator, act.op, "late_commit", times=1, delay_s=1.0)
        assert isinstance(await act.do(), Unknown)
        assert not await is_done(act)
        for _ in range(200):
            if (await act.found()) if act.found is not None else (act.done is not None and act.done()):
                break
            await asyncio.sleep(0.05)
        assert await is_done(act)
