"""What becomes of inbound messages, in figures and in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.hl7v2.findings import Finding
from connectors.hl7v2.reading import Read
from connectors.port import Inbound, InboundAnswer, Refused
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger("connectors.hl7v2.receiver")

FAILED = "failed"
"""The code of what the handler neither stored nor refused."""


class Tally:
    """Counts and tells for one connector. Peers choose how often: the log is sparse."""

    def __init__(self, hospital_id: str, name: str) -> None:
        self.hospital_id = hospital_id
        self.name = name
        self._warn = SparseLog(log.warning)

    def count(self, kind: str, result: str, count: int = 1) -> None:
        """Messages of a type with a result of `hisbridge_inbound_messages_total`."""
        metrics.count_inbound(self.hospital_id, self.name, kind, result, count)

    def odd(self, kind: str) -> None:
        """One of `metrics.ODDITIES`."""
        metrics.count_oddity(self.hospital_id, self.name, kind)

    def warn(self, event: str, peer: str, **more: Any) -> None:
        """A line of the log, unless there were many like it."""
        self._warn(event, peer=peer, hospital=self.hospital_id, connector=self.name, **more)

    def read(self, read: Read, peer: str) -> None:
        """What reading found to tell."""
        if read.decoded_as is not None:
            metrics.count_decode_fallback(self.hospital_id, self.name, read.decoded_as)
        if read.event:
            self.warn(read.event, peer, reason=read.reason)

    def given(self, kind: str, given: InboundAnswer) -> None:
        """Where that ends the matter: what is stored is counted by the inbox, once it has been applied or set aside."""
        if isinstance(given, Refused):
            self.count(kind, "failed" if given.code == FAILED else "refused")
        elif given.duplicate:
            self.count(kind, "duplicate")

    def numbered(self, inbound: Inbound, given: InboundAnswer, peer: str) -> None:
        """What is odd with the sender's numbers and control ids."""
        number = None if inbound.series is None else inbound.series.number
        if isinstance(given, Refused):
            kind = "out_of_series" if given.out_of_series else ""
        elif number == -1:
            kind = "series_anew"
        else:
            kind = "same_id" if given.same_id else ""
        if kind:
            self.odd(kind)
            self.warn("hl7_message_odd", peer, reason=kind, number=number, expected=given.expected)

    def findings(self, kind: str, peer: str, found: Sequence[Finding] | None) -> None:
        """What the standard's tables say against a message; None: nobody could look."""
        if found is None:
            self.odd("unchecked")
            self.warn("hl7_message_unchecked", peer, type=kind)
        elif found:
            self.odd("nonconforming")
            told = [str(one) for one in found]
            self.warn("hl7_message_nonconforming", peer, reason=told[0], findings=told, type=kind)

    def failed(self, kind: str, error: Exception, peer: str) -> None:
        """Taking a message failed in a way that nobody had thought of."""
        log.error(
            "hl7_message_not_handled",
            error=type(error).__name__,
            type=kind,
            peer=peer,
            hospital=self.hospital_id,
            connector=self.name,
            exc_info=error,
        )
