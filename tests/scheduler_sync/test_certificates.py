"""When certificates end, as their own text says: of a file in the settings, and of a real TLS server's."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from booking.settings import Hospital
from monitoring import metrics
from scheduler_sync.certificates import Certificates
from tests.booking.world import HOSPITAL, make_hospital

ENDED = dt.datetime(2020, 2, 29, 12, tzinfo=dt.UTC)
ENDS = dt.datetime(2041, 5, 6, 7, 8, 9, tzinfo=dt.UTC)


def make_certificate(folder: Path, ends_at: dt.datetime, name: str = "his") -> tuple[Path, Path]:
    """A self-signed certificate that ends then, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    of = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "his.example")])
    built = (
        x509.CertificateBuilder()
        .subject_name(of)
        .issuer_name(of)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2019, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(ends_at)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret


@asynccontextmanager
async def tls_server(certificate: Path, key: Path) -> AsyncIterator[int]:
    """A server that shows it; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def told(where: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(
        "hisbridge_certificate_expiry_timestamp_seconds", {"where": f"{HOSPITAL}/{where}"}
    )


def site(**connectors: dict[str, object]) -> Hospital:
    return make_hospital(connector=connectors)


async def test_end_is_told_of_a_server_and_of_a_file(tmp_path: Path) -> None:
    own = make_certificate(tmp_path, ENDS)
    authority, _ = make_certificate(tmp_path, ENDED, "authority")
    async with tls_server(*own) as port:
        hospital = site(
            his={"protocol": "soap", "endpoint": f"https://127.0.0.1:{port}/dhc", "ca_file": str(authority)},
            lab={"protocol": "hl7v2", "host": "127.0.0.1", "port": 2575},
        )
        await Certificates(hospital).look()
    assert told("his/endpoint") == ENDS.timestamp()
    assert told("his/ca_file") == ENDED.timestamp()
    metrics.forget_hospital(HOSPITAL)
    assert told("his/endpoint") is None
    assert told("his/ca_file") is None


async def test_certificate_is_told_when_it_is_over_and_anew_when_it_was_renewed(tmp_path: Path) -> None:
    async with tls_server(*make_certificate(tmp_path, ENDED)) as port:
        certificates = Certificates(site(fhir={"protocol": "fhir", "base_url": f"https://127.0.0.1:{port}/r4"}))
        await certificates.look()
        assert told("fhir/base_url") == ENDED.timestamp()
    await certificates.look()
    assert told("fhir/base_url") == ENDED.timestamp()  # nobody is there: what was known stands
    renewed = make_certificate(tmp_path, ENDS, "renewed")
    async with tls_server(*renewed) as port:
        await Certificates(site(fhir={"protocol": "fhir", "base_url": f"https://127.0.0.1:{port}/r4"})).look()
        assert told("fhir/base_url") == ENDS.timestamp()
    metrics.forget_hospital(HOSPITAL)


async def test_the_one_that_ends_first_is_told_when_a_file_has_several(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    parts = [make_certificate(tmp_path, ends, str(n))[0] for n, ends in enumerate((ENDS, ENDED))]
    bundle.write_bytes(b"".join(part.read_bytes() for part in parts))
    await Certificates(site(his={"protocol": "soap", "endpoint": "http://127.0.0.1:1/", "ca_file": str(bundle)})).look()
    assert told("his/ca_file") == ENDED.timestamp()
    assert told("his/endpoint") is None  # plain HTTP has none
    metrics.forget_hospital(HOSPITAL)


async def test_nothing_is_told_and_nothing_fails_when_there_is_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "empty.pem"
    file.write_text("none")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        hospital = site(
            his={"endpoint": f"https://127.0.0.1:{port}/", "ca_file": str(file)},
            fhir={"base_url": "https://127.0.0.1:1/", "ca_file": str(tmp_path / "none.pem")},
        )
        await Certificates(hospital).look()
    finally:
        server.close()
        await server.wait_closed()
    assert [told(w) for w in ("his/endpoint", "his/ca_file", "fhir/base_url", "fhir/ca_file")] == [None] * 4


async def test_end_is_told_of_every_certificate_of_an_mllp_connection(tmp_path: Path) -> None:
    own = make_certificate(tmp_path, ENDS)
    files = ("tls_ca_file", "tls_cert_file", "tls_client_ca_file", "tls_client_cert_file")
    ends = {name: ENDS - dt.timedelta(days=n) for n, name in enumerate(files)}
    named = {name: str(make_certificate(tmp_path, ends[name], name)[0]) for name in files}
    async with tls_server(*own) as port:
        mllp = {"protocol": "hl7v2", "host": "127.0.0.1", "port": port, "tls": True, **named}
        plain = {"protocol": "hl7v2", "host": "127.0.0.1", "port": port}
        await Certificates(site(his=mllp, lab=plain)).look()
    assert {name: told(f"his/{name}") for name in files} == {name: end.timestamp() for name, end in ends.items()}
    assert told("his/host") == ENDS.timestamp()
    assert told("lab/host") is None
    metrics.forget_hospital(HOSPITAL)


async def test_server_that_two_settings_name_is_asked_once(tmp_path: Path) -> None:
    async with tls_server(*make_certificate(tmp_path, ENDS)) as port:
        at = f"https://127.0.0.1:{port}"
        await Certificates(site(his={"endpoint": f"{at}/dhc", "wsdl": f"{at}/dhc?wsdl"})).look()
    assert told("his/endpoint") == ENDS.timestamp()
    assert told("his/wsdl") is None
    metrics.forget_hospital(HOSPITAL)
