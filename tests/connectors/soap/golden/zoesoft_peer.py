"""A zoesoft hospital that says only what it is told to: success in an attribute of the root (DOMAIN facts 1)."""

from __future__ import annotations

from typing import Any

from tests.connectors.soap.soap_hospital import (
    canned,
)


def done(inside: str = "") -> str:
    return f'<Response Result="0" Err="">{inside}</Response>'


def failed(text: str, place: str = "Err") -> str:
    if place == "Err":
        return f'<Response Result="-1" Err="{text}"/>'
    return f'<Response Result="-1" Err=""><{place}>{text}</{place}></Response>'


def zoesoft(*replies: Any, **given: Any) -> Any:
    return canned(*replies, profile="zoesoft@1", **given)
