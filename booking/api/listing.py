"""A list of the catalogue as it is sent: plain, packed, or only the word that nothing has changed.

Each form is made once, and sent as often as it is asked for.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from hashlib import blake2b

from aiohttp import hdrs

from booking.api.negotiation import accepts_gzip, etag_matches
from booking.api.wire import Ready, make_ready

PACKED_FROM_BYTES = 1_000  # a smaller body leaves in one packet either way
GZIP_LEVEL = 5  # 9 takes twice as long and saves a hundredth
_LISTING_BYTES = 1_500


class Listing:
    """One list's forms. The tag is weak (RFC 9110, section 8.8.1): it is the same for the plain and the packed body."""

    __slots__ = ("_etag", "_fields", "_packed", "_plain", "_unchanged", "nbytes")

    def __init__(self, body: bytes, content_type: str = "application/json") -> None:
        self._etag = f'W/"{blake2b(body, digest_size=12).hexdigest()}"'
        # A cache must ask us each time: what it holds may have been sold.
        fields = {"ETag": self._etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        self._fields = {"Content-Type": content_type, **fields}
        self._plain = make_ready(body, headers=self._fields)
        self._unchanged = make_ready(status=304, headers=fields)
        self._packed: Ready | None = None
        self.nbytes = len(body) + len(body) // 2 + _LISTING_BYTES

    def reply(self, headers: Mapping[str, str], age_s: float | None = None) -> Ready:
        """The form that fits what the caller has and can unpack. `age_s`: said in `Age` (RFC 9111, section 5.1)."""
        ready = self._form(headers)
        if age_s is None:
            return ready
        return Ready(ready.status, ready.head + b"Age: %d\r\n" % math.ceil(age_s), ready.body)

    def _form(self, headers: Mapping[str, str]) -> Ready:
        known = headers.get(hdrs.IF_NONE_MATCH)
        if known is not None and etag_matches(known, self._etag):
            return self._unchanged
        if accepts_gzip(headers.get(hdrs.ACCEPT_ENCODING)):
            return self._packed or self._pack()
        return self._plain

    def _pack(self) -> Ready:
        """Packed where that halves it: so much is reserved in `nbytes`."""
        body, packed = self._plain.body, b""
        if len(body) >= PACKED_FROM_BYTES:
            packed = gzip.compress(body, GZIP_LEVEL, mtime=0)
        if packed and len(packed) <= len(body) // 2:
            self._packed = make_ready(packed, headers={**self._fields, "Content-Encoding": "gzip"})
        else:
            self._packed = self._plain
        return self._packed
