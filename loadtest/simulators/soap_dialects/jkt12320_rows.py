"""Reading a `<REQ>` and writing the lists of a `<RES>`."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused

SESSIONS = {"am": "1", "pm": "2"}
"""TIME_FLAG."""


def listed(name: str, rows: list[Reply]) -> Reply:
    """`<NAME_LIST><NAME>...</NAME></NAME_LIST>`."""
    return [(f"{name}_LIST", [(name, row) for row in rows])]


def get(doc: etree._Element, name: str) -> str:
    """What an element of the request says, "" where it is not there."""
    return (doc.findtext(name) or "").strip()


def need(doc: etree._Element, name: str) -> str:
    """What an element of the request says. Raises TradeRefused."""
    value = get(doc, name)
    if not value:
        raise TradeRefused("100001", f"入参错误:{name}")
    return value
