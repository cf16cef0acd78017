"""MLLP and ER7 for simulators: their own few lines, so that a mistake of the product's cannot cancel itself out."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools

START, END = b"\x0b", b"\x1c\r"
_SPECIAL = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_numbers = itertools.count(1)


def escape(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)


def unescape(text: str) -> str:
    for plain, coded in (("|", "\\F\\"), ("^", "\\S\\"), ("&", "\\T\\"), ("~", "\\R\\"), ("\\", "\\E\\")):
        text = text.replace(coded, plain)
    return text


class ER7:
    """A message as a list of segments, each a list of raw fields; `get` reads one component."""

    def __init__(self, text: str) -> None:
        self.segments = [line.split("|") for line in text.replace("\n", "\r").split("\r") if line]

    def get(self, name: str, field: int, component: int = 1, sub: int = 1, repetition: int = 1) -> str:
        for segment in self.segments:
            if segment[0] == name:
                at = field - 1 if name == "MSH" else field
                raw = segment[at] if at < len(segment) else ""
                for mark, number in (("~", repetition), ("^", component), ("&", sub)):
                    pieces = raw.split(mark)
                    raw = pieces[number - 1] if number <= len(pieces) else ""
                return unescape(raw)
        return ""

    def has(self, name: str) -> bool:
        return any(segment[0] == name for segment in self.segments)


def segment(name: str, **fields: str) -> str:
    """A segment from `f3="x^y"`: what is given is taken as it is, so escape texts before."""
    numbers = {int(key[1:]): value for key, value in fields.items()}
    return "|".join([name, *(numbers.get(n, "") for n in range(1, max(numbers, default=0) + 1))])


def header(kind: str, control_id: str, now: dt.datetime, charset: str, sender: str = "SIMHIS") -> str:
    stamp = now.strftime("%Y%m%d%H%M%S%z")
    return f"MSH|^~\\&|{sender}|SIM|HISBRIDGE||{stamp}||{kind}|{control_id}|P|2.5.1||||||{charset}"


def new_control_id() -> str:
    return f"SIM{next(_numbers):09d}"


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next framed message, None when the peer has closed."""
    try:
        await reader.readuntil(START)
        return (await reader.readuntil(END))[: -len(END)]
    except asyncio.IncompleteReadError:
        return None
