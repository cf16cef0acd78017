"""The envelope of 12320 v3.3, both ways: `<ROOT>` with an encrypted document and a signature.

The payload is AES-128 in ECB mode with PKCS #5 padding, as Base64; the signature is the MD5 of the signed elements, sorted by
name and joined with `&`, and the key. A test of what a HIS calls (5001 ...) gets its document from `signed_call`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from loadtest.simulators.soap_dialects.speaking import Node, Unreadable, read_xml, xml_of

_SIGNED_IN_A_CALL = ("FUN_CODE", "REQ_ENCRYPTED", "USER_ID")
_SIGNED_IN_A_REPLY = ("RES_ENCRYPTED", "RETURN_CODE", "RETURN_MSG")


class SignatureWrong(Exception):
    """The signature is not the other side's."""


@dataclass(frozen=True)
class Keys:
    """What both sides know. `payload` has 16 bytes."""

    payload: bytes = b"hisbridge-12320!"
    sign: bytes = b"12320-SIGN-KEY"
    user_id: str = "HISBRIDGE"


def signed_call(fun_code: str, request: Node, keys: Keys | None = None, *, charset: str = "utf-8") -> str:
    """The argument of PubService for a call, from whichever side: `request` is the `<REQ>` in the clear."""
    keys = keys or Keys()
    sealed = _sealed(xml_of(request), keys, charset)
    values = {"FUN_CODE": fun_code, "USER_ID": keys.user_id, "REQ_ENCRYPTED": sealed}
    return xml_of(
        (
            "ROOT",
            [
                ("FUN_CODE", fun_code),
                ("USER_ID", keys.user_id),
                ("SIGN_TYPE", "MD5"),
                ("SIGN", signature(values, _SIGNED_IN_A_CALL, keys)),
                ("REQ_ENCRYPTED", sealed),
            ],
        )
    )


def read_call(text: str, keys: Keys | None = None) -> tuple[str, str]:
    """The FUN_CODE of a call and its document in the clear. Raises Unreadable, SignatureWrong."""
    keys = keys or Keys()
    values = {str(child.tag): child.text or "" for child in read_xml(text)}
    missing = {"FUN_CODE", "USER_ID", "SIGN_TYPE", "SIGN", "REQ_ENCRYPTED"} - set(values)
    if missing:
        raise Unreadable(f"there is no {', '.join(sorted(missing))}")
    if values["USER_ID"] != keys.user_id or values["SIGN"] != signature(values, _SIGNED_IN_A_CALL, keys):
        raise SignatureWrong
    return values["FUN_CODE"], opened(values["REQ_ENCRYPTED"], keys)


def signed_reply(code: str, text: str, reply: Node | None, keys: Keys | None = None, *, charset: str = "utf-8") -> str:
    """The text of a reply: `reply` is the `<RES>` in the clear, None where there is none."""
    keys = keys or Keys()
    sealed = "" if reply is None else _sealed(xml_of(reply), keys, charset)
    values = {"RETURN_CODE": code, "RETURN_MSG": text, "RES_ENCRYPTED": sealed}
    return xml_of(
        (
            "ROOT",
            [
                ("RETURN_CODE", code),
                ("RETURN_MSG", text),
                ("SIGN_TYPE", "MD5"),
                ("SIGN", signature(values, _SIGNED_IN_A_REPLY, keys)),
                ("RES_ENCRYPTED", sealed),
            ],
        )
    )


def read_reply(text: str, keys: Keys | None = None) -> tuple[str, str, str]:
    """RETURN_CODE, RETURN_MSG and the `<RES>` in the clear. Raises Unreadable, SignatureWrong."""
    keys = keys or Keys()
    values = {str(child.tag): child.text or "" for child in read_xml(text)}
    if values.get("SIGN") != signature(values, _SIGNED_IN_A_REPLY, keys):
        raise SignatureWrong
    sealed = values.get("RES_ENCRYPTED", "")
    return values["RETURN_CODE"], values["RETURN_MSG"], opened(sealed, keys) if sealed else ""


def signature(values: Mapping[str, str], names: tuple[str, ...], keys: Keys) -> str:
    """The MD5 over these elements, in capitals."""
    text = "&".join(f"{name}={values.get(name, '')}" for name in sorted(names))
    return hashlib.md5(text.encode() + b"&KEY=" + keys.sign, usedforsecurity=False).hexdigest().upper()


def opened(sealed: str, keys: Keys) -> str:
    """Decrypted. Raises Unreadable."""
    try:
        decryptor = _cipher(keys).decryptor()
        padded = decryptor.update(base64.b64decode(sealed, validate=True)) + decryptor.finalize()
        unpadder = PKCS7(128).unpadder()
        return (unpadder.update(padded) + unpadder.finalize()).decode()
    except (ValueError, binascii.Error):
        raise Unreadable("the payload cannot be decrypted") from None


def _sealed(plain: str, keys: Keys, charset: str) -> str:
    padder = PKCS7(128).padder()
    padded = padder.update(plain.encode(charset)) + padder.finalize()
    encryptor = _cipher(keys).encryptor()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def _cipher(keys: Keys) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES(keys.payload), modes.ECB())  # noqa: S305 - the interface prescribes it
