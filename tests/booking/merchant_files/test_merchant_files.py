"""Bill files as the channels give them: all of a whole one, and nothing of one that is not."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.merchant_files import unpacking
from booking.merchant_files.lines import BillFileInvalid, BillLine
from booking.merchant_files.reading import read_bill
from tests.booking.merchant_files import made
from tests.booking.merchant_files.made import Trade, alipay, alipay_line, gzipped, plain, wechat, wechat_line, zipped

DAY = dt.date(2026, 1, 5)
TEN_MS = round(dt.datetime(2026, 1, 5, 2, tzinfo=dt.UTC).timestamp() * 1000)  # 10:00 in Beijing
TRADES: list[Trade] = [("payment", "4200001", 1234), ("payment", "4200002", 5), ("refund", "4200001", 1200)]
FORMS: dict[str, Callable[[list[Trade]], bytes]] = {
    "wechat": wechat,
    "wechat, packed": lambda trades: gzipped(wechat(trades)),
    "wechat, in two parts": lambda trades: gzipped(wechat(trades)[:100]) + gzipped(wechat(trades)[100:]),
    "wechat, without a mark": lambda trades: wechat(trades, end="\n")[3:],
    "alipay": alipay,
    "alipay, unpacked": lambda trades: made.alipay_text(trades).encode("gbk"),
    "alipay, UTF-8": lambda trades: made.alipay_text(trades).encode(),
    "plain": plain,
}


def read(data: bytes) -> list[BillLine]:
    return list(read_bill(data, DAY))


@pytest.mark.parametrize("trades", [TRADES, []], ids=["some", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_movements_are_those_of_the_file_when_it_is_whole(form: str, trades: list[Trade]) -> None:
    found = read(FORMS[form](trades))
    assert [(line.kind, line.trade_no, line.amount_fen) for line in found] == trades
    assert {(line.at_ms, line.status, line.order_no == f"HB{line.trade_no}") for line in found} <= {
        (TEN_MS, "done", True)
    }
    assert {line.channel for line in found} <= {form.split(",")[0].replace("plain", "unionpay")}


def one(**other: str) -> bytes:
    trade: Trade = ("payment", "1", 5)
    return wechat([trade], lines=[wechat_line(trade, **other)])


def one_refund(**other: str) -> bytes:
    trade: Trade = ("refund", "1", 5)
    return wechat([trade], lines=[wechat_line(trade, **other)])


def one_alipay(**other: str) -> bytes:
    trade: Trade = ("payment", "1", 5)
    return made.alipay_text([trade], lines=[alipay_line(trade, **other)]).encode("gbk")


def with_line(line: str) -> bytes:
    return wechat([("payment", "1", 5)], lines=[line])


PECULIAR: dict[str, tuple[bytes, BillLine]] = {
    "a comma in the name of the goods": (
        one(商品名称="挂号费,复诊"),
        BillLine("payment", "wechat", "1", 5, TEN_MS, order_no="HB1", product="挂号费,复诊"),
    ),
    "a comma in Alipay's": (
        one_alipay(商品名称="挂号费,复诊"),
        BillLine("payment", "alipay", "1", 5, TEN_MS, order_no="HB1", product="挂号费,复诊"),
    ),
    "a terminal": (
        one(设备号="T7"),
        BillLine("payment", "wechat", "1", 5, TEN_MS, order_no="HB1", terminal="T7", product="挂号费"),
    ),
    "a refund that did not arrive": (
        one_refund(退款状态="CHANGE"),
        BillLine("refund", "wechat", "1", 5, TEN_MS, "failed", order_no="HB1", product="挂号费"),
    ),
    "a refund that is under way has left the merchant": (
        one_refund(退款状态="PROCESSING"),
        BillLine("refund", "wechat", "1", 5, TEN_MS, order_no="HB1", product="挂号费"),
    ),
    "revoked after it was paid": (
        one_refund(交易状态="REVOKED"),
        BillLine("refund", "wechat", "1", 5, TEN_MS, order_no="HB1", product="挂号费"),
    ),
}


@pytest.mark.parametrize("name", PECULIAR)
def test_line_is_understood_when_it_is_peculiar(name: str) -> None:
    data, line = PECULIAR[name]
    assert read(data) == [line]


def test_older_columns_are_used_when_the_newer_are_not_there() -> None:
    header = "交易时间,微信订单号,商户订单号,交易状态,应结订单金额,退款金额"
    rows = ["`2026-01-05 10:00:00,`1,`A,`SUCCESS,`0.05,`0.00", "`2026-01-05 10:00:00,`1,`A,`REFUND,`0.00,`0.03"]
    text = "\n".join([header, *rows, "总交易单数,应结订单总金额,退款总金额", "`2,`0.05,`0.03"])
    assert [(line.kind, line.amount_fen) for line in read(text.encode())] == [("payment", 5), ("refund", 3)]


def test_type_refund_is_read_when_the_payment_was_on_another_day() -> None:
    header = made.WECHAT_HEADER.replace("微信退款单号", "退款申请时间,退款成功时间,微信退款单号")
    row = wechat_line(("refund", "1", 5), day="2025-12-30").split(",`")
    row[14:14] = ["2026-01-05 10:00:00", "2026-01-05 10:00:02"]
    text = "\n".join([header, ",`".join(row), made.WECHAT_TOTALS, "`1,`0.00,`0.05,`0.00,`0.00,`0.00,`0.05"])
    assert [(line.kind, line.at_ms) for line in read(text.encode())] == [("refund", TEN_MS)]


WRONG: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 1, "expected a trade bill"),
    "something else": (b"<html>", 1, "expected a trade bill"),
    "an amount in words": (one(订单金额="five"), 2, "订单金额"),
    "a third decimal": (one(订单金额="0.051"), 2, "yuan"),
    "a clock without seconds": (one(clock="10:00"), 2, "交易时间"),
    "another day's": (one(day="2026-01-06"), 2, "2026-01-06"),
    "no trade number": (one(微信订单号=""), 2, "微信订单号"),
    "a state that is none": (one(交易状态="HELLO"), 2, "交易状态"),
    "a value too few": (with_line(wechat_line(("payment", "1", 5)).rpartition(",`")[0]), 2, "found 26"),
    "a value too many": (with_line(wechat_line(("payment", "1", 5)) + ",`x"), 2, "found 28"),
    "no totals": (wechat(TRADES).split(made.WECHAT_TOTALS.encode())[0], 4, "cut off"),
    "a header of totals alone": (wechat(TRADES, totals=""), 6, "cut off"),
    "a line too few": (wechat(TRADES, lines=[wechat_line(TRADES[0])]), 4, "add up"),
    "another sum": (wechat(TRADES, totals="`3,`12.39,`12.00,`0.00,`0.00,`12.40,`12.00"), 6, "订单总金额"),
    "another sum of refunds": (wechat(TRADES, totals="`3,`12.39,`12.00,`0.00,`0.00,`12.39,`12.01"), 6, "申请退款总金额"),
    "more after the totals": (wechat(TRADES) + b"`1", 7, "nothing was expected"),
    "a column that is missing": (wechat([]).replace("微信订单号".encode(), b"x"), 1, "微信订单号"),
    "a column twice": (wechat([]).replace("用户标识".encode(), "商户号".encode()), 1, "twice"),
    "neither UTF-8 nor GBK": (one().replace(b"OTHERS", b"\xff\xff\xff"), 2, "UTF-8"),
    "a long line": (one(商户数据包="x" * 20_000), 2, "more than 16384"),
    "half a gzip file": (gzipped(wechat(TRADES))[:-20], 1, "gzip"),
    "half a zip file": (alipay(TRADES)[:-20], 1, "zip"),
    "two files of details": (zipped({"a.csv": b"1", "b.csv": b"2"}), 1, "found 2"),
    "no file of details": (zipped({"汇总.csv": b"1"}), 1, "found 0"),
    "Alipay without its end": (made.alipay_text(TRADES, tail=[]).encode("gbk"), 10, "cut off"),
    "Alipay's other sum": (
        made.alipay_text(TRADES, tail=["#交易合计：2笔，商家实收共12.40元，商家优惠共0.00元"]).encode("gbk"), 10, "add up"),
    "Alipay's other count": (
        made.alipay_text(TRADES, tail=["#交易合计：1笔，商家实收共12.39元，商家优惠共0.00元"]).encode("gbk"), 10, "add up"),
    "Alipay's other day": (one_alipay(完成时间="2026-01-06 00:00:00"), 6, "2026-01-06"),
    "Alipay's other kind": (one_alipay(业务类型="转账"), 6, "业务类型"),
    "Alipay's open quote": (one_alipay(商品名称='"挂号费'), 6, "CSV"),
    "plain without its end": (plain(TRADES, total=""), 4, "cut off"),
    "plain with another sum": (plain(TRADES, total="total,,3,40,,"), 5, "add up"),
    "plain with more after it": (plain(TRADES) + b"\npayment,a,b,1,,", 6, "after the totals"),
    "plain, and a kind that is none": (b"kind,channel,trade_no,amount_fen\ngift,a,b,1", 2, "kind"),
    "plain, in yuan": (b"kind,channel,trade_no,amount_fen\npayment,a,b,1.00", 2, "fen"),
    "plain, a time without its offset": (b"kind,channel,trade_no,amount_fen,at\npayment,a,b,1,2026-01-05T10:00:00", 2, "offset"),
    "plain, a channel that is none": (b"kind,channel,trade_no,amount_fen\npayment,,b,1", 2, "channel"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_line_is_named_when_a_file_cannot_be_taken(name: str) -> None:
    data, line, hint = WRONG[name]
    with pytest.raises(BillFileInvalid) as refused:
        read(data)
    assert (refused.value.line, hint in refused.value.hint) == (line, True), str(refused.value)


@pytest.mark.parametrize("pack", [gzipped, lambda data: zipped({"a.csv": data})], ids=["gzip", "zip"])
def test_file_is_refused_in_little_memory_when_it_unpacks_to_too_much(
    pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MAX_TEXT_BYTES", 2_000_000)
    data = pack((b"#" * 9_999 + b"\n") * 400)
    tracemalloc.start()
    with pytest.raises(BillFileInvalid, match="unpacked"):
        read(data)
    assert tracemalloc.get_traced_memory()[1] < 1_500_000
    tracemalloc.stop()


@given(st.binary(max_size=300), st.sampled_from(sorted(FORMS)), st.integers(0, 3_000), st.integers(0, 50))
def test_answer_is_defined_when_bytes_are_any(noise: bytes, form: str, at: int, cut: int) -> None:
    whole = FORMS[form](TRADES)
    for data in (noise, whole[:at] + noise + whole[at + cut :]):
        try:
            found = read(data)
        except BillFileInvalid:
            continue
        assert all(line.amount_fen >= 0 and 1 <= len(line.trade_no) <= 128 for line in found)
