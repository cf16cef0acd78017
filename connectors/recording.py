"""Telling the message store what passes on a connector's wire."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from connectors.masking import OF_A_PERSON, mask_text
from connectors.port import (
    Acknowledged,
    BillPayment,
    Direction,
    Exchanged,
    Order,
    Passed,
    Recorder,
    RefundOrder,
)
from mappings.canonical import Patient

_NAME = re.compile(r"[A-Za-z0-9_^.-]{1,40}")
_ID = re.compile(rf"(?!.*(?:{OF_A_PERSON}))[!-~]{{1,200}}")
OTHER = "other"


@dataclass
class Passing:
    """One request on its way: what came back, once it has. Without a state it is what the error says.

    `kept` False: it is not recorded.
    """

    answer: bytes | None = None
    answer_code: str | None = None
    state: Passed | None = None
    error: str | None = None
    kept: bool = True


class WireRecord:
    """The record of one connector; nothing is recorded before there is a recorder."""

    def __init__(self, connector: str) -> None:
        self._connector = connector
        self.recorder: Recorder | None = None

    @contextmanager
    def asking(
        self,
        verb: str,
        about: object,
        *,
        peer: str,
        message_type: str,
        control_id: str,
        request: bytes,
        not_sent: type[Exception],
    ) -> Iterator[Passing]:
        """Around one request: recorded when it ends, however it does. `not_sent` is raised where nothing left."""
        passing = Passing()
        began = time.time()
        try:
            yield passing
        except not_sent as error:
            passing.state, passing.error = Passed.FAILED, str(error)
            raise
        except BaseException as error:
            # Bytes may have left, also where the caller gave up.
            passing.state = passing.state or Passed.UNKNOWN
            passing.error = passing.error or (str(error) if isinstance(error, Exception) else "given up")
            raise
        finally:
            if self.recorder is not None and passing.kept:
                order_no, mrn = named_in(about)
                self.recorder(
                    Exchanged(
                        connector=self._connector,
                        peer=peer,
                        direction=Direction.OUT,
                        state=passing.state or Passed.DONE,
                        verb=verb or None,
                        message_type=message_type,
                        control_id=control_id,
                        request=request,
                        answer=passing.answer,
                        answer_code=passing.answer_code,
                        order_no=order_no,
                        mrn=mrn,
                        error=passing.error,
                        began=began,
                        ended=time.time(),
                    )
                )

    def not_taken(
        self,
        state: Passed,
        *,
        peer: str,
        message_type: str,
        control_id: str,
        request: bytes,
        error: str,
        answer: bytes | None = None,
        answer_code: str | None = None,
    ) -> None:
        """A message of the HIS was refused, was known already, or answered nothing of ours."""
        if self.recorder is None:
            return
        now = time.time()
        self.recorder(
            Exchanged(
                connector=self._connector,
                peer=peer,
                direction=Direction.IN,
                state=state,
                message_type=shown_name(message_type),
                control_id=control_id,
                request=request,
                answer=answer,
                answer_code=answer_code,
                error=error,
                began=now,
                ended=now,
            )
        )

    def acknowledged(self, dedup_key: str, answer_code: str) -> None:
        """A stored message was answered so."""
        if self.recorder is not None:
            self.recorder(Acknowledged(connector=self._connector, dedup_key=dedup_key, answer_code=answer_code))


def named_in(about: object) -> tuple[str | None, str | None]:
    """The order number and the MRN that a request of the port speaks of."""
    match about:
        case Order() | BillPayment():
            return about.order_no, about.patient.mrn
        case RefundOrder():
            return None if about.order is None else about.order.order_no, about.patient.mrn
        case Patient():
            return None, about.mrn
        case _:
            return None, None


def shown_name(message_type: str) -> str:
    """A type that a peer chose, as it may be shown: what does not look like one may be anything."""
    return message_type if _NAME.fullmatch(message_type) else OTHER


def shown_id(control_id: str) -> str:
    """A control id as it may be listed and logged: what has blanks, letters of a name or a person's number may be anything."""
    return control_id if not control_id or _ID.fullmatch(control_id) else mask_text(control_id)
