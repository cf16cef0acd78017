"""Replies that must be signed by the HIS: what is believed, and what whoever stands on the line could have sent."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xmlsec as library
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from lxml import etree
from zeep.wsse.signature import BinarySignature

from connectors.port import Accepted, HisRefused, HisReplyInvalid, HisUnavailable, Unknown
from mappings.canonical import Department
from mappings.profile import ProfileError
from tests.connectors.soap.soap_hospital import canned, enveloped, golden_order
from tests.connectors.soap.test_soap_wire import ENVELOPE, SUCCESS, WSSE, WSU, made

xmlsec: Any = library  # its stubs export nothing
T = xmlsec.Transform
DS = "{http://www.w3.org/2000/09/xmldsig#}"
DONE = (
    "<Response><ResultCode>0</ResultCode><Departments><Department><DepartmentCode>100</DepartmentCode>"
    "<DepartmentName>内科</DepartmentName></Department></Departments></Response>"
)
FOUND = [Department(id="100", name="内科")]
NO = "<Response><ResultCode>-1004</ResultCode><ResultContent>患者不存在</ResultContent></Response>"
Change = Callable[[etree._Element], None]


class Signer:
    """A HIS's key and certificate, made by xmlsec's own templates."""

    def __init__(self, folder: Path, name: str, *, elliptic: bool = False) -> None:
        key: Any = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        of = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = x509.CertificateBuilder().subject_name(of).issuer_name(of).public_key(key.public_key()).serial_number(1)
        built = built.not_valid_before(dt.datetime(2019, 1, 1, tzinfo=dt.UTC))
        built = built.not_valid_after(dt.datetime(2041, 1, 1, tzinfo=dt.UTC))
        self.file, self.key_file = folder / f"{name}.pem", folder / f"{name}.key"
        self.file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.method = T.ECDSA_SHA256 if elliptic else T.RSA_SHA256

    def signed(
        self,
        reply: str = DONE,
        *,
        minutes: int | None = None,
        over: tuple[str, ...] = ("body",),
        method: Any = None,
        digest: Any = T.SHA256,
        transform: Any = T.EXCL_C14N,
        key: Any = None,
        before: Change | None = None,
        after: Change | None = None,
    ) -> bytes:
        """An envelope with a signature over its `body`, its `time` that ends so many minutes from now, or the `whole`."""
        envelope = etree.fromstring(enveloped(reply).encode())
        security = etree.SubElement(etree.Element(f"{ENVELOPE}Header"), f"{WSSE}Security")
        header = security.getparent()
        assert header is not None
        envelope.insert(0, header)
        body = envelope.find(f"{ENVELOPE}Body")
        assert body is not None
        parts = {"body": body}
        if minutes is not None:
            parts["time"] = _stamp(security, minutes)
        context = xmlsec.SignatureContext()
        context.key = key or xmlsec.Key.from_file(str(self.key_file), xmlsec.KeyFormat.PEM)
        signature = xmlsec.template.create(envelope, T.EXCL_C14N, method or self.method)
        security.append(signature)
        for name, part in parts.items():
            part.set(f"{WSU}Id", name)
            context.register_id(part, "Id", WSU[1:-1])
        if before is not None:
            before(envelope)
        for name in over:
            reference = xmlsec.template.add_reference(signature, digest, uri="" if name == "whole" else f"#{name}")
            xmlsec.template.add_transform(reference, T.ENVELOPED if name == "whole" else transform)
        context.sign(signature)
        if after is not None:
            after(envelope)
        return etree.tostring(envelope, encoding="utf-8")


def _stamp(security: etree._Element, minutes: int) -> etree._Element:
    stamp = etree.SubElement(security, f"{WSU}Timestamp")
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    for name, at in (("Created", ends - dt.timedelta(minutes=5)), ("Expires", ends)):
        etree.SubElement(stamp, f"{WSU}{name}").text = at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return stamp


@pytest.fixture
def his(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "his")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"minutes": 5, "over": ("body", "time")},
        {"method": T.RSA_SHA512, "digest": T.SHA512},
        {"transform": T.C14N},
    ],
)
async def test_reply_is_read_when_the_hospital_has_signed_it(his: Signer, how: dict[str, Any]) -> None:
    async with canned(his.signed(**how), wsse_his_cert_file=str(his.file)) as (_, connector):
        assert await connector.fetch_departments() == FOUND


async def test_reply_is_read_when_its_key_is_an_elliptic_curves(tmp_path: Path) -> None:
    his = Signer(tmp_path, "curve", elliptic=True)
    async with canned(his.signed(), wsse_his_cert_file=str(his.file)) as (_, connector):
        assert await connector.fetch_departments() == FOUND


async def test_reply_is_read_when_zeep_has_signed_it(his: Signer) -> None:
    envelope = etree.fromstring(enveloped(DONE).encode())
    signer: Any = BinarySignature
    ways = {"signature_method": T.RSA_SHA256, "digest_method": T.SHA256}
    signer(str(his.key_file), str(his.file), **ways).apply(envelope, {})
    reply = etree.tostring(envelope)
    async with canned(reply, wsse_his_cert_file=str(his.file)) as (_, connector):
        assert await connector.fetch_departments() == FOUND


async def test_refusal_is_the_hospitals_when_it_is_signed(his: Signer) -> None:
    async with canned(his.signed(NO), wsse_his_cert_file=str(his.file)) as (_, connector):
        with pytest.raises(HisRefused):
            await connector.fetch_departments()


# --- what somebody else could have sent ---------------------------------------------------------------------------------


def _text_changed(envelope: etree._Element) -> None:
    for element in envelope.iter("{http://tempuri.org}OpResult"):
        element.text = (element.text or "").replace("内科", "外科")


def _wrapped(envelope: etree._Element) -> None:
    """The signed Body stands elsewhere, and one of the attacker's in its place (signature wrapping)."""
    body = envelope.find(f"{ENVELOPE}Body")
    security = envelope.find(f"{ENVELOPE}Header/{WSSE}Security")
    assert body is not None
    assert security is not None
    theirs = copy.deepcopy(body)
    del theirs.attrib[f"{WSU}Id"]
    etree.SubElement(security, "Wrapper").append(body)
    envelope.append(theirs)
    _text_changed(theirs)


