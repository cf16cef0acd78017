"""What some dialects do to a document on its way: encrypt it, and sign the call. Weak as it is, the peers require it.

The ciphers and digests are those of `cryptography`; AES in ECB mode and MD5 are here because published interfaces of
regional platforms demand them, and for nothing else. What protects a call is TLS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from lxml import etree

from connectors.soap.xml import XmlError, decode
from mappings.profile import Profile

_ALGORITHMS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "aes": (algorithms.AES, (16, 24, 32)),
    "sm4": (algorithms.SM4, (16,)),
}
_MODES = ("ecb", "cbc")
DIGESTS = ("md5", "sha1", "sha256", "sm3", "hmac-md5", "hmac-sha256")
_BLOCK = 16


NoteFallback = Callable[[str], None]
"""Told the charset in which a text was read because it was not in the declared one."""


def ignore(charset: str) -> None:
    """The NoteFallback of who does not count."""


class SealError(XmlError):
    """A reply cannot be decrypted, or its signature is not the peer's."""


class CipherSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a text is encrypted: `name` is aes-ecb, aes-cbc, sm4-ecb or sm4-cbc, padded as PKCS #5 has it.

    `key` names a secret. With cbc a fresh `iv` of 16 bytes stands before the cipher text, unless `iv` names a secret that
    both sides know. `text` is base64 or hex.
    """

    name: str
    key: str
    iv: str | None = None
    text: str = "base64"
    charset: str = "utf-8"


class SignSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a call is signed: the values of `over`, each as `pair`, joined by `join`, and `tail`; then a digest over it.

    `into` is the element that takes the signature. `key` names a secret; it stands for {key} in `tail`, and is the key of an
    hmac. `sort`: by name, as most interfaces demand. `text` is hex, HEX or base64.
    """

    into: str
    over: tuple[str, ...]
    key: str
    digest: str = "md5"
    pair: str = "{name}={value}"
    join: str = "&"
    tail: str = "&KEY={key}"
    sort: bool = True
    text: str = "HEX"
    charset: str = "utf-8"


class Sealing:
    """Encrypts and decrypts by one CipherSpec."""

    def __init__(self, spec: CipherSpec, keys: Mapping[str, bytes]) -> None:
        """Raises ValueError for a cipher that is none, a key that is missing or of a wrong length."""
        algorithm, _, mode = spec.name.partition("-")
        if algorithm not in _ALGORITHMS or mode not in _MODES:
            raise ValueError(
                f"cipher {spec.name}: one of " + ", ".join(f"{a}-{m}" for a in _ALGORITHMS for m in _MODES)
            )
        if spec.text not in ("base64", "hex"):
            raise ValueError("cipher text: base64 or hex")
        self._spec, self._mode = spec, mode
        kind, lengths = _ALGORITHMS[algorithm]
        key = secret(spec.key, keys)
        if len(key) not in lengths:
            raise ValueError(
                f"secret {spec.key} has {len(key)} bytes; {spec.name} needs {' or '.join(map(str, lengths))}"
            )
        self._algorithm = kind(key)
        self._iv = None if spec.iv is None else secret(spec.iv, keys)
        if self._iv is not None and len(self._iv) != _BLOCK:
            raise ValueError(f"secret {spec.iv} has {len(self._iv)} bytes; an iv has {_BLOCK}")
        try:
            self._cipher(b"\0" * _BLOCK).encryptor()
        except UnsupportedAlgorithm:
            raise ValueError(f"cipher {spec.name} is not in this machine's OpenSSL") from None

    def seal(self, plain: str) -> str:
        """Encrypt. Raises UnicodeEncodeError for a character that the charset lacks."""
        data = plain.encode(self._spec.charset)
        padder = PKCS7(8 * _BLOCK).padder()
        padded = padder.update(data) + padder.finalize()
        iv = self._iv if self._iv is not None else secrets.token_bytes(_BLOCK)
        encryptor = self._cipher(iv).encryptor()
        sealed = encryptor.update(padded) + encryptor.finalize()
        if self._mode == "cbc" and self._iv is None:
            sealed = iv + sealed
        return base64.b64encode(sealed).decode() if self._spec.text == "base64" else sealed.hex()

    def open(self, text: str, note_fallback: NoteFallback = ignore) -> str:
        """Decrypt; what is not in the cipher's charset is decoded by the rules of `decode`, and noted.

        Raises SealError, which quotes nothing.
        """
        try:
            compact = "".join(text.split())
            is_hex = self._spec.text == "hex"
            sealed = bytes.fromhex(compact) if is_hex else base64.b64decode(compact, validate=True)
            iv, sealed = self._split(sealed)
            decryptor = self._cipher(iv).decryptor()
            padded = decryptor.update(sealed) + decryptor.finalize()
            unpadder = PKCS7(8 * _BLOCK).unpadder()
            decoded = decode(unpadder.update(padded) + unpadder.finalize(), self._spec.charset)
        except (ValueError, binascii.Error, XmlError):
            raise SealError("the reply cannot be decrypted: is the key the peer's?") from None
        if decoded.fallback is not None:
            note_fallback(decoded.charset)
        return decoded.text

    def _split(self, sealed: bytes) -> tuple[bytes, bytes]:
        if self._mode != "cbc" or self._iv is not None:
            return self._iv or b"", sealed
        return sealed[:_BLOCK], sealed[_BLOCK:]

    def _cipher(self, iv: bytes) -> Cipher[Any]:
        # ECB is what the published interface of a platform prescribes (DOMAIN.md section 1).
        mode = modes.CBC(iv) if self._mode == "cbc" else modes.ECB()  # noqa: S305
        return Cipher(self._algorithm, mode)


