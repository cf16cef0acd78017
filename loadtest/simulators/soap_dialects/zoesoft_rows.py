"""How the simulated zoesoft hospital reads requests and writes lists."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.soap_dialects.speaking import TradeRefused, text_in


def need(doc: etree._Element, name: str) -> str:
    value = text_in(doc, name)
    if not value:
        raise TradeRefused("-1", f"入参错误:{name}")
    return value
