"""Resources that are not used, for the message store: each of them once, with its place and the reason."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from connectors.fhir.documents import Json, encode_json
from connectors.fhir.validation import Flaw
from connectors.port import Passed
from connectors.recording import WireRecord, shown_id

REMEMBERED = 10_000
"""A bad resource comes again with every fetch, and is set aside again only when it has changed, or after so many others."""


class SettingAside:
    """What one connector has set aside; nothing is before `record` has a recorder."""

    def __init__(self, record: WireRecord, peer: str) -> None:
        self.record = record
        self._peer = peer
        self._told: OrderedDict[bytes, None] = OrderedDict()

    def set_aside(self, resource: Json, flaw: Flaw) -> None:
        """Hand the resource on as a message of the HIS that was not taken. Its id is shown only where it can be nobody's."""
        if self.record.recorder is None:
            return
        raw = encode_json(resource)
        digest = hashlib.sha256(raw).digest()[:16]
        known = digest in self._told
        self._told[digest] = None
        self._told.move_to_end(digest)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        if not known:
            self.record.not_taken(
                Passed.REFUSED,
                peer=self._peer,
                message_type=flaw.resource_type,
                control_id=shown_id(str(resource.get("id") or "")[:64]),
                request=raw,
                error=f"set aside: {flaw.reason}",
            )
