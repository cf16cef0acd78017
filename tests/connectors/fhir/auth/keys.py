"""Keys of the tests' own, made by `cryptography`, and their public halves as the simulated token server reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def key_file(folder: Path, name: str, *, kind: str = "ec", bits: int = 2048) -> str:
    """A new private key in PEM: EC on P-384 or P-256, or RSA."""
    key: Any
    if kind == "rsa":
        key = rsa.generate_private_key(65537, bits)
    else:
        key = ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())
    path = folder / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(path)


def published(file: str) -> dict[str, Any]:
    """What stands in a JWKS file."""
    found: dict[str, Any] = json.loads(Path(file).read_bytes())
    return found
