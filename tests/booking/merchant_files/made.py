"""Bill files of invented trades, in the shapes that the channels give."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence

WECHAT_HEADER = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,代金券金额,"
    "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注"
)
WECHAT_TOTALS = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
ALIPAY_HEADER = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,订单金额（元）,商家实收（元）,"
    "支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,商家红包消费金额（元）,卡消费金额（元）,"
    "退款批次号/请求号,服务费（元）,分润（元）,备注"
)
Trade = tuple[str, str, int]
"""(payment or refund, trade number, fen)"""


def yuan(fen: int) -> str:
    sign, fen = ("-" if fen < 0 else ""), abs(fen)
    return f"{sign}{fen // 100}.{fen % 100:02}"


def wechat_line(trade: Trade, *, day: str = "2026-01-05", clock: str = "10:00:00", **other: str) -> str:
    kind, trade_no, fen = trade
    is_payment = kind == "payment"
    values = {
        "交易时间": f"{day} {clock}", "公众账号ID": "wx0", "商户号": "1900000000", "特约商户号": "0", "微信订单号": trade_no,
        "商户订单号": f"HB{trade_no}", "用户标识": "o1", "交易类型": "JSAPI", "交易状态": "SUCCESS" if is_payment else "REFUND",
        "付款银行": "OTHERS", "货币种类": "CNY", "应结订单金额": yuan(fen if is_payment else 0), "代金券金额": "0.00",
        "微信退款单号": "0" if is_payment else f"5{trade_no}", "商户退款单号": "0" if is_payment else f"R{trade_no}",
        "退款金额": yuan(0 if is_payment else fen), "充值券退款金额": "0.00", "退款类型": "" if is_payment else "ORIGINAL",
        "退款状态": "" if is_payment else "SUCCESS", "商品名称": "挂号费", "手续费": "0.01000", "费率": "0.60%",
        "订单金额": yuan(fen if is_payment else 0), "申请退款金额": yuan(0 if is_payment else fen), **other,
    }  # fmt: skip
    return ",".join("`" + values.get(name, "") for name in WECHAT_HEADER.split(","))


def wechat(
    trades: Sequence[Trade], *, lines: Sequence[str] | None = None, totals: str | None = None, end: str = "\r\n"
) -> bytes:
    paid = sum(fen for kind, _, fen in trades if kind == "payment")
    returned = sum(fen for kind, _, fen in trades if kind == "refund")
    sums = [str(len(trades)), yuan(paid), yuan(returned), "0.00", "0.00000", yuan(paid), yuan(returned)]
    told = ",".join("`" + value for value in sums) if totals is None else totals
    body = [wechat_line(trade) for trade in trades] if lines is None else lines
    return ("\ufeff" + end.join([WECHAT_HEADER, *body, WECHAT_TOTALS, told]) + end).encode()


def alipay_line(trade: Trade, *, day: str = "2026-01-05", clock: str = "10:00:00", **other: str) -> str:
    kind, trade_no, fen = trade
    amount = yuan(fen if kind == "payment" else -fen)
    values = {
        "支付宝交易号": f"{trade_no}\t", "商户订单号": f"HB{trade_no}\t", "业务类型": "交易" if kind == "payment" else "退款",
        "商品名称": "挂号费", "创建时间": f"{day} 09:59:00", "完成时间": f"{day} {clock}", "终端号": "\t",
        "订单金额（元）": amount, "商家实收（元）": amount, "退款批次号/请求号": "" if kind == "payment" else f"R{trade_no}\t",
        "服务费（元）": "-0.01", **other,
    }  # fmt: skip
    return ",".join(values.get(name, "") for name in ALIPAY_HEADER.split(","))


def alipay_text(
    trades: Sequence[Trade], *, lines: Sequence[str] | None = None, tail: Sequence[str] | None = None
) -> str:
    paid, returned = (
        [fen for kind, _, fen in trades if kind == "payment"], [fen for kind, _, fen in trades if kind == "refund"],
    )  # fmt: skip
    body = [alipay_line(trade) for trade in trades] if lines is None else lines
    sums = [
        f"#交易合计：{len(paid)}笔，商家实收共{yuan(sum(paid))}元，商家优惠共0.00元",
        f"#退款合计：{len(returned)}笔，商家实收退款共{yuan(-sum(returned))}元，商家优惠退款共0.00元",
    ]
    days = "#起始日期：[2026年01月05日 00:00:00]   终止日期：[2026年01月06日 00:00:00]"
    head = ["#支付宝业务明细查询", "#账号：[20880000000000000156]", days, "#-----业务明细列表-----", ALIPAY_HEADER]
    last = ["#-----业务明细列表结束-----", *(sums if tail is None else tail), "#导出时间：[2026年01月06日 06:27:10]"]
    return "\r\n".join([*head, *body, *last]) + "\r\n"


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # As Alipay's: the bytes of the name are GBK, and nothing says so.
            archive.writestr(zipfile.ZipInfo(name.encode("gbk").decode("cp437")), data)
    return out.getvalue()


def alipay(trades: Sequence[Trade], **other: Sequence[str]) -> bytes:
    details = alipay_text(trades, **other).encode("gbk")
    return zipped(
        {"2088_20260105_业务明细.csv": details, "2088_20260105_业务明细(汇总).csv": "#汇总\r\n".encode("gbk")}
    )


def plain(trades: Sequence[Trade], *, total: str | None = None) -> bytes:
    fen = sum(fen if kind == "payment" else -fen for kind, _, fen in trades)
    rows = [f"{kind},unionpay,{no},{fen},2026-01-05T10:00:00+08:00,HB{no}" for kind, no, fen in trades]
    last = f"total,,{len(trades)},{fen},," if total is None else total
    return "\n".join(["kind,channel,trade_no,amount_fen,at,order_no", *rows, last]).encode()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data)
