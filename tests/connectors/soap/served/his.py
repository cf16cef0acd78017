"""A HIS that calls us: it signs and encrypts by itself (hashlib, OpenSSL's AES), and reads the answer with lxml alone."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import aiohttp
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from lxml import etree

from connectors.port import Exchanged, Inbound, InboundAnswer, Stored
from connectors.soap import Options, SoapConnector, create
from mappings.canonical import AnyEvent
from monitoring.metrics import REGISTRY
from tests.connectors.soap.soap_hospital import HOSPITAL

PAYLOAD_KEY, SIGN_KEY = b"hisbridge-12320!", b"12320-SIGN-KEY"  # those of the simulated hospital
SPACE = "http://platform.example/his"
SOAP = {"1.1": "http://schemas.xmlsoap.org/soap/envelope/", "1.2": "http://www.w3.org/2003/05/soap-envelope"}

PLATFORM = """
name: platform
version: 1
protocol: soap
connection:
  namespace: http://platform.example/his
  server:
    service: PlatformService
    path: /his
    operations: {PubService: [xml]}
    argument: xml
    root: ROOT
    sign: {into: SIGN, over: [FUN_CODE, REQ_ENCRYPTED, USER_ID], key: sign_key}
    opens: [{path: /ROOT/REQ_ENCRYPTED, root: REQ, cipher: {name: aes-ecb, key: payload_key}}]
    trade: {path: /ROOT/FUN_CODE}
    id: [/ROOT/REQ_ENCRYPTED/REQ/MSG_ID]
    volatile: [/ROOT/REQ_ENCRYPTED/REQ/SENT_AT]
    finds: {order_no: [/ROOT/REQ_ENCRYPTED/REQ/ORDER_ID]}
    echo: {id: /ROOT/REQ_ENCRYPTED/REQ/MSG_ID}
    answer:
      words:
        done: {code: "0", text: 交易成功}
        refused: {code: "99", text: 处理失败}
        retry: {code: "98", text: 系统繁忙，请重发}
        unreadable: {code: "10", text: 报文格式错误}
        unsigned: {code: "11", text: 签名错误}
        unknown_trade: {code: "12", text: 无此交易}
      tree: {RES: {MSG_ID: {from: call.id, absent: empty}}}
      layers:
        - cipher: {name: aes-ecb, key: payload_key}
          sign: {into: SIGN, over: [RES_ENCRYPTED, RETURN_CODE, RETURN_MSG], key: sign_key}
          tree:
            ROOT:
              RETURN_CODE: {from: code}
              RETURN_MSG: {from: text}
              SIGN_TYPE: MD5
              SIGN: ""
              RES_ENCRYPTED: {from: document}
inbound:
  "5001":
    order:
      each: /ROOT/REQ_ENCRYPTED/REQ[ORDER_ID]
      record: ScheduleStopped
      fields:
        scope: {value: order}
        order_no: {from: ORDER_ID}
        reason: {from: REASON}
    schedule:
      each: /ROOT/REQ_ENCRYPTED/REQ[not(ORDER_ID)]
      record: ScheduleStopped
      fields:
        scope: {value: schedule}
        schedule_id: {from: REG_ID}
        date: {from: REG_DATE, via: date}
"""


def sealed(plain: str) -> str:
    """AES-128-ECB with the padding of PKCS #5, in Base64."""
    data = plain.encode()
    data += bytes([16 - len(data) % 16]) * (16 - len(data) % 16)
    encryptor = Cipher(algorithms.AES(PAYLOAD_KEY), modes.ECB()).encryptor()
    return base64.b64encode(encryptor.update(data) + encryptor.finalize()).decode()


def opened(text: str) -> str:
    decryptor = Cipher(algorithms.AES(PAYLOAD_KEY), modes.ECB()).decryptor()
    data = decryptor.update(base64.b64decode(text)) + decryptor.finalize()
    return data[: -data[-1]].decode()


def signed(**values: str) -> str:
    """The MD5 over the values, sorted by name, and the key."""
    text = "&".join(f"{name}={values[name]}" for name in sorted(values))
    return hashlib.md5(f"{text}&KEY={SIGN_KEY.decode()}".encode()).hexdigest().upper()


def document(trade: str, request: str, *, sign: str | None = None, more: str = "") -> str:
    """A call's document. `request` is what stands in REQ; `sign` replaces the right signature."""
    payload = sealed(f"<REQ>{request}</REQ>")
    if sign is None:
        sign = signed(FUN_CODE=trade, REQ_ENCRYPTED=payload, USER_ID="HIS")
    return (
        f"<ROOT>{more}<FUN_CODE>{trade}</FUN_CODE><USER_ID>HIS</USER_ID><SIGN_TYPE>MD5</SIGN_TYPE><SIGN>{sign}</SIGN>"
        f"<REQ_ENCRYPTED>{payload}</REQ_ENCRYPTED></ROOT>"
    )


