"""Ciphers and signatures of the dialects, against OpenSSL's command and sums worked out apart from ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from connectors.soap.seals import CipherSpec, SealError, Sealing, Signing, SignSpec

KEY = b"0123456789abcdef"
KEYS = {"payload": KEY, "iv": b"fedcba9876543210", "sign": b"S3CRET"}
PLAIN = "<REQ><NAME>张伟</NAME></REQ>"


def openssl(*arguments: str, data: bytes) -> bytes:
    return subprocess.run(
        ["openssl", "enc", *arguments, "-K", KEY.hex()], input=data, capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("spec", "cipher"),
    [
        (CipherSpec(name="aes-ecb", key="payload"), ["-aes-128-ecb"]),
        (CipherSpec(name="aes-ecb", key="payload", text="hex", charset="gbk"), ["-aes-128-ecb"]),
        (CipherSpec(name="aes-cbc", key="payload", iv="iv"), ["-aes-128-cbc", "-iv", KEYS["iv"].hex()]),
        (CipherSpec(name="sm4-ecb", key="payload"), ["-sm4-ecb"]),
        (CipherSpec(name="sm4-cbc", key="payload", iv="iv"), ["-sm4-cbc", "-iv", KEYS["iv"].hex()]),
    ],
)
def test_openssl_reads_what_was_sealed_and_the_other_way_round(spec: CipherSpec, cipher: list[str]) -> None:
    sealing = Sealing(spec, KEYS)
    sealed = bytes.fromhex(sealing.seal(PLAIN)) if spec.text == "hex" else base64.b64decode(sealing.seal(PLAIN))
    assert openssl("-d", *cipher, data=sealed).decode(spec.charset) == PLAIN
    theirs = openssl("-e", *cipher, data=PLAIN.encode(spec.charset))
    text = (
        theirs.hex() if spec.text == "hex" else base64.encodebytes(theirs).decode()
    )  # with line ends, as many write it
    assert sealing.open(text) == PLAIN


def test_vector_stands_before_the_text_and_is_new_each_time_when_none_is_agreed() -> None:
    sealing = Sealing(CipherSpec(name="aes-cbc", key="payload"), KEYS)
    first, second = sealing.seal(PLAIN), sealing.seal(PLAIN)
    assert first != second
    data = base64.b64decode(first)
    assert openssl("-d", "-aes-128-cbc", "-iv", data[:16].hex(), data=data[16:]).decode() == PLAIN
    assert sealing.open(second) == PLAIN


def test_text_is_whole_and_noted_when_gbk_bytes_were_sealed() -> None:
    theirs = base64.b64encode(openssl("-e", "-aes-128-ecb", data=PLAIN.encode("gbk"))).decode()
    noted: list[str] = []
    assert Sealing(CipherSpec(name="aes-ecb", key="payload"), KEYS).open(theirs, noted.append) == PLAIN
    assert noted == ["gb18030"]


@given(st.text(max_size=100))
def test_any_text_is_refused_without_being_quoted_when_it_is_not_sealed(text: str) -> None:
    sealing = Sealing(CipherSpec(name="aes-cbc", key="payload"), KEYS)
    try:
        sealing.open(text)
    except SealError as error:
        assert str(error) == "the reply cannot be decrypted: is the key the peer's?"  # noqa: PT017


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (CipherSpec(name="des-ecb", key="payload"), "cipher des-ecb: one of aes-ecb"),
        (CipherSpec(name="aes-gcm", key="payload"), "cipher aes-gcm"),
        (CipherSpec(name="aes-ecb", key="sign"), "secret sign has 6 bytes; aes-ecb needs 16 or 24 or 32"),
        (CipherSpec(name="aes-cbc", key="payload", iv="sign"), "secret sign has 6 bytes; an iv has 16"),
        (CipherSpec(name="aes-ecb", key="other"), 'give `secret_files = { other = "FILE" }`'),
        (CipherSpec(name="aes-ecb", key="payload", text="utf-8"), "base64 or hex"),
    ],
)
def test_cipher_is_refused_with_its_reason_when_it_cannot_work(spec: CipherSpec, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        Sealing(spec, KEYS)
    assert reason in str(raised.value)


VALUES = {"USER_ID": "HB", "FUN_CODE": "2005", "REQ_ENCRYPTED": "abc=", "SIGN_TYPE": "MD5"}
OVER = ("USER_ID", "FUN_CODE", "REQ_ENCRYPTED")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # sorted by name, joined with &, the key at the end, MD5: the rule of the 12320 platforms
        ({}, hashlib.md5(b"FUN_CODE=2005&REQ_ENCRYPTED=abc=&USER_ID=HB&KEY=S3CRET").hexdigest().upper()),
        ({"sort": False, "text": "hex"}, hashlib.md5(b"USER_ID=HB&FUN_CODE=2005&REQ_ENCRYPTED=abc=&KEY=S3CRET").hexdigest()),
        (
            {"pair": "{value}", "join": "", "tail": "{key}", "digest": "sha256", "text": "hex"},
            hashlib.sha256(b"2005abc=HBS3CRET").hexdigest(),
        ),
        (
            {"tail": "", "digest": "hmac-sha256", "text": "base64"},
            base64.b64encode(hmac.digest(b"S3CRET", b"FUN_CODE=2005&REQ_ENCRYPTED=abc=&USER_ID=HB", "sha256")).decode(),
        ),
    ],
)  # fmt: skip
def test_signature_is_the_sum_of_the_rule(more: dict[str, object], expected: str) -> None:
    signing = Signing(SignSpec(into="SIGN", over=OVER, key="sign", **more), KEYS)  # type: ignore[arg-type]
    assert signing.signature(VALUES) == expected
    assert signing.holds({**VALUES, "SIGN": expected})
    assert signing.holds({**VALUES, "SIGN": f" {expected}\n"})
    for wrong in ({}, {"SIGN": ""}, {"SIGN": expected, "USER_ID": "XX"}, {"SIGN": expected[:-1]}, {"SIGN": "\ud800签"}):
        assert not signing.holds({**VALUES, **wrong})


def test_sm3_is_the_standards_own_example() -> None:
    signing = Signing(
        SignSpec(into="S", over=("a",), key="none", pair="{value}", tail="", digest="sm3", text="hex"), {"none": b"-"}
    )
    # GB/T 32905-2016, appendix A.1: the digest of "abc"
    assert signing.signature({"a": "abc"}) == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"


@pytest.mark.parametrize(
    "more", [{"digest": "md4"}, {"text": "octal"}, {"pair": "{nom}"}, {"tail": "{0}"}, {"pair": "{"}, {"key": "other"}]
)
def test_signing_is_refused_when_its_rule_makes_no_sense(more: dict[str, str]) -> None:
    spec: dict[str, object] = {"into": "SIGN", "over": OVER, "key": "sign", **more}
    with pytest.raises(ValueError, match=r"digest|signature text|sign.pair|secret"):
        Signing(SignSpec(**spec), KEYS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("document", "holds"),
    [
        ("<ROOT><CODE>5001</CODE><DATA>abc</DATA><SIGN>{sign}</SIGN></ROOT>", True),
        ("<ROOT><NOTE>x</NOTE><CODE>5001</CODE><DATA>abc</DATA><SIGN>{sign}</SIGN></ROOT>", True),
        ("<ROOT><CODE>5002</CODE><DATA>abc</DATA><SIGN>{sign}</SIGN></ROOT>", False),
        ("<ROOT><CODE>5002</CODE><CODE>5001</CODE><DATA>abc</DATA><SIGN>{sign}</SIGN></ROOT>", False),
        ("<ROOT><CODE>5001</CODE><DATA>abc<REQ>another</REQ></DATA><SIGN>{sign}</SIGN></ROOT>", False),
        ("<ROOT><CODE>5001<X/></CODE><DATA>abc</DATA><SIGN>{sign}</SIGN></ROOT>", False),
        ("<ROOT><CODE>5001</CODE><DATA>abc</DATA><SIGN>0</SIGN><SIGN>{sign}</SIGN></ROOT>", False),
        ("<ROOT><CODE>5001</CODE><DATA>abc</DATA></ROOT>", False),
    ],
)
def test_signature_covers_what_is_read_when_a_document_has_more_than_was_signed(document: str, holds: bool) -> None:
    signing = Signing(SignSpec(into="SIGN", over=("CODE", "DATA"), key="sign"), KEYS)
    signed = hashlib.md5(b"CODE=5001&DATA=abc&KEY=S3CRET").hexdigest().upper()
    assert signing.holds_in(etree.fromstring(document.format(sign=signed))) is holds
