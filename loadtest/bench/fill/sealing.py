"""Sealed values and search digests in the product's stored format, written from its description, not with its code.

A sealed value is `version 1 | key id length | key id | nonce (12) | AES-256-GCM ciphertext and tag`; its associated data names
the place: `<table>.<column>.<hospital>`. A digest is HMAC-SHA-256 over `<kind> NUL <hospital> NUL <value>`, in hex.
"""

from __future__ import annotations

import base64
import hmac
import os
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Sealer:
    """Seals for one hospital with the first data key of an installation's key files."""

    def __init__(self, data_key_file: Path, digest_key_file: Path, hospital_id: str) -> None:
        key_id, _, key = data_key_file.read_text(encoding="ascii").split()[0].partition(":")
        self._head = bytes((1, len(key_id))) + key_id.encode()
        self._cipher = AESGCM(base64.b64decode(key))
        self._digest_key = base64.b64decode(digest_key_file.read_text(encoding="ascii").strip())
        self._hospital_id = hospital_id

    def seal(self, plain: bytes, table: str, column: str) -> bytes:
        nonce = os.urandom(12)
        place = f"{table}.{column}.{self._hospital_id}".encode()
        return self._head + nonce + self._cipher.encrypt(nonce, plain, place)

    def digest(self, kind: str, value: str) -> str:
        message = f"{kind}\0{self._hospital_id}\0{value}".encode()
        return hmac.new(self._digest_key, message, sha256).hexdigest()
