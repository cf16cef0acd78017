"""Reads for which a dialect has several trades: their records come together."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.port import HisReplyInvalid
from mappings.canonical import Department
from mappings.profile import ProfileError
from tests.connectors.soap.test_soap_wire import DONE, FOUND, SUCCESS, made, operation_of, talking

REPLY = "{each: //E, record: Department, fields: {id: {from: I}, name: {from: N}}}"
ALSO = f"operation: Depts, also: [{{operation: Units, request: {{Request: {{Code: '9'}}}}, reply: {REPLY}}}]"
UNITS = "<Response><ResultCode>0</ResultCode><E><I>9</I><N>急诊</N></E></Response>"
NOTHING = "<Response><ResultCode>-7</ResultCode></Response>"
CODES = "error_texts: {not_found: [无记录]}\nerror_text: [/Response/Text]"


async def test_records_of_both_calls_come_in_order(tmp_path: Path) -> None:
    async with talking(tmp_path, DONE, SUCCESS, call=ALSO) as (peer, his):
        peer.replies = [DONE, UNITS]
        assert await his.fetch_departments() == [*FOUND, Department(id="9", name="急诊")]
        assert operation_of(peer).tag == "{urn:his}Units"
        assert operation_of(peer)[0].text == "<Request><Code>9</Code></Request>"


async def test_records_of_one_call_come_when_the_other_finds_nothing(tmp_path: Path) -> None:
    nothing = NOTHING.replace("</Resp", "<Text>无记录</Text></Resp")
    async with talking(tmp_path, DONE, f"{SUCCESS}\n{CODES}", call=ALSO) as (peer, his):
        peer.replies = [nothing, UNITS]
        assert await his.fetch_departments() == [Department(id="9", name="急诊")]


async def test_the_read_fails_as_a_whole_when_one_call_does(tmp_path: Path) -> None:
    async with talking(tmp_path, DONE, SUCCESS, call=ALSO) as (peer, his):
        peer.replies = [DONE, b""]
        with pytest.raises(HisReplyInvalid):
            await his.fetch_departments()


async def test_further_call_is_left_out_when_its_condition_does_not_hold(tmp_path: Path) -> None:
    only_of = ALSO.replace("[{", "[{when: {department_id: present}, ")
    async with talking(tmp_path, DONE, SUCCESS, call=only_of) as (peer, his):
        assert await his.fetch_departments() == FOUND
        assert len(peer.requests) == 1


def test_profile_is_refused_when_a_further_call_has_no_reply(tmp_path: Path) -> None:
    call = "operation: Depts, also: [{operation: Units, request: {Request: {Code: '9'}}}]"
    with pytest.raises(ProfileError, match="needs its reply"):
        made(tmp_path, SUCCESS, call=call)
