"""How the simulated Neusoft-style hospital reads requests and writes lists."""

from __future__ import annotations

from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused

Given = dict[str, str]


def listed(rows: list[Reply]) -> Reply:
    if not rows:
        raise TradeRefused("0", "未查询到数据")
    return [("Data", [("Row", row) for row in rows])]


def need(given: Given, name: str) -> str:
    value = given.get(name, "").strip()
    if not value:
        raise TradeRefused("0", f"入参错误:{name}")
    return value
