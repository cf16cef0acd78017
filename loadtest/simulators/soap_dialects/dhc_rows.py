"""How the simulated DHC hospital reads requests and writes lists."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused


def listed(outer: str, inner: str, rows: list[Reply]) -> Reply:
    return [("RecordCount", str(len(rows))), (outer, [(inner, row) for row in rows])]


def get(doc: etree._Element, name: str) -> str:
    return (doc.findtext(name) or "").strip()


def need(doc: etree._Element, name: str) -> str:
    value = get(doc, name)
    if not value:
        raise TradeRefused("-100", f"入参错误:{name}")
    return value
