"""BSXml: the envelope, the header, CDATA and the account, against values worked out by hand (DOMAIN facts)."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.port import HisRefused, Window
from connectors.soap import Options, SoapConnector, create
from mappings.canonical import (
    Department,
)
from mappings.profile import ProfileError
from tests.connectors.soap.golden.bsoft_peer import arguments, asked, done
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    CannedPeer,
    canned,
    enveloped,
    switch,
)
from tests.connectors.soap.spoken import SPOKEN

WINDOW_OF_ALL = Window(date_from=dt.date(2020, 1, 1), date_to=dt.date(2999, 12, 31))


@contextlib.asynccontextmanager
async def talking(
    tmp_path: Path, *replies: str | bytes | web.Response, **settings: str
) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    secret = tmp_path / "password"
    secret.write_text("S3CRET<&>\n", "utf-8")
    given: dict[str, Any] = {"profile": "bsoft@1", "secret_files": {"password": str(secret)}, "settings": settings}
    async with canned(*replies, **given) as (peer, his):
        yield peer, his


# --- the envelope --------------------------------------------------------------------------------------------------


async def test_call_is_the_documented_one_when_departments_are_asked_for(tmp_path: Path) -> None:
    reply = done("<Rows><Row><KSDM>100</KSDM><KSMC>内科</KSMC><SJKS>1</SJKS></Row></Rows>")
    async with talking(tmp_path, reply, user_id="WX001", sender="PORTAL") as (peer, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科", parent_id="1")]
    assert list(arguments(peer).items()) == [
        ("service", "DeptQuery"),
        ("urid", "WX001"),
        ("pwd", "S3CRET<&>"),
        (
            "parameter",
            "<BSXml><MsgHeader><Sender>PORTAL</Sender><MsgType>DeptQuery</MsgType><MsgVersion>3.0</MsgVersion></MsgHeader>"
            "<MsgBody><![CDATA[<Body><JGID>1</JGID></Body>]]></MsgBody></BSXml>",
        ),
    ]


async def test_password_is_empty_when_the_site_has_none() -> None:
    async with canned(done(""), profile="bsoft@1") as (peer, his):
        await his.ping()
    assert arguments(peer)["pwd"] == ""
    assert asked(peer) == ("SystemTime", {"JGID": "1"})


async def test_hospital_refuses_when_the_password_is_another(tmp_path: Path) -> None:
    spoken = next(one for one in SPOKEN if one.name == "bsoft")
    secret = tmp_path / "wrong"
    secret.write_text("guess")
    async with spoken.hospital(secret_files={"password": str(secret)}) as (_, his):
        with pytest.raises(HisRefused, match="用户名或密码错误") as refused:
            await his.fetch_departments()
        assert refused.value.code == "invalid_request"


async def test_body_is_read_alike_when_it_is_not_in_cdata() -> None:
    spoken = next(one for one in SPOKEN if one.name == "bsoft")
    async with spoken.hospital() as (simulator, his):
        before = (await his.fetch_departments(), await his.fetch_schedules(WINDOW_OF_ALL))
        switch(simulator, "*", "no_cdata")
        assert (await his.fetch_departments(), await his.fetch_schedules(WINDOW_OF_ALL)) == before
        assert len(before[0]) == 3
    rows = "<Rows><Row><KSDM>100</KSDM><KSMC>内科</KSMC></Row></Rows>"
    async with canned(done(rows, cdata=False), profile="bsoft@1") as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科")]


async def test_reply_is_read_when_junk_stands_before_and_behind_both_documents() -> None:
    rows = "<Rows><Row><KSDM>100</KSDM><KSMC>内科 A&amp;E</KSMC></Row></Rows>"
    told = done(rows).replace("<![CDATA[", "<![CDATA[<?xml version='1.0' encoding='GBK'?> row 1 ")
    async with canned(f"DEBUG 1 row\r\n{told}\r\nOK", profile="bsoft@1") as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科 A&E")]


async def test_names_are_whole_when_the_bytes_are_gbk_under_a_utf8_label() -> None:
    rows = "<Rows><Row><KSDM>1</KSDM><KSMC>東院</KSMC></Row></Rows>"
    async with canned(enveloped(done(rows)).encode("gbk"), profile="bsoft@1") as (_, his):
        assert await his.fetch_departments() == [Department(id="1", name="東院")]


# --- settings ------------------------------------------------------------------------------------------------------


def test_profile_is_refused_when_the_secret_that_it_names_is_not_set(tmp_path: Path) -> None:
    place = tmp_path / "strict"
    place.mkdir()
    (place / "profile.yaml").write_text(
        "name: strict\nversion: 1\nprotocol: soap\nextends: bsoft@1\nconnection:\n"
        "  arguments: {pwd: {from: secret.password, absent: null}}\n"
    )
    given = Options(protocol="soap", profile="strict@1", endpoint="http://127.0.0.1:9/")
    with pytest.raises(ProfileError, match=r"connection\.arguments\.pwd: the secret password is not set: give"):
        create(HOSPITAL, "his", given, profiles_dir=tmp_path)
    secret = tmp_path / "password"
    secret.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"the secret password is not UTF-8"):
        create(
            HOSPITAL,
            "his",
            msgspec.structs.replace(given, secret_files={"password": str(secret)}),
            profiles_dir=tmp_path,
        )
