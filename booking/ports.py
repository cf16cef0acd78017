"""What booking needs of others: a live HIS, a place for documents, and what fetches those that lie at addresses.

`scheduler_sync` implements it, `service.py` hands it in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec
from yarl import URL

from mappings.canonical import Attachment, Bill, KeptDocument, Patient, Report, Settlement


class LiveFailed(Exception):
    """A live read did not come back. `code` is an API code: his_unavailable, his_refused, his_reply_invalid or
    not_offered_by_hospital."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class LiveHis(Protocol):
    """Reads that a portal waits for. Every call is bounded in time by the connector and raises LiveFailed.

    `within_s`: the caller waits no longer. Then it is told so (his_unavailable), and nothing is asked of the HIS any more; what
    has been asked goes on by itself, so that the HIS's slowness is learnt from and no connection is lost.
    """

    def capabilities(self, hospital_id: str) -> dict[str, str]:
        """`native`, `pushed` or `off` for every verb of the connector port."""
        ...

    def his_status(self, hospital_id: str) -> str:
        """`up`, `degraded` or `down`, as of the last calls."""
        ...

    async def bills(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Bill]: ...
    async def presettlement(
        self, hospital_id: str, bill: Bill, patient: Patient, order_no: str, *, within_s: float | None = None
    ) -> Settlement:
        """What of a bill the patient would have to pay now, and what the insurance (医保预结算): nothing that lasts is done."""
        ...

    async def reports(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Report]: ...
    async def report(
        self, hospital_id: str, patient: Patient, report_id: str, *, within_s: float | None = None
    ) -> Report | None: ...
    async def attachment(
        self, hospital_id: str, attachment: Attachment, *, within_s: float | None = None
    ) -> Attachment: ...


class DocumentGone(Exception):
    """A document of a report is not where it was kept."""


class Documents(Protocol):
    """The bytes of large documents, kept apart from the booking store so that writing them holds up no booking."""

    def read(self, hospital_id: str, document: KeptDocument) -> AsyncGenerator[bytes]:
        """The document piece by piece. Raises DocumentGone, StoreUnavailable, SealBroken."""
        ...


class LinkedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document at an address, not read yet; None: the server does not say.

    `pieces` raises ConnectionResetError where it breaks off. Whoever does not read them to the end closes them.
    """

    content_type: str | None
    size_bytes: int | None
    pieces: AsyncGenerator[bytes]


class Links(Protocol):
    """What a report names by an address, see `booking.report_links`."""

    async def open(self, hospital_id: str, url: URL, *, within_s: float | None = None) -> LinkedDocument:
        """Ask for it; it must have begun to come `within_s`. Raises LiveFailed."""
        ...
