"""Envelopes by configuration alone: each shape of call that is known of, written to a peer and read from it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from lxml import etree

from connectors.port import HisRefused, HisReplyInvalid, HisUnavailable
from connectors.soap import Options, SoapConnector, create
from connectors.soap.xml import Sections
from mappings.canonical import Department
from mappings.profile import ProfileError
from tests.connectors.soap.soap_hospital import HOSPITAL, CannedPeer, enveloped

KEY, SIGN_KEY = b"0123456789abcdef", b"S3CRET"
ENVELOPE = "{http://schemas.xmlsoap.org/soap/envelope/}"
WSSE = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}"
WSU = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd}"

PROFILE = """\
name: site
version: 1
protocol: soap
connection:
  namespace: urn:his
  user: WX001
{connection}
verbs:
  fetch_departments:
    capability: native
    call: {{{call}}}
    request: {request}
    reply: {{each: {each}, record: Department, fields: {{id: {{from: {id}}}, name: {{from: {name}}}}}}}
"""
SUCCESS = "success: [{path: /Response/ResultCode, values: ['0']}]\nerror_code: [/Response/ResultCode]"
DONE = "<Response><ResultCode>0</ResultCode><D><I>1</I><N>内科</N></D></Response>"
FOUND = [Department(id="1", name="内科")]


def profile_of(folder: Path, connection: str, **given: str) -> Path:
    place = folder / "site"
    place.mkdir(exist_ok=True)
    known = {
        "call": "operation: Depts, trade: '1012'",
        "request": "{Request: {TradeCode: '1012', User: {from: connection.user}}}",
        "each": "//D",
        "id": "I",
        "name": "N",
    }
    lines = "\n".join(f"  {line}" for line in connection.strip().splitlines())
    (place / "profile.yaml").write_text(PROFILE.format(connection=lines, **(known | given)), "utf-8")
    return folder


def made(folder: Path, connection: str, *, site: dict[str, Any] | None = None, **given: str) -> SoapConnector:
    folder = profile_of(folder, connection, **given)
    secrets = {"payload": KEY, "sign": SIGN_KEY + b"\n", "password": "口令".encode()}
    for name, value in secrets.items():
        (folder / name).write_bytes(value)
    options = Options(
        protocol="soap",
        profile="site@1",
        **{
            "secret_files": {name: str(folder / name) for name in secrets},
            "endpoint": "http://127.0.0.1:9/",
            **(site or {}),
        },
    )
    return create(HOSPITAL, "his", options, profiles_dir=folder)


@contextlib.asynccontextmanager
async def talking(
    folder: Path, reply: Any, connection: str, *, site: dict[str, Any] | None = None, **given: str
) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    peer = CannedPeer(reply)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", peer.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = {"endpoint": f"http://127.0.0.1:{runner.addresses[0][1]}/his"}
    his = made(folder, connection, site=(site or {}) | address, **given)
    await his.start()
    try:
        yield peer, his
    finally:
        await his.close()
        await runner.cleanup()


def operation_of(peer: CannedPeer) -> etree._Element:
    body = etree.fromstring(peer.requests[-1][1]).find(f"{ENVELOPE}Body")
    assert body is not None
    return body[0]


async def test_one_operation_takes_the_trade_and_the_document_when_a_gateway_wants_both(tmp_path: Path) -> None:
    connection = (
        f"{SUCCESS}\noperation: CommonMethod\narguments: {{funCode: {{from: trade}}, input: {{from: document}}}}"
    )
    async with talking(tmp_path, DONE, connection, call="trade: '1012'") as (peer, his):
        assert await his.fetch_departments() == FOUND
    call = operation_of(peer)
    assert call.tag == "{urn:his}CommonMethod"
    assert [(child.tag, child.text) for child in call] == [
        ("{urn:his}funCode", "1012"),
        ("{urn:his}input", "<Request><TradeCode>1012</TradeCode><User>WX001</User></Request>"),
    ]
    assert peer.requests[0][0]["SOAPAction"] == '"urn:his/CommonMethod"'


async def test_arguments_may_be_fixed_or_of_the_site_when_the_dialect_asks_for_more_of_them(tmp_path: Path) -> None:
    connection = (
        f"{SUCCESS}\noperation: invoke\nargument_qualified: false\narguments: {{service: {{from: trade}},"
        " urid: {from: connection.user}, pwd: '', parameter: {from: document}}"
    )
    async with talking(tmp_path, DONE, connection, call="trade: Depts") as (peer, his):
        assert await his.fetch_departments() == FOUND
    assert [(child.tag, child.text or "") for child in operation_of(peer)][:3] == [
        ("service", "Depts"),
        ("urid", "WX001"),
        ("pwd", ""),
    ]


async def test_prolog_and_bytes_are_gb2312_when_the_dialect_declares_it(tmp_path: Path) -> None:
    connection = f'{SUCCESS}\nencoding: gb2312\nprolog: \'<?xml version="1.0" encoding="gb2312"?>\''
    async with talking(tmp_path, DONE, connection, request="{Request: {Name: 内科}}") as (peer, his):
        assert await his.fetch_departments() == FOUND
    headers, body = peer.requests[0]
    assert headers["Content-Type"] == "text/xml; charset=gb2312"
    assert body.startswith(b'<?xml version="1.0" encoding="gb2312"?>')
    assert '&lt;?xml version="1.0" encoding="gb2312"?&gt;&lt;Request&gt;&lt;Name&gt;内科'.encode("gb2312") in body


async def test_request_names_its_trade_and_a_password_from_a_file_when_the_dialect_has_them_inside(
    tmp_path: Path,
) -> None:
    names = {"Code": "trade", "Op": "operation", "Pwd": "secret.password", "User": "connection.user"}
    request = f"{{Request: {{{', '.join(f'{name}: {{from: {path}}}' for name, path in names.items())}}}}}"
    call = "operation: Depts, trade: '1012', echo: true"
    async with talking(tmp_path, DONE, SUCCESS, request=request, call=call) as (peer, his):
        assert await his.fetch_departments() == FOUND
    sent = operation_of(peer)[0].text
    assert sent == "<Request><Code>1012</Code><Op>Depts</Op><Pwd>口令</Pwd><User>WX001</User></Request>"


def test_start_says_which_file_is_missing_when_a_request_names_a_password(tmp_path: Path) -> None:
    with pytest.raises(
        ProfileError, match=r"verbs.fetch_departments.request.R.P: the secret nobody is not set"
    ) as raised:
        made(tmp_path, SUCCESS, request="{R: {P: {from: secret.nobody}}}")
    assert 'secret_files = { nobody = "FILE" }' in str(raised.value)


async def test_request_is_refused_with_a_reason_when_nothing_that_it_reads_is_there(tmp_path: Path) -> None:
    async with talking(tmp_path, DONE, SUCCESS, request="{R: {P: {from: connection.nothing}}}") as (peer, his):
        with pytest.raises(HisRefused, match="exactly one root element, and nothing that it reads is there"):
            await his.fetch_departments()
    assert peer.requests == []


BODY_IN_CDATA = """\
success: [{path: /BSXml/MsgHeader/Status, values: ['true']}]
error_code: [/BSXml/MsgHeader/ErrCode]
error_text: [/BSXml/MsgHeader/Detail]
reply_root: BSXml
layers:
  - cdata: [MsgBody]
    tree:
      BSXml:
        MsgHeader: {Sender: {from: connection.user}, MsgType: {from: trade}, MsgVersion: '3.0'}
        MsgBody: {from: document}
