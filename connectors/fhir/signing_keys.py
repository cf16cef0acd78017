"""The keys by which we sign for a token server, and their public halves, for it to check by.

The file of a key is PEM (PKCS 8, PKCS 1, SEC 1; no password) or a JWK. RSA signs RS384, EC on P-384 signs ES384: what SMART App
Launch 2.x demands of every server ("Client Authentication: Asymmetric"). A key's `kid` is that of its JWK, else its thumbprint
(RFC 7638). Of several keys the last one signs, and all of them are published, so that a key can be known before it is used and
for as long as anything that it signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

LEAST_RSA_BITS = 2048
MAX_KEY_BYTES = 20_000
_THUMBPRINT = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}  # RFC 7638 section 3.2, in lexicographic order


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """One private key. `public` is its JWK without the private members."""

    kid: str
    algorithm: str
    private: RSAPrivateKey | EllipticCurvePrivateKey
    public: dict[str, Any]

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"

    def sign(self, claims: dict[str, Any], **header: str) -> str:
        """A JWT over `claims`."""
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers={"kid": self.kid, **header})


def read_keys(files: Sequence[str]) -> list[SigningKey]:
    """The keys, in the order of their files. Raises ValueError, which names the file and nothing of what is in it."""
    keys = [_read(file) for file in files]
    if len({key.kid for key in keys}) < len(keys):
        raise ValueError("signing_key_files: two of the keys have the same kid")
    return keys


def jwks(keys: Sequence[SigningKey]) -> bytes:
    """The JWK Set of the public halves (RFC 7517)."""
    return json.dumps({"keys": [key.public for key in keys]}, indent=1, sort_keys=True).encode() + b"\n"


def publish(keys: Sequence[SigningKey], file: str) -> None:
    """Write the JWK Set where a web server publishes it, unless it stands there already. Raises OSError."""
    path, data = Path(file), jwks(keys)
    if path.is_file() and path.read_bytes() == data:
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(data)
        Path(name).chmod(0o644)  # public it is, and the web server is another user
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(file: str) -> SigningKey:
    where = f"signing_key_files: {file}"
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(MAX_KEY_BYTES)
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror or type(error).__name__}") from None
    try:
        private, kid = _parsed(data)
    except (ValueError, TypeError, KeyError, AttributeError, jwt.PyJWTError, UnsupportedAlgorithm):
        raise ValueError(f"{where}: neither PEM nor a JWK of a private key without a password") from None
    if isinstance(private, RSAPrivateKey):
        if private.key_size < LEAST_RSA_BITS:
            raise ValueError(f"{where}: an RSA key of fewer than {LEAST_RSA_BITS} bits")
        algorithm, public = "RS384", RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    elif isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP384R1):
        algorithm, public = "ES384", ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        raise ValueError(f"{where}: neither an RSA key (RS384) nor one on the curve P-384 (ES384)")
    kid = kid or _thumbprint(public)
    public = {"kty": public["kty"]} | {name: public[name] for name in _THUMBPRINT[public["kty"]]}
    public |= {"use": "sig", "key_ops": ["verify"], "alg": algorithm, "kid": kid}
    return SigningKey(kid=kid, algorithm=algorithm, private=private, public=public)


def _parsed(data: bytes) -> tuple[Any, str | None]:
    if not data.lstrip().startswith(b"{"):
        return load_pem_private_key(data, password=None), None
    jwk = json.loads(data)
    kid = jwk.get("kid")
    key = (RSAAlgorithm if jwk["kty"] == "RSA" else ECAlgorithm).from_jwk(jwk)
    return key, kid if isinstance(kid, str) and kid else None


def _thumbprint(public: dict[str, Any]) -> str:
    members = {name: public[name] for name in _THUMBPRINT[public["kty"]]}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
