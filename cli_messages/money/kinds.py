"""What each kind of difference says and asks for, in both languages; the API guides have the same table."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of difference in words: its Chinese term, what the books say, and what to do next."""

    term_zh: str
    says_en: str
    do_en: str
    says_zh: str
    do_zh: str


EXPLAINED = {
    "long": Kind(
        "长款",
        "the merchant has money that we do not know, or has not returned what we believe returned",
        "have the portal report the payment again, or carry out the refund",
        "商户有而我方无此收款，或我方已记退款而商户未退",
        "请门户补报该笔支付，或执行退款",
    ),
    "short": Kind(
        "短款",
        "we count on money that the merchant does not have",
        "ask the channel by the trade number: returned by hand, or never paid",
        "我方已记收款而商户没有",
        "按交易号向渠道查询：是否人工退款，或并未支付",
    ),
    "amount": Kind(
        "金额不符",
        "two books have it with other amounts",
        "compare the three amounts: a partial refund or a discount is missing in one",
        "各方金额不同",
        "比较三方金额：某一方漏记了部分退款或优惠",
    ),
    "his_missing": Kind(
        "单边账（医院无）",
        "merchant and we agree, the hospital has not got it",
        "have the hospital settle it, or book the refund",
        "商户与我方一致，医院没有",
        "请医院补记入账或退款",
    ),
    "his_only": Kind(
        "单边账（仅医院）",
        "only the hospital has it",
        "a payment at its window under our number, or a refund that it was not told of",
        "只有医院有",
        "窗口以我方交易号收款，或退款未告知医院，请医院核对",
    ),
    "status": Kind(
        "状态不符",
        "they agree as soon as a refund that is not done on one side is counted",
        "carry the refund out, or ask the channel; report its end",
        "计入某一方尚未完成的退款后即一致",
        "执行退款或向渠道查询，并上报结果",
    ),
    "moved_fee": Kind(
        "改诊差额",
        "the hospital has the fee of the session to which the booking was moved, merchant and we what was paid before",
        "settle the difference with the hospital: it keeps the fee that was paid, or its window collects or returns the rest",
        "医院按改诊后号源的费用记账，商户与我方为原挂号费",
        "与医院处理差额：按原费用入账，或由窗口补收、退还",
    ),
    "timing": Kind(
        "跨日",
        "they agree with other days taken together: over midnight, or returned on a later day",
        "nothing: the other day has the other half",
        "与其他日期合并后一致：跨零点，或于之后某日退回",
        "无需处理：另一半在另一天",
    ),
}
