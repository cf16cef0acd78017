"""One verb on the wire: the request is mapped and sent, the answer judged by MSA-1 and by what the profile demands."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import msgspec

from connectors.clock import HisClock
from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.charset import codec_of, encode_message
from connectors.hl7v2.client import LinePool, NotSent
from connectors.hl7v2.mapping import CompiledVerb, first_text, map_context
from connectors.hl7v2.options import Settings
from connectors.hl7v2.writer import merge_header, write_message
from connectors.port import REJECT_CODES
from mappings.canonical import Record
from mappings.context import Failure
from mappings.engine import MapContext
from mappings.times import read_hl7

UNKNOWN = "unknown"
"""The word of a profile's code table for "this error does not say that nothing was done"."""


class Judgement(msgspec.Struct, frozen=True):
    """What a reply says. `code` None: done. Else a code of REJECT_CODES, or UNKNOWN."""

    code: str | None
    text: str = ""


class Exchange:
    """Sends the requests of one connector."""

    def __init__(
        self,
        hospital: HospitalContext,
        settings: Settings,
        connection: dict[str, Any],
        pool: LinePool | None,
        clock: HisClock,
    ) -> None:
        self.hospital = hospital
        self.settings = settings
        self.connection = connection
        self.pool = pool
        self._clock = clock

    async def ask(
        self, verb: CompiledVerb, request: Record, timeout_s: float, extra: dict[str, Any] | None = None
    ) -> er7.Message:
        """Send one request and return the reply to it.

        Raises MappingError (the request cannot be written), HL7CharsetError (it cannot be carried), NotSent, NoAnswer.
        """
        if self.pool is None:
            raise NotSent("no host is configured to send requests to")
        ctx = map_context(self.hospital, self.settings, self.connection, extra=extra)
        tree = merge_header(verb.request.write(request, ctx), self._header(verb, ctx))
        message = encode_message(write_message(tree), codec_of(self.settings.charset) or "utf-8")
        # A commit acknowledgement says that the message was stored. It is the answer only where the profile asks for it and
        # for nothing more; a HIS that sends one unasked (original mode) still owes us its AA.
        asked = tree[0].get("MSH-15") in ("AL", "SU") and tree[0].get("MSH-16") not in ("AL", "SU")
        skip_commit = not asked
        began = time.time()
        reply = await self.pool.request(message, str(tree[0]["MSH-10"]), timeout_s, skip_commit=skip_commit)
        self._note_time(reply, began)
        return reply

    def context(self, reply: er7.Message) -> MapContext:
        """The context in which a reply is mapped."""
        return map_context(self.hospital, self.settings, self.connection, message=reply)

    def _note_time(self, reply: er7.Message, began: float) -> None:
        """MSH-7 of a reply is when the HIS made it (v2.5.1 ch. 2.15.9.7); one that is coarser than seconds tells nothing."""
        text = reply.value("MSH", 7)
        try:
            told = read_hl7(text, self.context(reply), "second") if text else None
        except Failure:
            return
        if told is not None:
            self._clock.note(told, began=began, resolution_s=0.001 if "." in text else 1.0)

    def _header(self, verb: CompiledVerb, ctx: MapContext) -> dict[str, Any]:
        settings = self.settings
        header: dict[str, Any] = {
            "MSH-3": settings.sending_application,
            "MSH-4": settings.sending_facility or None,
            "MSH-5": settings.receiving_application or None,
            "MSH-6": settings.receiving_facility or None,
            "MSH-7": f"{dt.datetime.now(self.hospital.zone):%Y%m%d%H%M%S%z}",
        }
        header |= {f"MSH-9.{n}": part for n, part in enumerate(verb.message, 1)}
        return header | {
            "MSH-10": ctx.extra["new.control_id"],
            "MSH-11": settings.processing_id,
            "MSH-12": settings.version,
            "MSH-18": settings.charset,
        }


def judge(verb: CompiledVerb, reply: er7.Message) -> Judgement:
    """Whether a reply means done (v2.5.1 table 0008), in the words of the port where it does not.

    AA (CA) and the profile's `expect`: done. AA without it: refused if the code table has the value found there, else
    unknown. AE, AR (CE, CR): by the first of the error codes, own and standard, that the code table has: one of the HIS's
    own that it has not, beside a 207, is as unknown as the 207. Codes that no table has are `refused`, an AE without any
    code is unknown, because v2 does not say that nothing was done.
    """
    answer = reply.value("MSA", 1)
    if answer in ("AA", "CA"):
        for condition in verb.expect:
            if not condition.holds(reply):
                found = _translate(verb, first_text(condition.path, reply))
                return Judgement(found or UNKNOWN, f"{condition.path} is not what was expected")
        return Judgement(None)
    if answer not in ("AE", "AR", "CE", "CR"):
        return Judgement(UNKNOWN, "MSA-1 is none of table 0008")
    his_codes = [text for path in verb.errors if (text := first_text(path, reply))]
    his_code = his_codes[0] if his_codes else ""
    # A text with blanks in it is prose, and prose may name a patient.
    shown = his_code if len(his_code) <= 20 and his_code.isascii() and " " not in his_code else ""
    code = next((word for text in his_codes if (word := _translate(verb, text)) is not None), None)
    if code is None:
        code = "refused" if his_codes or answer in ("AR", "CR") else UNKNOWN
    return Judgement(code, f"{answer} {shown}".strip())


def _translate(verb: CompiledVerb, his_code: str) -> str | None:
    word = verb.codes.get(his_code)
    return str(word) if word in REJECT_CODES or word == UNKNOWN else None
