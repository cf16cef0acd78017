"""Pipe strings sent and JSON with bare names read: the form, Code 0 and -1 (DOMAIN facts)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from connectors.port import (
    Accepted,
    Rejected,
)
from connectors.soap import Options, create
from mappings.canonical import (
    Department,
    Patient,
)
from tests.connectors.soap.golden.cases import refusal
from tests.connectors.soap.golden.pipe_peer import PIPE, asked, done, failed
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    canned,
    enveloped,
)

DEPARTMENT = '{科室编码:"100",科室名称:"内科"}'
FOUND = [Department(id="100", name="内科")]


async def test_request_is_one_string_and_the_reply_json_with_bare_names() -> None:
    async with canned(done(f"[{DEPARTMENT}]"), **PIPE, settings={"campus": "东院"}) as (peer, his):
        assert await his.fetch_departments() == FOUND
        assert asked(peer) == "KSLB|东院"
        assert peer.requests[0][0]["SOAPAction"] == '"http://tempuri.org/QueryData"'


@pytest.mark.parametrize(
    "reply",
    [
        done(DEPARTMENT),
        "{'Code':'0',Msg:'成功','Data':[{'科室编码':100,'科室名称':'内科',},],}",
        '{"Code":"0","Msg":null,"Data":[{"科室编码":"100","科室名称":"内科","上级科室":""}]}',
        "DEBUG 1 row\r\n" + done(f"[{DEPARTMENT}]"),
        done(f"[{DEPARTMENT}]") + "\r\nOK",
        '\ufeff  {Code:0,Data:[{科室编码:"100",科室名称:"内科"},{科室编码:""},null]}',
    ],
    ids=["no list", "single quotes and commas", "proper JSON", "junk before", "junk behind", "holes"],
)
async def test_reply_means_the_same_however_it_is_written(reply: str) -> None:
    async with canned(reply, **PIPE) as (_, his):
        assert [(d.id, d.name) for d in await his.fetch_departments()][:1] == [("100", "内科")]


@pytest.mark.parametrize("data", ["[]", "null", '""', "{}"])
async def test_nothing_is_listed_when_the_data_is_empty(data: str) -> None:
    async with canned(done(data), failed("无数据"), **PIPE) as (_, his):
        assert await his.fetch_departments() == []
        assert await his.fetch_departments() == []


async def test_names_are_whole_when_the_bytes_are_gbk_under_a_utf8_label() -> None:
    told = enveloped(done('[{科室编码:"1",科室名称:"東院"}]')).encode("gbk")
    async with canned(told, **PIPE) as (_, his):
        assert await his.fetch_departments() == [Department(id="1", name="東院")]


async def test_value_is_refused_and_nothing_sent_when_it_has_the_separator() -> None:
    async with canned(done("[]"), **PIPE) as (peer, his):
        outcome = await his.create_patient(msgspec.structs.replace(PERSON, name="张|伟"))
        assert outcome == Rejected(
            code="invalid_request",
            text="the request cannot be written: 姓名: the value has the separator | in it, which a packed string cannot carry",
        )
        assert await refusal(his.find_patient(msgspec.structs.replace(PERSON, name="张|伟"))) == "invalid_request"
        assert not peer.requests


async def test_absent_values_are_empty_so_that_the_others_keep_their_places(tmp_path: Path) -> None:
    async with canned(done('{病人ID:"0000012345"}'), **PIPE) as (peer, his):
        person = Patient(name="张伟", id_number="11010119900307123X")
        assert await his.create_patient(person) == Accepted(record=Patient(name="张伟", mrn="0000012345"))
        assert asked(peer) == "BRJD|1|张伟|未知||11010119900307123X||"
        # ... unless a site says that one of them is not to be written at all
        place = tmp_path / "short"
        place.mkdir()
        (place / "profile.yaml").write_text(
            "name: short\nversion: 1\nprotocol: soap\nextends: pipe@1\nverbs:\n  create_patient:\n"
            "    request: {地址: {from: address, absent: omit}}\n",
            "utf-8",
        )
        given = Options(protocol="soap", profile="short@1", endpoint=peer.url)
        other = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await other.start()
        try:
            await other.create_patient(person)
        finally:
            await other.close()
        assert asked(peer) == "BRJD|1|张伟|未知||11010119900307123X|"
