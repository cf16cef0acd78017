"""The side of the process that `sifter` starts: pages of Slots in, what they give out (see connectors.aside)."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from connectors.aside import Job, work
from connectors.fhir.calls import compile_calls
from connectors.fhir.documents import Document, decode_json
from connectors.fhir.sifter import CHECKED, UNKNOWN, Setup
from connectors.fhir.sifting import map_context, sift

MOST_BESIDE = 4
"""So many documents that stand beside pages are kept: one of each search that is under way."""


def main() -> None:
    """Work until stdin ends."""
    work(_job, "fhir")


def _job(setup: Setup) -> Job:
    calls = compile_calls(setup.profile, setup.connection)
    around: OrderedDict[str, Document] = OrderedDict()

    def answer(payload: bytes, told: str) -> bytes:
        verb, number, *more = told.split(" ")
        if verb == "beside":
            around[number] = Document.of(decode_json(payload.decode()))
            if len(around) > MOST_BESIDE:
                around.popitem(last=False)
            return b""
        if number and number not in around:
            return UNKNOWN
        reply = calls[verb].reply
        assert reply is not None  # noqa: S101 - as in `Search`
        context = map_context(setup.hospital, setup.connection)
        entries = decode_json(payload.decode())
        rules = None if CHECKED in more else setup.rules
        return msgspec.json.encode(sift(entries, around.get(number), reply, rules, context, _no_pause))

    return answer


def _no_pause() -> None:
    """Nobody waits for this process's interpreter."""
