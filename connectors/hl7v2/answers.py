"""What came from the HIS, told from its first bytes: an answer, a message of its own, or neither. Apart from I/O.

An answer is a message with MSA; the one that we wait for has our MSH-10 in MSA-2 (HL7 v2.5.1 ch. 2.14.8). What cannot be
decoded, or is too large, is still told apart by its head: control ids are ASCII in every character set that is read here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from enum import StrEnum
from itertools import islice

import msgspec

from connectors.hl7v2.batches import MOST_MESSAGES, TooMany

GLANCE_BYTES = 16_384
"""MSA follows MSH, and at most a few SFT and UAC."""

REMEMBERED_IDS = 256

_ENVELOPE = b"\xef\xbb\xbf\r\n \t"
_MESSAGE_STARTS = re.compile(rb"(?:^|[\r\n])(?=MSH)")
_BATCH_SEGMENT = re.compile(rb"[\r\n](?:FHS|BHS|BTS|FTS)[^\r\n]*")


class Stray(StrEnum):
    """Why something that came answered nothing."""

    LATE = "late"  # it names a request of ours that has been given up
    DUPLICATE = "duplicate"  # it names one that has its answer
    FOREIGN = "foreign"  # it names none of ours, or is no answer at all
    GARBAGE = "garbage"  # it is no HL7 message, or cannot be decoded
    TOO_LARGE = "too_large"


class Glance(msgspec.Struct, frozen=True):
    """A message at a glance. `names` is MSA-2 of an answer."""

    is_message: bool
    is_answer: bool = False
    names: str = ""


NOTHING = Glance(False)


def glance(data: bytes) -> Glance:
    """Look at the beginning of what came; whole or cut off, decodable or not."""
    head = data[:GLANCE_BYTES].lstrip(_ENVELOPE)
    if head[:3] not in (b"MSH", b"FHS", b"BHS") or len(head) < 4:
        return NOTHING
    mark = re.escape(head[3:4])
    piece = rb"[^\r\n" + mark + rb"]*"
    found = re.search(rb"[\r\n]MSA(?:" + mark + piece + rb"(?:" + mark + rb"(" + piece + rb"))?|(?=[\r\n])|\Z)", head)
    if found is None:
        return Glance(True)
    return Glance(True, True, (found[1] or b"").decode("ascii", "replace").strip())


def messages_in(payload: bytes) -> list[bytes]:
    """The messages of one frame: itself, or those of a batch (v2.5.1 ch. 2.10.3), without the batch's own segments.

    Raises TooMany.
    """
    starts = [found.end() for found in islice(_MESSAGE_STARTS.finditer(payload), MOST_MESSAGES + 1)]
    if len(starts) > MOST_MESSAGES:
        raise TooMany(starts[0])
    if len(starts) < 2 and (not starts or payload[: starts[0]].strip(_ENVELOPE) == b""):
        return [payload]
    ends = [*starts[1:], len(payload)]
    return [_BATCH_SEGMENT.sub(b"", payload[start:end]) for start, end in zip(starts, ends, strict=True)]


class SentIds:
    """The last REMEMBERED_IDS control ids that we sent, and whether each has its answer."""

    def __init__(self) -> None:
        self._answered: OrderedDict[str, bool] = OrderedDict()

    def add(self, control_id: str) -> None:
        self._answered[control_id] = False
        if len(self._answered) > REMEMBERED_IDS:
            self._answered.popitem(last=False)

    def note_answer(self, control_id: str) -> None:
        if control_id in self._answered:
            self._answered[control_id] = True

    def stray(self, named: str) -> Stray:
        """What an answer to this id is, when nobody waits for it."""
        answered = self._answered.get(named)
        if answered is None:
            return Stray.FOREIGN
        return Stray.DUPLICATE if answered else Stray.LATE
