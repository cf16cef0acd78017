"""How the simulated B-Soft hospital reads requests and writes lists."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused


def listed(rows: list[Reply]) -> Reply:
    return [("Count", str(len(rows))), ("Rows", [("Row", row) for row in rows])]


def get(body: etree._Element, name: str) -> str:
    return (body.findtext(name) or "").strip()


def need(body: etree._Element, name: str) -> str:
    value = get(body, name)
    if not value:
        raise TradeRefused("1000", f"入参错误:{name}")
    return value