def envelope(inner: str, *, operation: str = "PubService", version: str = "1.1", header: str = "") -> str:
    """`inner` is XML as it stands in the operation's element."""
    head = f"<s:Header>{header}</s:Header>" if header else ""
    return (
        f'<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="{SOAP[version]}">{head}<s:Body>'
        f'<{operation} xmlns="{SPACE}">{inner}</{operation}></s:Body></s:Envelope>'
    )


def call(trade: str, request: str, **how: Any) -> bytes:
    """The bytes of a good call."""
    return envelope(f"<xml>{escape(document(trade, request))}</xml>", **how).encode()


@dataclass
class Said:
    """An answer as the HIS reads it. `code` is RETURN_CODE, or `fault CODE`."""

    status: int
    kind: str
    body: bytes

    @property
    def parts(self) -> dict[str, str]:
        """The elements of the answer's ROOT, {} of a fault."""
        result = etree.fromstring(self.body).find(".//{*}PubServiceResult")
        if result is None:
            return {}
        return {str(e.tag): e.text or "" for e in etree.fromstring(result.text or "")}

    @property
    def code(self) -> str:
        parts = self.parts
        if parts:
            return parts["RETURN_CODE"]
        root = etree.fromstring(self.body)
        code = root.findtext(".//faultcode") or root.findtext(f".//{{{SOAP['1.2']}}}Value") or ""
        return f"fault {code.rpartition(':')[2]}"


@dataclass
class Desk:
    """The handler behind the connector, and what it was given. It knows a repeat by its key, as the inbox does."""

    taken: list[Inbound] = field(default_factory=list)
    asked: int = 0
    answer: Callable[[Inbound], InboundAnswer] | None = None

    async def handle(self, inbound: Inbound) -> InboundAnswer:
        self.asked += 1
        if self.answer is not None:
            return self.answer(inbound)
        if any(one.dedup_key == inbound.dedup_key for one in self.taken):
            return Stored(duplicate=True)
        self.taken.append(inbound)
        return Stored(quarantined=inbound.problem is not None)

    @property
    def events(self) -> list[AnyEvent]:
        return [event for inbound in self.taken for event in inbound.events]


@dataclass
class Served:
    """A connector that listens, and what it told the message store."""

    connector: SoapConnector
    desk: Desk
    url: str
    session: aiohttp.ClientSession
    noted: list[Any] = field(default_factory=list)

    async def post(self, body: bytes, *, kind: str = "text/xml; charset=utf-8", **headers: str) -> Said:
        headers = {"Content-Type": kind, "SOAPAction": '"x"'} | headers
        async with self.session.post(self.url, data=body, headers=headers) as response:
            return Said(response.status, response.headers["Content-Type"], await response.read())

    @property
    def refused(self) -> list[Exchanged]:
        return [one for one in self.noted if isinstance(one, Exchanged)]


def counted(name: str, **labels: str) -> float:
    """A sample of one of our metrics."""
    return REGISTRY.get_sample_value(f"hisbridge_{name}", {"hospital": HOSPITAL.id, "connector": "his"} | labels) or 0.0


def write_profile(folder: Path, text: str = PLATFORM) -> Path:
    """A folder of profiles with this one in it."""
    name = next(line.partition(": ")[2] for line in text.splitlines() if line.startswith("name: "))
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "profile.yaml").write_text(text, encoding="utf-8")
    return folder


def secret_files(folder: Path, **more: bytes) -> dict[str, str]:
    """The keys in files, as `secret_files` names them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, key in ({"payload_key": PAYLOAD_KEY, "sign_key": SIGN_KEY} | more).items():
        (folder / name).write_bytes(key)
        files[name] = str(folder / name)
    return files


def made(folder: Path, text: str = PLATFORM, **options: Any) -> SoapConnector:
    """A connector that is to listen, not started."""
    name = next(line.partition(": ")[2] for line in text.splitlines() if line.startswith("name: "))
    given: dict[str, Any] = {"listen_port": 0, "secret_files": secret_files(folder)} | options
    return create(
        HOSPITAL, "his", Options(protocol="soap", profile=name, **given), profiles_dir=write_profile(folder, text)
    )


@contextlib.asynccontextmanager
async def served(folder: Path, text: str = PLATFORM, *, path: str = "/his", **options: Any) -> AsyncIterator[Served]:
    """A connector that listens for the calls of a HIS."""
    connector, desk = made(folder, text, **options), Desk()
    noted: list[Any] = []
    connector.record_exchanges(noted.append)
    await connector.start()
    try:
        await connector.serve(desk.handle)
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{connector.listen_port}{path}"
            yield Served(connector, desk, url, session, noted)
    finally:
        await connector.close()