def _two_of_one_id(envelope: etree._Element) -> None:
    _wrapped(envelope)
    envelope[-1].set(f"{WSU}Id", "body")


def _second_body(envelope: etree._Element) -> None:
    body = envelope.find(f"{ENVELOPE}Body")
    assert body is not None
    theirs = copy.deepcopy(body)
    del theirs.attrib[f"{WSU}Id"]
    envelope.insert(1, theirs)


def _without_signature(envelope: etree._Element) -> None:
    for element in list(envelope.iter(f"{DS}Signature")):
        parent = element.getparent()
        assert parent is not None
        parent.remove(element)


def _time_added(envelope: etree._Element) -> None:
    security = envelope.find(f"{ENVELOPE}Header/{WSSE}Security")
    assert security is not None
    _stamp(security, 5)


def _crowded(envelope: etree._Element) -> None:
    for number in range(600):
        envelope.set(f"a{number}", "")


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "text changed": ({"after": _text_changed}, "is not the HIS's, or what it signed was changed"),
    "wrapped": ({"after": _wrapped}, "is not over its Body"),
    "two of one id": ({"after": _two_of_one_id}, "there twice"),
    "second body": ({"after": _second_body}, "is not signed"),
    "not signed": ({"after": _without_signature}, "has no signature"),
    "time is not signed": ({"after": _time_added}, "not over its Timestamp"),
    "only the time is signed": ({"minutes": 5, "over": ("time",)}, "is not over its Body"),
    "time is over": ({"minutes": -6, "over": ("body", "time")}, "Timestamp of the reply is over"),
    "time is ahead": ({"minutes": 12, "over": ("body", "time")}, "Timestamp of the reply is ahead"),
    "the whole by an empty reference": ({"over": ("whole",)}, "that is not taken"),
    "sha-1": ({"method": T.RSA_SHA1}, "a SignatureMethod that is not taken"),
    "digest by sha-1": ({"digest": T.SHA1}, "a DigestMethod that is not taken"),
    "too many attributes": ({"before": _crowded}, "too many attributes"),
}


@pytest.mark.parametrize(("how", "reason"), FORGED.values(), ids=FORGED)
async def test_reply_is_not_believed_when_it_is_not_what_the_hospital_signed(
    his: Signer, how: dict[str, Any], reason: str
) -> None:
    async with canned(his.signed(**how), wsse_his_cert_file=str(his.file)) as (_, connector):
        with pytest.raises(HisReplyInvalid, match=reason):
            await connector.fetch_departments()
        outcome = await connector.cancel_registration(golden_order())
    assert isinstance(outcome, Unknown)
    assert reason in outcome.reason


