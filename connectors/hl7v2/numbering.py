"""The sender's own numbering of its messages: the sequence number protocol (HL7 v2.5.1 ch. 2.10.1, MSH-13 and MSA-4).

Which number is expected is known where messages are stored; here is only what a message says of itself.
"""

from __future__ import annotations

import hashlib
import re

from connectors.hl7v2.acks import Fault
from connectors.hl7v2.header import Header
from connectors.port import Series

_NUMBER = re.compile(r"-1|[0-9]{1,15}")
BAD_NUMBER = Fault("102", "MSH^1^13", reason="MSH-13 is no sequence number")


def has_bad_number(header: Header) -> bool:
    """Whether MSH-13 is there and is none of -1, 0 and a positive number."""
    return bool(header.sequence) and _NUMBER.fullmatch(header.sequence) is None


def series_of(header: Header | None, codec: str, connector: str, *, alone: bool) -> Series | None:
    """The numbering of whoever sent this (MSH-3 and MSH-4, as the bytes that came); None where it has no number.

    A message that is not taken passes its number on all the same (`alone`): what was answered AR or ignored does not come
    again, and the next one would never be the expected one. So do 0 and -1, which nothing but a header needs to follow.
    """
    if header is None or not header.sequence or has_bad_number(header):
        return None
    number = int(header.sequence)
    sender = "|".join((connector, header.sending, header.sending_facility)).encode(codec, "backslashreplace")
    return Series(key=hashlib.sha256(sender).hexdigest()[:32], number=number, alone=alone or number <= 0)
