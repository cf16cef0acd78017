"""Encryption of patient data at rest, and the keyed digests by which it is searched.

A sealed value is `version (1) | key id length (1) | key id | nonce (12) | AES-256-GCM ciphertext and tag`, with the place it
is stored in (table, column, hospital) as associated data: a value copied to another place does not open (NIST SP 800-38D).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

_VERSION = 1
_NONCE_BYTES = 12
_PIECE_BYTES = 262_144


class SealBroken(Exception):
    """A sealed value cannot be opened: its key is missing, or it was altered or moved."""


class Seals(Protocol):
    """Whatever encrypts for a column: a transaction, or a hospital's vault."""

    def seal(self, plain: bytes, table: str, column: str) -> bytes: ...


class Vault:
    """Seals and opens values. The first data key seals; all open, so that keys can be rotated.

    `data_keys` maps key ids (at most 255 bytes) to 32 bytes each. `digest_key` keys the search digests and rotates apart.
    """

    def __init__(self, data_keys: Mapping[str, bytes], digest_key: bytes) -> None:
        if not data_keys or any(len(key) != 32 for key in data_keys.values()):
            raise ValueError("a data key must have 32 bytes, and there must be at least one")
        if len(digest_key) < 32:
            raise ValueError("the digest key must have at least 32 bytes")
        self._keys = {key_id.encode(): key for key_id, key in data_keys.items()}
        self._ciphers = {key_id.encode(): AESGCM(key) for key_id, key in data_keys.items()}
        self._current = next(iter(self._ciphers))
        self._digest_key = digest_key

    def __repr__(self) -> str:
        return f"Vault(keys={[k.decode() for k in self._ciphers]})"

    def seal(self, plain: bytes, place: str) -> bytes:
        """Encrypt under the current key. `place` names where the value is stored."""
        return self.seal_all((plain,), place)[0]

    def seal_all(self, plains: Sequence[bytes], place: str) -> list[bytes]:
        """Encrypt several values of one place, each under a nonce of its own."""
        where = place.encode()
        head = bytes((_VERSION, len(self._current))) + self._current
        entropy = os.urandom(_NONCE_BYTES * len(plains))
        nonces = [entropy[at : at + _NONCE_BYTES] for at in range(0, len(entropy), _NONCE_BYTES)]
        encrypt = self._encrypt
        return [head + nonce + encrypt(nonce, plain, where) for nonce, plain in zip(nonces, plains, strict=True)]

    def _encrypt(self, nonce: bytes, plain: bytes, where: bytes) -> bytes:
        if len(plain) <= _PIECE_BYTES:
            return self._ciphers[self._current].encrypt(nonce, plain, where)
        # The same bytes, made piece by piece: the interpreter stands still for one at a time and not for megabytes.
        stream = Cipher(AES(self._keys[self._current]), GCM(nonce)).encryptor()
        stream.authenticate_additional_data(where)
        view = memoryview(plain)
        pieces = [stream.update(view[at : at + _PIECE_BYTES]) for at in range(0, len(plain), _PIECE_BYTES)]
        return b"".join((*pieces, stream.finalize(), stream.tag))

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt. Raises SealBroken."""
        try:
            if sealed[0] != _VERSION:
                raise SealBroken(f"sealed value of unknown version in {place}")
            start = 2 + sealed[1]
            cipher = self._ciphers[sealed[2:start]]
            return cipher.decrypt(sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :], place.encode())
        except KeyError:
            raise SealBroken(f"the key of a sealed value in {place} is not among the data keys") from None
        except (IndexError, InvalidTag, ValueError):
            raise SealBroken(f"a sealed value in {place} was altered or belongs elsewhere") from None

    def digest(self, kind: str, hospital_id: str, value: str) -> str:
        """A keyed digest for equality searches, different per kind and hospital. 64 hex characters."""
        message = f"{kind}\0{hospital_id}\0{value}".encode()
        return hmac.digest(self._digest_key, message, "sha256").hex()


class HospitalVault:
    """A vault for the columns of one hospital: the place of a value is its table, its column and the hospital."""

    def __init__(self, vault: Vault, hospital_id: str) -> None:
        self._vault = vault
        self._hospital_id = hospital_id

    def seal(self, plain: bytes, table: str, column: str) -> bytes:
        """Encrypt for one column of one table of this hospital."""
        return self._vault.seal(plain, f"{table}.{column}.{self._hospital_id}")

    def seal_all(self, plains: Sequence[bytes], table: str, column: str) -> list[bytes]:
        """Encrypt several values for one column."""
        return self._vault.seal_all(plains, f"{table}.{column}.{self._hospital_id}")

    def unseal(self, sealed: bytes, table: str, column: str) -> bytes:
        """Decrypt what `seal` made. Raises SealBroken."""
        return self._vault.open(sealed, f"{table}.{column}.{self._hospital_id}")