async def test_reply_is_not_believed_when_another_has_signed_it(his: Signer, tmp_path: Path) -> None:
    """With the other's own certificate beside it, as a message may bring it."""
    other = Signer(tmp_path, "other")
    envelope = etree.fromstring(enveloped(DONE).encode())
    signer: Any = BinarySignature
    ways = {"signature_method": T.RSA_SHA256, "digest_method": T.SHA256}
    signer(str(other.key_file), str(other.file), **ways).apply(envelope, {})
    async with canned(etree.tostring(envelope), wsse_his_cert_file=str(his.file)) as (_, connector):
        with pytest.raises(HisReplyInvalid, match="is not the HIS's"):
            await connector.fetch_departments()


async def test_reply_is_not_believed_when_the_certificate_is_the_key_of_a_mac(his: Signer) -> None:
    """The certificate is no secret: an HMAC by it proves nothing."""
    key = xmlsec.Key.from_binary_data(xmlsec.KeyData.HMAC, his.file.read_bytes())
    reply = his.signed(method=T.HMAC_SHA256, key=key)
    async with canned(reply, wsse_his_cert_file=str(his.file)) as (_, connector):
        with pytest.raises(HisReplyInvalid, match="a SignatureMethod that is not taken"):
            await connector.fetch_departments()


FAULT = (
    f'<e:Envelope xmlns:e="{ENVELOPE[1:-1]}"><e:Body><e:Fault><faultcode>e:Client</faultcode><faultstring>no</faultstring>'
    "</e:Fault></e:Body></e:Envelope>"
)


@pytest.mark.parametrize(
    "reply",
    [
        enveloped(DONE).encode(),
        DONE.encode(),
        "未知服务".encode(),
        FAULT.encode(),
        web.Response(status=500, body=FAULT.encode(), content_type="text/xml"),
        web.Response(status=404, text="not here"),
        web.Response(status=429, text="later"),
    ],
    ids=["envelope", "bare document", "bare text", "fault", "fault with 500", "404", "429"],
)
async def test_nothing_is_taken_for_not_done_when_nobody_has_signed_it(his: Signer, reply: Any) -> None:
    async with canned(reply, wsse_his_cert_file=str(his.file)) as (_, connector):
        assert isinstance(await connector.cancel_registration(golden_order()), Unknown)
        with pytest.raises(HisReplyInvalid):
            await connector.fetch_departments()


async def test_status_of_http_says_nothing_when_the_envelope_says_done(his: Signer) -> None:
    """It is not signed: with 400 on a registration that was made, nobody would look for it."""
    reply = web.Response(status=400, body=his.signed(), content_type="text/xml")
    async with canned(reply, wsse_his_cert_file=str(his.file)) as (_, connector):
        assert isinstance(await connector.cancel_registration(golden_order()), Unknown)


async def test_hospital_is_away_when_its_gateway_says_so(his: Signer) -> None:
    async with canned(web.Response(status=502, text="<html></html>"), wsse_his_cert_file=str(his.file)) as (_, one):
        with pytest.raises(HisUnavailable):
            await one.fetch_departments()


async def test_write_is_done_when_the_hospital_has_signed_that(his: Signer) -> None:
    reply = his.signed("<Response><ResultCode>0</ResultCode></Response>")
    async with canned(reply, wsse_his_cert_file=str(his.file)) as (_, connector):
        assert isinstance(await connector.cancel_registration(golden_order()), Accepted)


# --- the settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"no certificate", "no PEM certificate"), (b"", "no PEM certificate")],
)
def test_start_says_what_is_wrong_when_the_certificate_is_none(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "theirs.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as raised:
        made(tmp_path, SUCCESS, site={"wsse_his_cert_file": str(file)})
    assert f"wsse_his_cert_file {file}" in str(raised.value)


def test_start_says_what_is_wrong_when_there_is_no_envelope_to_sign(tmp_path: Path, his: Signer) -> None:
    with pytest.raises((ValueError, ProfileError), match="only `transport: soap` has signatures"):
        made(tmp_path, f"{SUCCESS}\ntransport: get", site={"wsse_his_cert_file": str(his.file)})


async def test_sha1_is_taken_when_the_profile_says_that_the_hospital_knows_no_better(his: Signer) -> None:
    reply = his.signed(method=T.RSA_SHA1, digest=T.SHA1)
    settings = {"security": {"timestamp_s": 300, "method": "rsa-sha1"}}
    async with canned(reply, wsse_his_cert_file=str(his.file), settings=settings) as (_, connector):
        assert await connector.fetch_departments() == FOUND
