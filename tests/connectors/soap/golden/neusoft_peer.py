"""A Neusoft-style hospital that says only what it is told to: several roots in one string (DOMAIN facts 1)."""

from __future__ import annotations

from typing import Any

from tests.connectors.soap.soap_hospital import (
    canned,
)

RESULT = "<result><returnCode>1</returnCode><returnDesc>成功</returnDesc></result>"


def done(*rows: str) -> str:
    return f"{RESULT}<Data>{''.join(f'<Row>{row}</Row>' for row in rows)}</Data>"


def collapsed(row: str) -> str:
    return f"{RESULT}<Data>{row}</Data>"


def failed(text: str, *, in_data: bool = False) -> str:
    if in_data:
        return f"<result><returnCode>0</returnCode><returnDesc/></result><Data><ERR_MSG>{text}</ERR_MSG></Data>"
    return f"<result><returnCode>0</returnCode><returnDesc>{text}</returnDesc></result>"


def neusoft(*replies: Any, **given: Any) -> Any:
    return canned(*replies, profile="neusoft@1", **given)
