"""Character sets of HL7 v2: from MSH-18 to text and back, never replacing a character.

The whole message is decoded before it is split, because second bytes of GBK include `|`, `^`, `~` and a backslash.
MSH-18 is table 0211 (HL7 v2.5.1 ch. 2.15.9.18); "GBK" and its like are not in it and are common in China.

    HL7CharsetError    the message cannot be decoded, or the text cannot be carried
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

import msgspec


class HL7CharsetError(Exception):
    """The character set is not supported, or the bytes or characters do not fit it. Never quotes the text."""


class Decoded(msgspec.Struct, frozen=True):
    """A message as text. `fallback` names the rule that overrode the label, None where the label was right."""

    text: str
    codec: str
    fallback: str | None = None


UTF8_AS_GB = "utf8_labelled_gb"
UTF8_AS_OTHER = "utf8_labelled_other"
GB_AS_UTF8 = "gb_labelled_utf8"
NON_ASCII = "non_ascii_labelled_ascii"

_BIG5 = ("BIG5", "CP950")
_GBK = ("GB2312", "GB231280", "GB23121980", "EUCCN", "GBK", "CP936", "MS936", "WINDOWS936")
# Labels without their case, blanks, hyphens and underscores: GB 18030-2000, GB18030 and gb-18030-2000 are one.
_CODECS = {
    "": "",
    "ASCII": "ascii",
    "USASCII": "ascii",
    "ISOIR6": "ascii",  # ISO 646, which is ASCII
    "UNICODEUTF8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE": "utf-8",  # deprecated in 0211; whoever still writes it over MLLP means UTF-8
    # Python's gb2312 fails on 镕 and 喆, which are in daily use in names.
    **dict.fromkeys(("GB180302000", "GB180302005", "GB180302022", "GB18030"), "gb18030"),
    **dict.fromkeys(_GBK, "gb18030"),
    **dict.fromkeys((*_BIG5, "BIG5HKSCS"), "big5hkscs"),
    **{
        f"{prefix}8859{mark}{part}": f"iso8859-{part}"
        for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15)
        for prefix in ("", "ISO")
        for mark in ("/", "")
    },
}
_LATIN = ("iso8859-1", "iso8859-15")
_C1 = re.compile(rb"[\x80-\x9f]")

_UTF16 = frozenset({"UNICODEUTF16", "UTF16", "UTF16LE", "UTF16BE", "UNICODEUTF32", "UTF32", "UCS2", "ISO10646"})
_UTF16_REASON = "UTF-16 and UTF-32 cannot be carried by MLLP: send UNICODE UTF-8"
_SWITCHING = frozenset(
    {"ISOIR14", "ISOIR87", "ISOIR159", "JISX0201", "JISX0202", "JISX0208", "JAS2020", "KSX1001", "CNS116431992"}
)
_SWITCHING_REASON = "sets that switch within a message (ISO 2022) are not read: send UNICODE UTF-8"
_UNKNOWN_REASON = "the character set of MSH-18 is not one that is read here: send UNICODE UTF-8"

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE_ENDS = b"\r\n"
_LINE_END = re.compile(rb"[\r\n]")
_BLANK = re.compile(r"[\s_-]")
_TRIED = ("utf-8", "gb18030", "big5hkscs", "latin-1")
"""In this order a header that is not ASCII is read to find its label."""
# What designates another set (ISO 2022, ECMA-35 ch. 14.3); printers' commands in a report look different.
_DESIGNATION = re.compile(rb"\x1b(?:\$[@AB]|\$[()*+][@-~]|[()*+][@-Z]|[-./][@-Z])")


@lru_cache(maxsize=256)
def codec_of(label: str) -> str:
    """The Python codec for one value of MSH-18; "" for an empty one. Raises HL7CharsetError for what we refuse."""
    name = _BLANK.sub("", label).upper()
    codec = _CODECS.get(name)
    if codec is None:
        # ISO 2022 switches sets inside fields and would need a splitter of its own.
        switching = _SWITCHING_REASON if name in _SWITCHING or name.startswith("ISO2022") else _UNKNOWN_REASON
        raise HL7CharsetError(_UTF16_REASON if name in _UTF16 else switching)
    return codec


def decode_message(data: bytes, default: str = "UNICODE UTF-8") -> Decoded:
    """Decode one message by its MSH-18, or by `default` (a value of table 0211) where that is empty.

    A byte-order mark is dropped and outweighs the label; line ends before the message are dropped. Raises HL7CharsetError.
    """
    if data[:1] in _LINE_ENDS:
        data = data.lstrip(_LINE_ENDS)
    if data.startswith(_UTF16_MARKS) or b"\x00" in data[:64]:
        raise HL7CharsetError(_UTF16_REASON)
    if b"\x1b" in data and _DESIGNATION.search(data):
        raise HL7CharsetError(_SWITCHING_REASON)
    if data.startswith(codecs.BOM_UTF8):
        return Decoded(_strict(data[len(codecs.BOM_UTF8) :], "utf-8").lstrip("\r\n"), "utf-8")
    codec = codec_of(_label(data)) or codec_of(default) or "utf-8"
    if data.isascii():
        return Decoded(data.decode("ascii"), codec)
    if codec not in ("utf-8", "ascii") and _is_other_than_labelled(data, codec):
        return Decoded(data.decode("utf-8"), "utf-8", UTF8_AS_GB if codec == "gb18030" else UTF8_AS_OTHER)
    if codec == "utf-8" and not _is_utf8(data):
        return Decoded(_strict(data, "gb18030"), "gb18030", GB_AS_UTF8)
    if codec == "ascii":
        actual = "utf-8" if _is_utf8(data) else "gb18030"
        return Decoded(_strict(data, actual), actual, NON_ASCII)
    return Decoded(_strict(data, codec), codec)


def codec_to_write(label: str) -> str:
    """`codec_of` for what is sent, without what a peer need not read: what GB 18030 adds to GBK, and HKSCS to Big5."""
    name = _BLANK.sub("", label).upper()
    if name in _GBK:
        return "gbk"
    return "cp950" if name in _BIG5 else codec_of(label) or "utf-8"


def encode_message(text: str, codec: str) -> bytes:
    """The text in the peer's set. Raises HL7CharsetError for a character that the set does not have."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        raise HL7CharsetError(f"a character cannot be carried in {codec}") from error


