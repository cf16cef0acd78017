"""What bytes mean: HL7 v2.5.1 ch. 2.15.9.18 (MSH-18, table 0211), and what peers write there."""

from __future__ import annotations

import pytest

from .rows import Answer, Row, adt, framed
from .runner import check, play

HOSPITAL = "医院"
UP_TO_NAME = adt("M1", charset="UNICODE UTF-8", body="PID|1||").encode()


def named(charset: str, facility: str = HOSPITAL, control_id: str = "M1") -> str:
    """A message of a sender whose name is not ASCII."""
    return adt(control_id, charset=charset).replace("|HIS|H1|", f"|{facility}|H1|")


def back(charset: str, facility: str = HOSPITAL) -> tuple[Answer, ...]:
    """AA to that sender, under its own label."""
    return (Answer("AA", "M1", fields=(("MSH", 5, 1, facility), ("MSH", 18, 1, charset.split("~")[0]))),)


def taken(name: str, charset: str, codec: str, facility: str = HOSPITAL, **more: object) -> Row:
    """A message in a set that is read, and answered in it."""
    message = framed(named(charset, facility).encode(codec))
    return Row(name, "charset", (message,), back(charset, facility), handled=("M1",), codec=codec, **more)  # type: ignore[arg-type]


def fallback(name: str, charset: str, codec: str, kind: str, facility: str = HOSPITAL) -> Row:
    """A message whose label is wrong: read by what it is, counted, answered as it came."""
    return taken(name, charset, codec, facility, counted={f"decode_fallbacks/{kind}": 1})


def refused(name: str, data: bytes, told: str, named: str | None = "M1", codec: str = "latin-1") -> Row:
    """A message that cannot be read: AR 102 with the reason, and nothing of it is taken."""
    counted = {"inbound_messages/unreadable" if named == "" else "inbound_messages/refused": 1}
    answer = Answer("AR", named, "102", "MSH^1^18", fields=(("ERR", 7, 1, told),))
    return Row(name, "charset", (framed(data),), (answer,), counted=counted, codec=codec)


UTF16 = "UTF-16 and UTF-32 cannot be carried by MLLP: send UNICODE UTF-8"
ISO2022 = "sets that switch within a message (ISO 2022) are not read: send UNICODE UTF-8"
UNKNOWN = "the character set of MSH-18 is not one that is read here: send UNICODE UTF-8"

ROWS = (
    taken("UTF-8 by its label", "UNICODE UTF-8", "utf-8"),
    taken("UTF-8 by another spelling", "UTF8", "utf-8"),
    taken("UTF-8 without a label", "", "utf-8"),
    taken("GB 18030 by its label", "GB 18030-2000", "gb18030"),
    taken("GBK, which no table has", "GBK", "gbk"),
    taken("GB2312, and a character that Python's codec of that name lacks", "GB2312", "gb18030", "朱镕医院"),
    taken("GBK whose second bytes are delimiters", "GBK", "gbk", "東" + b"\x96\x7c\x96\x5e\x96\x7e".decode("gbk")),
    taken("GBK without a label, where that is the peer's default", "", "gbk", options={"charset": "GBK"}),
    taken("a label before the peer's default", "UNICODE UTF-8", "utf-8", options={"charset": "GBK"}),
    taken("BIG-5", "BIG-5", "big5", "醫院"),
    taken("8859/1", "8859/1", "latin-1", "Klinik Süd"),
    taken("8859/1, and an accent before the separator", "8859/1", "latin-1", "Klinik Sü"),
    taken("8859/5", "8859/5", "iso8859-5", "Больница"),
    taken("ASCII", "ASCII", "ascii", "CLINIC"),
    taken("two labels, of which the first counts", "GBK~UNICODE UTF-8", "gbk"),
    Row(
        "two labels of a sender whose repetitions another character parts",
        "charset",
        (framed(named("GBK!ASCII").replace("|^~\\&|", "|^!\\&|").encode("gbk")),),
        (Answer("AA", "M1", fields=(("MSH", 5, 1, HOSPITAL), ("MSH", 18, 1, "GBK"))),),
        handled=("M1",),
        codec="gbk",
    ),
    Row(
        "a label behind line ends",
        "charset",
        (framed(("\r\n" + named("BIG-5", "醫院")).encode("big5")),),
        back("BIG-5", "醫院"),
        handled=("M1",),
        codec="big5",
    ),
    fallback("UTF-8 labelled GBK", "GBK", "utf-8", "utf-8"),
    fallback("GBK labelled UTF-8", "UNICODE UTF-8", "gbk", "gb18030", "张伟医院"),
    fallback("UTF-8 labelled ASCII", "ASCII", "utf-8", "utf-8"),
    fallback("UTF-8 labelled 8859/1", "8859/1", "utf-8", "utf-8", "Klinik Süd"),
    fallback("UTF-8 labelled 8859/5", "8859/5", "utf-8", "utf-8", "Больница"),
    Row(
        "a byte-order mark before another label",
        "charset",
        (framed("\ufeff" + named("GBK")),),
        back("GBK"),
        handled=("M1",),
    ),
    Row(
        "a name in escapes that the peer's set lacks goes back in escapes",
        "charset",
        (framed(adt("\\XE5BCA0\\", charset="ASCII")),),
        (Answer("AA", "\\XE5BCA0\\"),),
        handled=("张",),
    ),
    refused("a label that nobody knows", named("KLINGON").encode("gbk"), UNKNOWN, codec="gbk"),
    refused("ISO IR87", adt("M1", charset="ISO IR87").encode(), ISO2022),
    refused("bytes that switch sets", adt("M1", body="PID|1||9||\x1b$B0f>e\x1b(B\r").encode(), ISO2022),
    refused("a label that says UTF-16", adt("M1", charset="UNICODE UTF-16").encode(), UTF16),
    refused("UTF-16", adt("M1").encode("utf-16-le"), UTF16),
    refused("UTF-16 with its mark", adt("M1").encode("utf-16"), UTF16),
    refused("UTF-16 of the other order", adt("M1").encode("utf-16-be"), UTF16),
    refused("UTF-32", adt("M1").encode("utf-32"), UTF16, named=""),
    refused(
        "bytes that are neither UTF-8 nor GB 18030",
        UP_TO_NAME + b"\xff\xff\r",
        f"bytes at {len(UP_TO_NAME)} are not gb18030",
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))