opens: [{path: /BSXml/MsgBody, root: Body}]
"""


@pytest.mark.parametrize("names", ["[MsgBody]", "[MsgBody, MsgBody]"])
async def test_body_stands_in_cdata_of_a_document_with_a_header_when_the_dialect_wraps_it(
    names: str, tmp_path: Path
) -> None:
    connection = BODY_IN_CDATA.replace("[MsgBody]", names)
    told = (
        "<BSXml><MsgHeader><Status>true</Status></MsgHeader>"
        "<MsgBody><![CDATA[<Body><D><I>1</I><N>内科</N></D></Body>]]></MsgBody></BSXml>"
    )
    request = "{Query: {Note: 'a ]]> b'}}"
    async with talking(tmp_path, told, connection, request=request) as (peer, his):
        assert await his.fetch_departments() == FOUND
    text = operation_of(peer)[0].text or ""
    # literally, as their parsers look for it
    assert "<MsgBody><![CDATA[<Query><Note>a ]]&gt; b</Note></Query>]]></MsgBody>" in text
    document = etree.fromstring(text)
    assert document.findtext("MsgHeader/MsgType") == "1012"
    assert etree.fromstring(document.findtext("MsgBody") or "").findtext("Note") == "a ]]> b"


def test_section_is_split_when_its_text_has_what_ends_one() -> None:
    sections = Sections()
    element = etree.Element("a")
    element.text = sections.put("x]]>y<![CDATA[z]]>")
    written = sections.fill(etree.tostring(element, encoding="unicode"))
    assert written == "<a><![CDATA[x]]]]><![CDATA[>y<![CDATA[z]]]]><![CDATA[>]]></a>"
    assert etree.fromstring(written).text == "x]]>y<![CDATA[z]]>"
    with pytest.raises(ValueError, match="XML compatible"):
        sections.put("\x00")


async def test_refusal_is_the_headers_when_the_body_is_empty(tmp_path: Path) -> None:
    told = "<BSXml><MsgHeader><Status>false</Status><ErrCode>7</ErrCode><Detail>没有权限</Detail></MsgHeader><MsgBody/></BSXml>"
    async with talking(tmp_path, told, BODY_IN_CDATA) as (_, his):
        with pytest.raises(HisRefused, match="7: 没有权限"):
            await his.fetch_departments()


SEALED = """\
success: [{path: /ROOT/RETURN_CODE, values: ['0']}]
error_code: [/ROOT/RETURN_CODE]
error_text: [/ROOT/RETURN_MSG]
reply_root: ROOT
layers:
  - cipher: {name: aes-ecb, key: payload}
    sign: {into: SIGN, over: [FUN_CODE, REQ_ENCRYPTED, USER_ID], key: sign}
    tree:
      ROOT:
        FUN_CODE: {from: trade}
        USER_ID: {from: connection.user}
        SIGN_TYPE: MD5
        SIGN: ""
        REQ_ENCRYPTED: {from: document}
