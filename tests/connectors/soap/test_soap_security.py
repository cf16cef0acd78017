"""WS-Security of what is sent: time and signature, checked by xmlsec."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import xmlsec as library
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID
from lxml import etree

from connectors.soap import SoapConnector
from mappings.profile import ProfileError
from tests.connectors.soap.test_soap_wire import DONE, ENVELOPE, FOUND, SUCCESS, WSSE, WSU, made, talking

xmlsec: Any = library  # its stubs export nothing
DS = "{http://www.w3.org/2000/09/xmldsig#}"
ENDS = dt.datetime(2041, 1, 1, tzinfo=dt.UTC)
SIGNED = f"{SUCCESS}\nsecurity: {{username: user, password: password, timestamp_s: 300, sign: true}}"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    of = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "portal.example")])
    built = x509.CertificateBuilder().subject_name(of).issuer_name(of).public_key(key.public_key()).serial_number(1)
    built = built.not_valid_before(dt.datetime(2019, 1, 1, tzinfo=dt.UTC)).not_valid_after(ENDS)
    certificate, secret = tmp_path / "our.pem", tmp_path / "our.key"
    certificate.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"wsse_cert_file": str(certificate), "wsse_key_file": str(secret)}


def verify(envelope: etree._Element, certificate: Path) -> None:
    """Raises xmlsec.Error where the signature is not over what the envelope says now, or not by this certificate's key."""
    signature = envelope.find(f"{ENVELOPE}Header/{WSSE}Security/{DS}Signature")
    assert signature is not None
    public = load_pem_x509_certificate(certificate.read_bytes()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    context = xmlsec.SignatureContext()
    context.key = xmlsec.Key.from_memory(pem, xmlsec.KeyFormat.PEM)
    for element in envelope.iter("*"):
        if element.get(f"{WSU}Id") is not None:
            context.register_id(element, "Id", WSU[1:-1])
    context.verify(signature)


@pytest.mark.parametrize("method", ["rsa-sha256", "rsa-sha1"])
async def test_body_and_time_are_signed_when_the_service_demands_it(
    tmp_path: Path, files: dict[str, Any], method: str
) -> None:
    connection = SIGNED.replace("sign: true", f"sign: true, method: {method}")
    async with talking(tmp_path, DONE, connection, site=files) as (peer, his):
        assert await his.fetch_departments() == FOUND
    body = peer.requests[0][1]
    envelope = etree.fromstring(body)
    verify(envelope, Path(files["wsse_cert_file"]))
    algorithm = envelope.find(f".//{DS}SignatureMethod")
    assert algorithm is not None
    assert algorithm.get("Algorithm", "").endswith(f"#{method}")
    signed = {reference.get("URI", "")[1:] for reference in envelope.iter(f"{DS}Reference")}
    by_id = {element.get(f"{WSU}Id"): element.tag for element in envelope.iter("*") if element.get(f"{WSU}Id")}
    assert {by_id[name] for name in signed} == {f"{ENVELOPE}Body", f"{WSU}Timestamp"}
    created, expires = (envelope.findtext(f".//{WSU}Timestamp/{WSU}{name}") or "" for name in ("Created", "Expires"))
    begins, ends = dt.datetime.fromisoformat(created), dt.datetime.fromisoformat(expires)
    assert ends - begins == dt.timedelta(seconds=300)
    changed = etree.fromstring(body.replace(b"WX001", b"WX002"))
    with pytest.raises(xmlsec.Error):
        verify(changed, Path(files["wsse_cert_file"]))


@pytest.mark.parametrize(
    ("connection", "site", "hint"),
    [
        (SIGNED, {}, "connection.security: security.sign needs wsse_key_file and wsse_cert_file"),
        (SIGNED, {"wsse_key_file": "/none.key", "wsse_cert_file": "/none.pem"}, "/none.key"),
        (f"{SIGNED}\ncdata: true", {}, "connection.cdata: a signed envelope has no CDATA"),
        (f"{SUCCESS}\nsecurity: {{digest: true}}", {}, "connection.security: security: give username"),
        (f"{SUCCESS}\nsecurity: {{sign: true, method: rsa-md5}}", {}, "connection"),
        (f"{SUCCESS}\nsecurity: {{username: a, password: nobody}}", {}, "the secret nobody is not set"),
    ],
)
def test_profile_is_refused_with_place_and_hint_when_its_security_cannot_work(
    tmp_path: Path, connection: str, site: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ProfileError) as raised:
        made(tmp_path, connection, site=site)
    assert hint in str(raised.value)


def test_key_is_refused_with_its_file_when_it_is_none(tmp_path: Path, files: dict[str, Any]) -> None:
    wrong = {**files, "wsse_key_file": files["wsse_cert_file"]}
    with pytest.raises(ProfileError, match="no PEM key without a password and its certificate"):
        made(tmp_path, SIGNED, site=wrong)


def test_connector_is_made_when_nothing_is_to_be_secured(tmp_path: Path) -> None:
    assert isinstance(made(tmp_path, SUCCESS), SoapConnector)