class Signing:
    """Signs and checks by one SignSpec."""

    def __init__(self, spec: SignSpec, keys: Mapping[str, bytes]) -> None:
        """Raises ValueError for a digest that is none, or a key that is missing."""
        if spec.digest not in DIGESTS:
            raise ValueError(f"digest {spec.digest}: one of {', '.join(DIGESTS)}")
        if spec.text not in ("hex", "HEX", "base64"):
            raise ValueError("signature text: hex, HEX or base64")
        try:
            spec.pair.format(name="", value="")
            spec.tail.format(key="")
        except (LookupError, ValueError):
            raise ValueError("sign.pair may hold {name} and {value}, sign.tail {key}") from None
        self.spec = spec
        self._key = secret(spec.key, keys)
        self.signature({})

    def signature(self, values: Mapping[str, str]) -> str:
        """The signature over the values of `over`; one that is absent counts as empty. Raises UnicodeEncodeError."""
        spec = self.spec
        names = sorted(spec.over) if spec.sort else spec.over
        text = spec.join.join(spec.pair.format(name=name, value=values.get(name, "")) for name in names)
        head = text.encode(spec.charset)
        before, mark, after = spec.tail.partition("{key}")
        tail = before.encode(spec.charset) + (self._key if mark else b"") + after.encode(spec.charset)
        digest = self._digest(head + tail)
        if spec.text == "base64":
            return base64.b64encode(digest).decode()
        return digest.hex().upper() if spec.text == "HEX" else digest.hex()

    def holds(self, values: Mapping[str, str]) -> bool:
        """Whether `into` has the signature over the others. Compared without telling by time how much of it is right."""
        try:
            expected, given = self.signature(values), values.get(self.spec.into, "").strip()
        except UnicodeEncodeError:  # whoever signed it cannot have written that
            return False
        if self.spec.text != "base64":
            expected, given = expected.lower(), given.lower()
        return hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))

    def holds_in(self, root: etree._Element) -> bool:
        """`holds` for a document's own elements.

        Each that is signed must be there at most once and have nothing but text: what is signed would not be what is read.
        """
        for name in {*self.spec.over, self.spec.into}:
            found = root.findall(name)
            if len(found) > 1 or any(len(element) for element in found):
                return False
        return self.holds(values_of(root))

    def _digest(self, data: bytes) -> bytes:
        name = self.spec.digest
        if name.startswith("hmac-"):
            return hmac.new(self._key, data, name.removeprefix("hmac-")).digest()
        if name == "sm3":
            digest = hashes.Hash(hashes.SM3())
            digest.update(data)
            return digest.finalize()
        return hashlib.new(name, data, usedforsecurity=False).digest()


def values_of(root: etree._Element) -> dict[str, str]:
    """What a signature is over: the texts of a document's own elements."""
    return {str(child.tag): child.text or "" for child in root}


def secret(name: str, keys: Mapping[str, bytes]) -> bytes:
    """A secret by its name. Raises ValueError, which says where it is to be set."""
    try:
        return keys[name]
    except KeyError:
        raise ValueError(f'the secret {name} is not set: give `secret_files = {{ {name} = "FILE" }}`') from None


def secrets_in(profile: Profile, path: str, tree: Any, keys: Mapping[str, bytes]) -> dict[str, str | None]:
    """What a request tree reads as `secret.NAME`, by that name; None for one that is not set.

    Raises ProfileError where that one has neither `absent` nor `default`, and for one that is no text.
    """
    found: dict[str, str | None] = {}
    if isinstance(tree, list):
        for n, inner in enumerate(tree):
            found |= secrets_in(profile, f"{path}[{n}]", inner, keys)
    if not isinstance(tree, dict):
        return found
    for key, inner in tree.items():
        found |= secrets_in(profile, f"{path}.{key}", inner, keys)
    named = tree.get("from")
    for name in named if isinstance(named, list) else [named]:
        if isinstance(name, str) and name.startswith("secret."):
            unset_is_fine = "absent" in tree or "default" in tree
            found[name] = _text_of(profile, path, name.removeprefix("secret."), keys, unset_is_fine=unset_is_fine)
    return found


def _text_of(profile: Profile, path: str, name: str, keys: Mapping[str, bytes], *, unset_is_fine: bool) -> str | None:
    if name not in keys and unset_is_fine:
        return None
    try:
        return secret(name, keys).decode()
    except UnicodeDecodeError:
        profile.fail(path, f"the secret {name} is not UTF-8")
    except ValueError as error:
        profile.fail(path, str(error))
