"""SMART Backend Services against a token server that checks every assertion by the published keys."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm

from connectors.fhir import FhirConnector
from connectors.fhir.signing_keys import read_keys
from connectors.port import HisUnavailable
from loadtest.simulators import fhir
from loadtest.simulators.fhir_tokens import TokenDesk
from tests.connectors.fhir.auth.conftest import Clock
from tests.connectors.fhir.auth.keys import key_file, published
from tests.connectors.fhir.fhir_hospital import connected


@contextlib.asynccontextmanager
async def smart(
    folder: Path, key_files: list[str], **given: Any
) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector, TokenDesk]]:
    jwks_file = str(folder / "jwks.json")
    desk = TokenDesk(jwks=lambda: published(jwks_file))
    simulator = await fhir.start(days=1, seats=1, tokens=desk)
    options: dict[str, Any] = {
        "auth": "smart",
        "client_id": "hisbridge",
        "scope": "system/*.rs",
        "signing_key_files": key_files,
        "jwks_file": jwks_file,
    }
    try:
        async with connected(simulator.base_url, **options | given) as connector:
            yield simulator, connector, desk
    finally:
        await simulator.close()


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS384"), ("ec", "ES384")])
async def test_assertion_is_taken_when_the_server_checks_it_by_the_published_key(
    kind: str, algorithm: str, tmp_path: Path
) -> None:
    async with smart(tmp_path, [key_file(tmp_path, "one.pem", kind=kind)]) as (_, connector, desk):
        assert await connector.fetch_departments()
        assert len(desk.given) == 1
        (asked,) = desk.asked
        assert asked["scope"] == "system/*.rs"
        head = jwt.get_unverified_header(asked["client_assertion"])
        assert (head["alg"], head["typ"]) == (algorithm, "JWT")
        (key,) = published(str(tmp_path / "jwks.json"))["keys"]
        assert (key["kid"], key["alg"]) == (head["kid"], algorithm)


async def test_published_keys_hold_nothing_private_and_the_thumbprint_of_the_standard(tmp_path: Path) -> None:
    """RFC 7638 section 3: the SHA-256 of the required members, in order, without blanks."""
    async with smart(tmp_path, [key_file(tmp_path, "a.pem", kind="rsa"), key_file(tmp_path, "b.pem")]) as (
        _,
        us,
        _desk,
    ):
        await us.ping()
        first, second = published(str(tmp_path / "jwks.json"))["keys"]
        assert set(first) == {"kty", "n", "e", "use", "key_ops", "alg", "kid"}
        assert set(second) == {"kty", "crv", "x", "y", "use", "key_ops", "alg", "kid"}
        told = f'{{"e":"{first["e"]}","kty":"RSA","n":"{first["n"]}"}}'.encode()
        assert first["kid"] == base64.urlsafe_b64encode(hashlib.sha256(told).digest()).rstrip(b"=").decode()


async def test_newer_key_signs_without_a_restart_when_keys_are_rotated(tmp_path: Path, clock: Clock) -> None:
    old, new = key_file(tmp_path, "old.pem"), key_file(tmp_path, "new.pem", kind="rsa")
    late = tmp_path / "late.pem"
    shutil.copy(old, late)
    async with smart(tmp_path, [new, str(late)]) as (_, connector, desk):
        await connector.ping()
        (first, second) = (key["kid"] for key in published(str(tmp_path / "jwks.json"))["keys"])
        assert desk.kids == [second]
        key_file(tmp_path, "late.pem")  # replaced
        desk.expire()
        clock.forward(301)
        await connector.ping()
        keys = [key["kid"] for key in published(str(tmp_path / "jwks.json"))["keys"]]
        assert keys[0] == first
        assert desk.kids == [second, keys[1]]
        assert keys[1] != second


async def test_key_that_was_replaced_by_garbage_leaves_the_one_before(tmp_path: Path, clock: Clock) -> None:
    key = key_file(tmp_path, "one.pem")
    async with smart(tmp_path, [key]) as (_, connector, desk):
        await connector.ping()
        (tmp_path / "one.pem").write_text("-----BEGIN PRIVATE KEY-----\nhalf")
        desk.expire()
        clock.forward(301)
        await connector.ping()
        assert desk.kids[0] == desk.kids[1]


async def test_kid_is_that_of_the_key_when_it_is_a_jwk(tmp_path: Path) -> None:
    key_file(tmp_path, "one.pem")
    private = load_pem_private_key((tmp_path / "one.pem").read_bytes(), None)
    assert isinstance(private, EllipticCurvePrivateKey)
    jwk = json.loads(ECAlgorithm.to_jwk(private)) | {"kid": "2026-01"}
    file = tmp_path / "one.json"
    file.write_text(json.dumps(jwk))
    async with smart(tmp_path, [str(file)]) as (_, connector, desk):
        await connector.ping()
        assert desk.kids == ["2026-01"]


async def test_nothing_is_sent_when_the_server_knows_no_algorithm_of_ours(tmp_path: Path) -> None:
    async with smart(tmp_path, [key_file(tmp_path, "one.pem")]) as (simulator, connector, desk):
        desk.algorithms = ["RS384"]
        with pytest.raises(HisUnavailable, match="does not take ES384"):
            await connector.ping()
        assert not simulator.requests
        assert not desk.asked


@pytest.mark.parametrize(
    ("kind", "bits", "why"), [("p256", 0, "P-384"), ("rsa", 1024, "fewer than 2048"), ("none", 0, "neither PEM nor")]
)
def test_key_is_refused_at_the_start_when_it_is_no_good(kind: str, bits: int, why: str, tmp_path: Path) -> None:
    if kind == "none":
        (tmp_path / "x.pem").write_text("secret-of-ours")
        file = str(tmp_path / "x.pem")
    else:
        file = key_file(tmp_path, "x.pem", kind=kind, bits=bits)
    with pytest.raises(ValueError, match=why) as told:
        read_keys([file])
    assert "secret-of-ours" not in str(told.value)
