"""Character sets: decoded by label, by the fallback rules where the label lies, and never with a replacement."""

from __future__ import annotations

import pytest

from connectors.hl7v2.charset import (
    GB_AS_UTF8,
    NON_ASCII,
    UTF8_AS_GB,
    UTF8_AS_OTHER,
    HL7CharsetError,
    codec_of,
    codec_to_write,
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


@pytest.mark.parametrize(
    ("label", "codec", "facility"),
    [
        ("8859/1", "iso8859-1", "Klinik Sü"),
        ("8859/1", "iso8859-1", "Hôpital St-André"),
        ("8859/15", "iso8859-15", "Mariä^Mariä&Mariä"),
        ("8859/5", "iso8859-5", "Клиника"),
        ("8859/7", "iso8859-7", "Νοσοκομείο"),
        ("BIG-5", "big5hkscs", "功醫院功"),
        ("GBK", "gb18030", "東"),
    ],
)
def test_label_is_found_when_the_letter_before_a_separator_would_be_one_with_it_in_another_set(
    label: str, codec: str, facility: str
) -> None:
    text = message(label, f"{facility}^{facility}", facility).replace("|C|D|", f"|{facility}|{facility}|")
    decoded = decode_message(text.encode(codec))
    assert (decoded.text, decoded.codec, decoded.fallback) == (text, codec, None)


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("8859/1", "iso8859-1"),
        ("8859/15", "iso8859-15"),
        ("ISO-8859-5", "iso8859-5"),
        ("iso8859/2", "iso8859-2"),
        ("BIG-5", "big5hkscs"),
        ("Big5", "big5hkscs"),
        ("ASCII", "ascii"),
        ("ISO IR6", "ascii"),
        ("GB 18030-2022", "gb18030"),
        ("gb_2312-80", "gb18030"),
        ("unicode utf-8", "utf-8"),
        ("UNICODE  UTF8", "utf-8"),
        ("", ""),
    ],
)
def test_label_is_known_however_it_is_spelled(label: str, codec: str) -> None:
    assert codec_of(label) == codec


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("UNICODE UTF-16", "UTF-16"),
        ("UNICODE UTF-32", "UTF-32"),
        ("ISO IR87", "ISO 2022"),
        ("ISO IR159", "ISO 2022"),
        ("JIS X 0202", "ISO 2022"),
        ("ISO-2022-JP", "ISO 2022"),
        ("KLINGON", "not one that is read"),
    ],
)
def test_refused_label_is_told_why(label: str, told: str) -> None:
    with pytest.raises(HL7CharsetError, match=told) as refused:
        codec_of(label)
    assert "KLINGON" not in str(refused.value)


def test_first_repetition_decides_when_msh_18_has_several() -> None:
    text = message("GBK~UNICODE UTF-8", "张伟")
    assert decode_message(text.encode("gbk")).text == text
    assert decode_message(message("~8859/1", "张伟").encode(), default="UTF-8").codec == "utf-8"


@pytest.mark.parametrize("switch", ["\x1b$B", "\x1b(J", "\x1b$(D", "\x1b-A"])
def test_bytes_that_switch_sets_are_refused_whatever_the_label(switch: str) -> None:
    for label in ("", "ASCII", "UNICODE UTF-8"):
        with pytest.raises(HL7CharsetError, match="ISO 2022"):
            decode_message(message(label, f"A{switch}B").encode())


def test_command_of_a_printer_is_content() -> None:
    assert decode_message(message("ASCII", "\x1bE\x1b(s0p10h\x1b(8U").encode()).codec == "ascii"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("8859/1", "Müller"),
        ("8859/15", "Müller"),
        ("8859/2", "Łukasz Wałęsa"),
        ("8859/5", "张伟"),
        ("8859/5", "Иванов"),
        ("8859/6", "محمد"),
        ("8859/7", "Ελένη"),
        ("8859/8", "משה"),
        ("8859/9", "Şükrü"),
        ("BIG-5", "張偉"),
    ],
)
def test_utf8_is_recognised_when_labelled_otherwise(label: str, name: str) -> None:
    decoded = decode_message(message(label, name).encode())
    assert (decoded.text, decoded.codec, decoded.fallback) == (message(label, name), "utf-8", UTF8_AS_OTHER)


@pytest.mark.parametrize(
    ("label", "codec", "name"),
    [
        ("8859/1", "latin-1", "MÜLLER å ß ÃO"),
        ("8859/2", "iso8859-2", "Łukasz Wałęsa"),
        ("8859/5", "iso8859-5", "Иванов"),
        ("8859/5", "iso8859-5", "ТА"),  # C2 B0, which is ° in UTF-8
        ("8859/7", "iso8859-7", "Έλενα"),
        ("BIG-5", "big5", "張偉"),
    ],
)
def test_set_of_the_label_is_read_when_the_bytes_are_no_utf8(label: str, codec: str, name: str) -> None:
    decoded = decode_message(message(label, name).encode(codec))
    assert (decoded.text, decoded.fallback) == (message(label, name), None)


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


@pytest.mark.parametrize("label", ["BIG-5", "Big5", "CP950"])
def test_only_what_big5_has_is_sent_when_the_peer_does_not_say_hkscs(label: str) -> None:
    """喆 is none of Big5 (it is 0xFB46 in HKSCS); 恒 is one of the seven that every Big5 in use adds."""
    assert encode_message("張恒", codec_to_write(label)) == bytes.fromhex("b169 f9da")
    with pytest.raises(HL7CharsetError):
        encode_message("喆", codec_to_write(label))
    assert encode_message("喆", codec_to_write("BIG5-HKSCS")) == bytes.fromhex("fb46")
