"""Bill files that are made to hurt: each has an answer soon, in little memory, and nothing of it is stored."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import struct
import tracemalloc
import zipfile

import pytest

from booking.merchant_files import unpacking
from booking.merchant_files.lines import MOST_FEN, BillFileInvalid
from booking.merchant_files.reading import MOST_LINES, read_bill
from booking.merchant_files.unpacking import lines_of
from tests.booking.merchant_files.made import Trade, alipay, plain, wechat

DAY = dt.date(2026, 1, 5)
HUGE: Trade = ("payment", "4200001", MOST_FEN + 1)


def refusal(data: bytes) -> str:
    with pytest.raises(BillFileInvalid) as refused:
        list(read_bill(data, DAY))
    return str(refused.value)


def packed_by(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a.csv", wechat([]) * 50)
    return out.getvalue()


def with_a_dictionary_of_4_gb() -> bytes:
    """A zip file whose LZMA properties ask for 4 GB before the first byte."""
    data = bytearray(packed_by(zipfile.ZIP_LZMA))
    at = data.index(b"a.csv") + len("a.csv") + 5  # version (2), size of the properties (2), lc/lp/pb (1)
    data[at : at + 4] = struct.pack("<I", 0xFFFF_FFFF)
    return bytes(data)


@pytest.mark.parametrize("form", [wechat, alipay, plain])
def test_amount_is_refused_when_no_payment_is_so_large(form: object) -> None:
    """A day of such lines would come to more than a column of the store can hold, or JSON carry."""
    assert "yuan" in refusal(form([HUGE]))  # type: ignore[operator]
    assert [line.amount_fen for line in read_bill(form([(*HUGE[:2], MOST_FEN)]), DAY)] == [MOST_FEN]  # type: ignore[operator]
    assert MOST_FEN * MOST_LINES < 2**53


def test_total_is_refused_when_it_has_thousands_of_digits() -> None:
    assert "add up" in refusal(wechat([], totals="`" + "9" * 5_000 + ",`0.00" * 6))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_zip_is_refused_when_it_is_packed_as_no_channel_packs(method: int) -> None:
    assert "zip" in refusal(packed_by(method))


def test_zip_is_refused_in_little_memory_when_it_asks_for_much() -> None:
    data = with_a_dictionary_of_4_gb()
    tracemalloc.start()
    assert "zip" in refusal(data)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_gzip_is_refused_soon_when_it_has_very_many_parts() -> None:
    """Each part used to copy all that followed it: of 30 MB of them, for hours."""
    assert "parts" in refusal(gzip.compress(b"") * (unpacking.MOST_PARTS + 1))
    assert len(list(lines_of(gzip.compress(b"#\n") * unpacking.MOST_PARTS))) == unpacking.MOST_PARTS


def test_file_is_refused_soon_when_it_is_empty_lines() -> None:
    """200 KB of gzip are 200 million of them, which count as no movement."""
    assert "lines" in refusal(gzip.compress(b"#\n" + b"\n" * unpacking.MOST_LINES))
