"""The ways in which a question to a HIS gets no answer that says "done"."""

from __future__ import annotations

from connectors.soap.rules import Refusal

# --- errors -------------------------------------------------------------------------------------------------------
#
#   ExchangeError            no answer that says "done"
#   |-- Refused              the HIS's own no, or its fault, judged by the profile's rules
#   |-- RequestInvalid       the request cannot be written; nothing left
#   |   `-- CharsetTooSmall  ... because the peer's charset lacks a character
#   |-- Unreadable           a reply came and cannot be read
#   `-- HttpFailed           an HTTP error without a SOAP body
#   (NotSent and Lost come from client.py)


class ExchangeError(Exception):
    """No answer that says "done"."""


class Refused(ExchangeError):
    """The HIS said no; `.refusal` says what it means."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class RequestInvalid(ExchangeError):
    """The request cannot be written as a document; nothing left this machine."""


class CharsetTooSmall(RequestInvalid):
    """A character of the request is not in the peer's charset; nothing left this machine."""


class Unreadable(ExchangeError):
    """A reply came that cannot be read."""


class HttpFailed(ExchangeError):
    """An HTTP error without a SOAP body."""

    def __init__(self, status: int, hint: str = "") -> None:
        super().__init__(f"HTTP {status}{hint}")
        self.status = status
