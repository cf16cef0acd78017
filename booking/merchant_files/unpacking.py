"""From the bytes of a file to its lines of text: gzip and zip are unpacked, UTF-8 and GB18030 told apart, all within bounds."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator

from booking.merchant_files.lines import BillFileInvalid

MAX_TEXT_BYTES = 200_000_000  # unpacked; what is larger is no day of one merchant
MAX_LINE_BYTES = 16_384
MOST_LINES = 1_000_000  # with remarks and empty ones, which are no movements
MOST_PARTS = 1_000  # of a gzip file
_BLOCK = 65_536
_PACKED = 16_384
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA takes as much memory as the file asks for


def lines_of(data: bytes) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of every line. Raises BillFileInvalid."""
    encoding: str | None = None
    for number, raw in enumerate(_split(_blocks(data)), 1):
        if number > MOST_LINES:
            raise BillFileInvalid(number, f"more than {MOST_LINES} lines")
        if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
            encoding, raw = "utf-8", raw[3:]
        if encoding is None and not raw.isascii():
            encoding = _encoding_of(raw)
        try:
            yield number, raw.decode(encoding or "ascii").rstrip("\r")
        except UnicodeDecodeError:
            raise BillFileInvalid(number, "neither UTF-8 nor GBK: send the file as the channel gave it") from None


def _encoding_of(raw: bytes) -> str:
    """The first line that is not ASCII decides: Chinese in GBK is hardly ever valid UTF-8."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "gb18030"
    return "utf-8"


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest, number = b"", 1
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            if len(line) > MAX_LINE_BYTES:
                raise BillFileInvalid(number, f"a line of more than {MAX_LINE_BYTES} bytes")
            yield line
            number += 1
        if len(rest) > MAX_LINE_BYTES:
            raise BillFileInvalid(number, f"a line of more than {MAX_LINE_BYTES} bytes")
    if rest:
        yield rest


def _blocks(data: bytes) -> Iterator[bytes]:
    size = 0
    for block in _unpacked(data):
        size += len(block)
        if size > MAX_TEXT_BYTES:
            raise BillFileInvalid(1, f"more than {MAX_TEXT_BYTES} bytes unpacked")
        yield block


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x1f\x8b"):
        yield from _gunzip(data)
    elif data.startswith(b"PK"):
        yield from _unzip(data)
    else:
        view = memoryview(data)
        yield from (bytes(view[n : n + _BLOCK]) for n in range(0, len(data), _BLOCK))


def _gunzip(data: bytes) -> Iterator[bytes]:
    """What is not unpacked yet is copied at each step: it is given a little at a time."""
    packed, parts = io.BytesIO(data), 0
    rest = packed.read(_PACKED)
    while rest:
        parts += 1
        if parts > MOST_PARTS:
            raise BillFileInvalid(1, f"a gzip file of more than {MOST_PARTS} parts")
        unpacker = zlib.decompressobj(wbits=31)
        try:
            while not unpacker.eof:
                block = unpacker.decompress(rest, _BLOCK)
                rest = unpacker.unconsumed_tail or (b"" if unpacker.eof else packed.read(_PACKED))
                if not block and not rest and not unpacker.eof:
                    raise BillFileInvalid(1, "the gzip file was cut off")
                yield block
        except zlib.error:
            raise BillFileInvalid(1, "not a whole gzip file") from None
        rest = unpacker.unused_data or packed.read(_PACKED)


def _unzip(data: bytes) -> Iterator[bytes]:
    """The one with the details, where the archive has a summary beside it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [one for one in archive.infolist() if one.filename.lower().endswith(".csv")]
            details = [one for one in files if "汇总" not in _name_of(one)]
            if len(details) != 1:
                raise BillFileInvalid(1, f"expected one CSV with details in the zip file, found {len(details)}")
            if details[0].compress_type not in _PACKINGS:
                raise BillFileInvalid(1, "a zip file that is packed otherwise than by deflate")
            with archive.open(details[0]) as file:
                while block := file.read(_BLOCK):
                    yield block
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError):
        raise BillFileInvalid(1, "not a whole zip file without a password") from None


def _name_of(one: zipfile.ZipInfo) -> str:
    """Names are in GBK, and the archive does not say so."""
    try:
        return one.filename.encode("cp437").decode("gb18030")
    except UnicodeError:
        return one.filename