reply_sign: {into: SIGN, over: [RETURN_CODE, RETURN_MSG, RES_ENCRYPTED], key: sign}
opens: [{path: /ROOT/RES_ENCRYPTED, root: RES, cipher: {name: aes-ecb, key: payload}}]
"""


def aes(data: bytes, *how: str) -> bytes:
    command = ["openssl", "enc", *how, "-aes-128-ecb", "-K", KEY.hex()]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest().upper()


def sealed_reply(plain: str, *, code: str = "0", sign: str | None = None) -> str:
    sealed = base64.b64encode(aes(plain.encode(), "-e")).decode() if plain else ""
    sign = md5(f"RES_ENCRYPTED={sealed}&RETURN_CODE={code}&RETURN_MSG=ok&KEY=S3CRET") if sign is None else sign
    return (
        f"<ROOT><RETURN_CODE>{code}</RETURN_CODE><RETURN_MSG>ok</RETURN_MSG><SIGN_TYPE>MD5</SIGN_TYPE><SIGN>{sign}</SIGN>"
        f"<RES_ENCRYPTED>{sealed}</RES_ENCRYPTED></ROOT>"
    )


async def test_payload_is_encrypted_and_the_call_signed_when_the_platform_demands_it(tmp_path: Path) -> None:
    reply = sealed_reply("<RES><D><I>1</I><N>内科</N></D></RES>")
    async with talking(tmp_path, reply, SEALED, call="operation: PubService, trade: '2001'") as (peer, his):
        assert await his.fetch_departments() == FOUND
    root = etree.fromstring(operation_of(peer)[0].text or "")
    values = {str(child.tag): child.text or "" for child in root}
    plain = aes(base64.b64decode(values["REQ_ENCRYPTED"]), "-d").decode()
    assert plain == "<Request><TradeCode>1012</TradeCode><User>WX001</User></Request>"
    assert values["FUN_CODE"] == "2001"
    assert values["SIGN"] == md5(f"FUN_CODE=2001&REQ_ENCRYPTED={values['REQ_ENCRYPTED']}&USER_ID=WX001&KEY=S3CRET")


@pytest.mark.parametrize(
    "reply",
    [
        sealed_reply("<RES/>", sign="0" * 32),
        sealed_reply("<RES/>", sign=""),
        sealed_reply("").replace("<RES_ENCRYPTED>", "<RES_ENCRYPTED>AAAA"),
        sealed_reply("这不是XML"),
    ],
    ids=["foreign signature", "no signature", "changed payload", "payload that is no document"],
)
async def test_reply_is_not_believed_when_it_is_not_the_peers(tmp_path: Path, reply: str) -> None:
    async with talking(tmp_path, reply, SEALED) as (_, his):
        with pytest.raises((HisReplyInvalid, HisRefused)):
            await his.fetch_departments()


async def test_success_is_an_attribute_of_the_root_when_the_dialect_has_it_there(tmp_path: Path) -> None:
    rules = "success: [{path: /Out/@Result, values: ['0']}]\nerror_code: [/Out/@Result]\nerror_text: [/Out/@Err]"
    connection = f"{rules}\nreply_root: Out"
    done = '<Out Result="0"><D><I>1</I><N>内科</N></D></Out>'
    async with talking(tmp_path, done, connection) as (_, his):
        assert await his.fetch_departments() == FOUND
    async with talking(tmp_path, '<Out Result="-1" Err="无此科室"/>', connection) as (_, his):
        with pytest.raises(HisRefused, match="-1: 无此科室"):
            await his.fetch_departments()


async def test_result_and_data_stand_beside_each_other_when_the_string_has_two_roots(tmp_path: Path) -> None:
    connection = "success: [{path: /Reply/result/returnCode, values: ['1']}]\nreply_root: Reply\nreply_fragment: true"
    told = "<result><returnCode>1</returnCode></result><Data><D><I>1</I><N>内科</N></D></Data>"
    async with talking(tmp_path, told, connection) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_packed_request_and_json_with_bare_names_are_spoken_when_a_dialect_has_them(tmp_path: Path) -> None:
    connection = (
        "form: packed\npacking: {fields: '|'}\nreply_form: json\nreply_root: Reply\n"
        "success: [{path: /Reply/Code, values: ['0']}]\nargument: text"
    )
    request = "{a: {value: DEPT}, b: {from: connection.user}, c: {from: connection.none, absent: empty}}"
    told = "{Code:'0',科室:[{编号:1,名称:'内科'}]}"
    async with talking(tmp_path, told, connection, request=request, each="//科室", id="编号", name="名称") as (
        peer,
        his,
    ):
        assert await his.fetch_departments() == FOUND
    assert operation_of(peer)[0].text == "DEPT|WX001|"


async def test_lists_in_packed_strings_are_records_when_a_reply_opens_them(tmp_path: Path) -> None:
    packing = "{fields: '^', rows: '!', row: D, names: [I, N]}"
    connection = f"{SUCCESS}\nopens: [{{path: /Response/List, form: packed, packing: {packing}}}]"
    told = "<Response><ResultCode>0</ResultCode><List>1^内科!2^外科!</List></Response>"
    async with talking(tmp_path, told, connection) as (_, his):
        assert await his.fetch_departments() == [*FOUND, Department(id="2", name="外科")]


async def test_header_and_token_go_along_when_the_service_is_secured(tmp_path: Path) -> None:
    auth = "{'{urn:auth}Auth': {User: {from: connection.user}}}"
    token_of = "{username: user, password: password, digest: true}"
    connection = f"{SUCCESS}\nheader: {auth}\nsecurity: {token_of}"
    async with talking(tmp_path, DONE, connection) as (peer, his):
        assert await his.fetch_departments() == FOUND
        assert await his.fetch_departments() == FOUND
    nonces = set()
    for _, body in peer.requests:
        header = etree.fromstring(body).find(f"{ENVELOPE}Header")
        assert header is not None
        assert header.findtext("{urn:auth}Auth/User") == "WX001"
        token = header.find(f"{WSSE}Security/{WSSE}UsernameToken")
        assert token is not None
        assert token.findtext(f"{WSSE}Username") == "WX001"
        nonce, created = token.findtext(f"{WSSE}Nonce") or "", token.findtext(f"{WSU}Created") or ""
        # UsernameToken Profile 1.1 section 3.1: Base64(SHA-1(nonce + created + password))
        digest = hashlib.sha1(base64.b64decode(nonce) + created.encode() + "口令".encode()).digest()
        assert token.findtext(f"{WSSE}Password") == base64.b64encode(digest).decode()
        nonces.add(nonce)
    assert len(nonces) == 2


@pytest.mark.parametrize("transport", ["get", "form"])
async def test_arguments_travel_without_an_envelope_when_the_service_offers_plain_http(
    tmp_path: Path, transport: str
) -> None:
    connection = f"{SUCCESS}\ntransport: {transport}\nencoding: gbk"
    escaped = DONE.replace("<", "&lt;").replace(">", "&gt;")
    told = f'<?xml version="1.0"?><string xmlns="urn:his">{escaped}</string>'.encode()
    async with talking(tmp_path, told, connection, request="{Request: {Name: 内科}}") as (peer, his):
        seen: list[tuple[str, str, bytes]] = []
        answer = peer.handle

        async def noted(request: web.Request) -> web.Response:
            seen.append((request.method, request.raw_path, await request.read()))
            return await answer(request)

        peer.handle = noted  # type: ignore[method-assign]
        assert await his.fetch_departments() == FOUND
    _, body = peer.requests[0]
    if transport == "form":
        assert parse_qs(body.decode("ascii"), encoding="gbk") == {
            "XMLRequest": ["<Request><Name>内科</Name></Request>"]
        }
    else:
        assert body == b""


async def test_get_is_not_repeated_when_the_connection_breaks(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    his = made(
        tmp_path,
        f"{SUCCESS}\ntransport: get",
        site={"endpoint": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"},
    )
    await his.start()
    try:
        with pytest.raises(HisUnavailable):
            await his.fetch_departments()
        await asyncio.sleep(0.2)
    finally:
        await his.close()
        server.close()
    assert len(heard) == 1
    assert heard[0].startswith(b"GET /Depts?XMLRequest=%3CRequest%3E")


@pytest.mark.parametrize(
    ("connection", "hint"),
    [
        (f"{SUCCESS}\nform: packed", "connection.form: form: packed needs"),
        (f"{SUCCESS}\nreply_form: packed", "connection.reply_form"),
        (f"{SUCCESS}\nform: typed\ncdata: true", "connection.cdata: `form: typed` has no document"),
        (f"{SUCCESS}\nform: yaml", "connection"),
        (f"{SUCCESS}\ntransport: get\nheader: {{'{{a}}b': 1}}", "only `transport: soap` has a header"),
        (
            f"{SUCCESS}\nlayers: [{{tree: {{A: {{from: document}}}}, cipher: {{name: aes-ecb, key: nobody}}}}]",
            "connection.layers[0].cipher: the secret nobody is not set",
        ),
        (f"{SUCCESS}\nopens: [{{path: '//['}}]", "connection.opens[0].path"),
        (f"{SUCCESS}\nopens: [{{path: //a, cypher: 1}}]", "cypher"),
    ],
)  # fmt: skip
def test_profile_is_refused_with_place_and_hint_when_its_wire_makes_no_sense(
    tmp_path: Path, connection: str, hint: str
) -> None:
    with pytest.raises(ProfileError) as raised:
        made(tmp_path, connection)
    assert hint in str(raised.value)


def test_secret_is_refused_with_its_file_when_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"secret_files\.payload: .*none: No such file"):
        made(tmp_path, SUCCESS, site={"secret_files": {"payload": str(tmp_path / "none")}})


def test_reply_of_the_peers_own_helper_is_an_envelope() -> None:
    assert etree.fromstring(enveloped(DONE).encode())[0][0][0].text == DONE
