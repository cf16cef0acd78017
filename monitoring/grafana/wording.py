"""Values as Grafana writes them: with their unit, in the colour of the limit that they have passed, or as a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHORT = ((1e9, "B"), (1e6, "M"), (1e3, "K"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SUFFIX = {"reqps": " req/s", "cps": "/s"}


def said(value: float, looks: Mapping[str, Any]) -> tuple[str, str]:
    """A value by its panel's field settings: its text, and the name of its colour ("" where it has none)."""
    for mapping in looks.get("mappings") or ():
        found = mapping["options"].get(f"{value:g}")
        if found is not None:
            return found["text"], found["color"]
    steps = (looks.get("thresholds") or {}).get("steps") or ()
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    colour = passed[-1] if len(steps) > 1 else ""
    return worded(value, looks.get("unit", "short"), looks.get("decimals")), colour


def worded(value: float, unit: str, decimals: float | None = None) -> str:
    """A value with its unit, short enough for an axis."""
    match unit:
        case "s":
            return _seconds(value, decimals)
        case "dthms":
            return _clock(value)
        case "percentunit":
            # 99.95 % is not 100 %.
            return f"{value * 100:.5g}%" if decimals is None else f"{value * 100:.{int(decimals)}f}%"
        case "bytes":
            return _scaled(value, _BYTES, " ", decimals)
        case _:
            return _scaled(value, _SHORT, " ", decimals) + _SUFFIX.get(unit, "")


def _seconds(value: float, decimals: float | None) -> str:
    size = abs(value)
    for least, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if size >= least:
            return f"{_number(value / least, decimals)} {unit}"
    return "0 s" if value == 0 else f"{_number(value * 1000, decimals)} ms"


def _clock(value: float) -> str:
    """Hours, minutes and seconds; what is past says so."""
    whole = int(abs(value))
    text = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{text} ago" if value < 0 else text


def _scaled(value: float, units: tuple[tuple[float, str], ...], between: str, decimals: float | None) -> str:
    for least, unit in units:
        if abs(value) >= least:
            return f"{_number(value / least, None)}{between}{unit}"
    return _number(value, decimals)


def _number(value: float, decimals: float | None) -> str:
    """Three digits where nothing is said; noughts at the end go."""
    if decimals is not None:
        return f"{value:.{int(decimals)}f}"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text