def _strict(data: bytes, codec: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        raise HL7CharsetError(f"bytes at {error.start} are not {codec}") from error


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_other_than_labelled(data: bytes, codec: str) -> bool:
    """Valid UTF-8 under another label, with at least one sequence of three bytes or more.

    Two-byte sequences alone prove nothing: one in six common characters is such a sequence in GBK too (通 is CD A8). In the
    Latin sets they do: each would be a capital with an accent before a symbol or a control character. In the other parts of ISO
    8859 they do where one of them ends with what is a control character there, which nobody writes (0x80 to 0x9F).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if codec in _LATIN or any(character > "\u07ff" for character in text):
        return True
    return codec.startswith("iso8859") and _C1.search(data) is not None


def _label(data: bytes) -> str:
    """MSH-18, first repetition, read before the set is known.

    The line is read in one set after the other, and the first reading counts under which MSH-18 is a label that there is: in
    GB18030 a letter with an accent and the separator behind it are one character (ü| is 鼃), and the fields move. Where there is
    none, the first reading that is possible says what stands there.
    """
    end = _LINE_END.search(data, 0, 8192)
    line = data[: end.start() if end else 8192]
    if not line.startswith(b"MSH") or len(line) < 4:
        return ""
    if line.isascii():
        return _label_in(line.decode("ascii"))[0]
    first: str | None = None
    for codec in _TRIED:
        try:
            text = line.decode(codec)
        except UnicodeDecodeError:
            continue
        label, known = _label_in(text)
        if known:
            return label
        first = label if first is None else first
    return first or ""


def _label_in(line: str) -> tuple[str, bool]:
    """MSH-18 of a header that was read, and whether there is such a label."""
    # MSH-1 is the separator itself, so MSH-18 is the 17th piece after the name; MSH-2 begins with what parts a field.
    fields = line.split(line[3], 18)
    return _first_part(fields[17], fields[1][:2]) if len(fields) > 17 else ("", False)


@lru_cache(maxsize=256)
def _first_part(field: str, marks: str) -> tuple[str, bool]:
    label = re.split(f"[{re.escape(marks)}]", field, maxsplit=1)[0] if marks else field
    return label, bool(_CODECS.get(_BLANK.sub("", label).upper()))
