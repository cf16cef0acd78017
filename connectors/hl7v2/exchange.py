"""One verb on the wire: the request is mapped and sent, its answer read. What it means: connectors.hl7v2.judging."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from connectors.clock import HisClock
from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.charset import codec_to_write, encode_message
from connectors.hl7v2.client import NotSent, Request, Requests
from connectors.hl7v2.mapping import CompiledVerb, map_context
from connectors.hl7v2.options import Settings
from connectors.hl7v2.record import asking
from connectors.hl7v2.writer import merge_header, write_message
from connectors.recording import WireRecord
from mappings.canonical import Record
from mappings.context import Failure
from mappings.engine import MapContext
from mappings.times import read_hl7


class Exchange:
    """Sends the requests of one connector."""

    def __init__(
        self,
        hospital: HospitalContext,
        settings: Settings,
        connection: dict[str, Any],
        pool: Requests | None,
        clock: HisClock,
    ) -> None:
        self.hospital = hospital
        self.settings = settings
        self.connection = connection
        self.pool = pool
        self._clock = clock
        self.record = WireRecord("")

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
        message = encode_message(write_message(tree), codec_to_write(self.settings.charset))
        # A commit acknowledgement says that the message was stored. It is the answer only where the profile asks for it and
        # for nothing more; a HIS that sends one unasked (original mode) still owes us its AA.
        asked = tree[0].get("MSH-15") in ("AL", "SU") and tree[0].get("MSH-16") not in ("AL", "SU")
        sent = Request(
            message=message,
            control_id=str(tree[0]["MSH-10"]),
            skip_commit=not asked,
            enhanced=bool(tree[0].get("MSH-15") or tree[0].get("MSH-16")),
        )
        began = time.time()
        with asking(self.record, self.settings, verb, request, sent) as asked_now:
            reply = asked_now.answered(await self.pool.request(sent, timeout_s))
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
