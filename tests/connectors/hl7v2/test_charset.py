"""Character sets: decoded by label, by the fallback rules where the label lies, and never with a replacement."""

from __future__ import annotations

import pytest

from connectors.hl7v2.charset import (
    GB_AS_UTF8,
    NON_ASCII,
    UTF8_AS_GB,
    HL7CharsetError,
    decode_message,
    encode_message,
)


def message(label: str, name: str = "", facility: str = "B") -> str:
    return f"MSH|^~\\&|A|{facility}|C|D|20260105||ADT^A08|1|P|2.5.1||||||{label}\rPID|1||9^^^X^MR||{name}\r"


@pytest.mark.parametrize("label", ["GB 18030-2000", "GBK", "GB2312", "gb2312", "CP936", "GB18030"])
@pytest.mark.parametrize("name", ["张伟", "镕喆", "東京^~|"])
def test_gb_bytes_are_read_when_labelled_so(label: str, name: str) -> None:
    text = message(label, name)
    decoded = decode_message(text.encode("gb18030"))
    assert (decoded.text, decoded.codec, decoded.fallback) == (text, "gb18030", None)


def test_second_byte_is_no_separator_when_the_whole_message_is_decoded_first() -> None:
    # A GBK character whose second byte is 0x7C: a bytewise split would cut the name in two.
    name = b"\x96\x7c".decode("gbk")
    raw = message("GBK", name, facility=name).encode("gb18030")
    assert raw.count(b"|") > message("GBK", name, facility=name).count("|")
    assert decode_message(raw).text == message("GBK", name, facility=name)


@pytest.mark.parametrize("label", ["UNICODE UTF-8", "UTF-8", "", "UNICODE"])
def test_utf8_is_read_when_labelled_so_or_not_at_all(label: str) -> None:
    decoded = decode_message(message(label, "张伟").encode())
    assert (decoded.text, decoded.codec, decoded.fallback) == (message(label, "张伟"), "utf-8", None)


def test_utf8_is_recognised_when_labelled_gb() -> None:
    raw = message("GBK", "张伟").encode()
    assert raw.decode("gb18030") != message("GBK", "张伟")  # it would decode without an error, as other characters
    decoded = decode_message(raw)
    assert (decoded.text, decoded.codec, decoded.fallback) == (message("GBK", "张伟"), "utf-8", UTF8_AS_GB)


def test_gb_stays_gb_when_its_bytes_happen_to_be_two_byte_utf8() -> None:
    # 通 is CD A8 in GBK, which is also a two-byte sequence of UTF-8.
    raw = message("GBK", "通").encode("gbk")
    raw.decode("utf-8")
    assert decode_message(raw).text == message("GBK", "通")


def test_gb_bytes_are_recognised_when_labelled_utf8() -> None:
    decoded = decode_message(message("UNICODE UTF-8", "张伟").encode("gbk"))
    assert (decoded.text, decoded.fallback) == (message("UNICODE UTF-8", "张伟"), GB_AS_UTF8)


def test_peer_default_decides_when_there_is_no_label() -> None:
    decoded = decode_message(message("", "张伟").encode("gbk"), default="GBK")
    assert (decoded.text, decoded.fallback) == (message("", "张伟"), None)


def test_latin1_is_read_when_labelled_so() -> None:
    raw = message("8859/1", "Müller").encode("latin-1")
    assert decode_message(raw).text == message("8859/1", "Müller")


def test_byte_order_mark_is_dropped_and_wins() -> None:
    decoded = decode_message(b"\xef\xbb\xbf" + message("ASCII", "张伟").encode())
    assert (decoded.text, decoded.codec) == (message("ASCII", "张伟"), "utf-8")


def test_non_ascii_is_counted_when_labelled_ascii() -> None:
    decoded = decode_message(message("ASCII", "张伟").encode())
    assert (decoded.text, decoded.fallback) == (message("ASCII", "张伟"), NON_ASCII)


@pytest.mark.parametrize(
    "raw",
    [
        message("ISO IR87", "x").encode(),
        message("UNICODE UTF-16", "x").encode(),
        message("KLINGON", "x").encode(),
        message("").encode("utf-16"),
        message("").encode("utf-16-be"),
        message("UNICODE UTF-8").encode() + b"\xff\xff",
        message("GBK").encode() + b"\xff\xff",
    ],
)
def test_message_is_refused_when_it_cannot_be_decoded_strictly(raw: bytes) -> None:
    with pytest.raises(HL7CharsetError):
        decode_message(raw)


def test_character_is_refused_when_the_peer_s_set_lacks_it() -> None:
    assert encode_message("張", "big5hkscs") == "張".encode("big5")
    with pytest.raises(HL7CharsetError) as refused:
        encode_message("张", "iso8859-1")
    assert "张" not in str(refused.value)
