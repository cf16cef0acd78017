"""From what happened on the wire to the three outcomes of a write."""

from __future__ import annotations

import re

from lxml import etree

from connectors.port import Accepted, Outcome, Rejected, Unknown, Verb
from connectors.soap.client import ClientError, Lost, NotSent
from connectors.soap.errors import CharsetTooSmall, ExchangeError, HttpFailed, Refused, RequestInvalid, Unreadable
from connectors.soap.rules import UNKNOWN
from connectors.soap.verbs import Case, value_at
from mappings.canonical import Patient, Registration, Settlement
from mappings.context import MapContext, MappingError
from monitoring.masking import mask_text

_PERSONAL = ("name", "id_number", "phone", "card_number", "guardian_name", "guardian_id_number", "address")
_LONG_NUMBER = re.compile(r"\d{7,}")


def accepted(case: Case, root: etree._Element, ctx: MapContext) -> Outcome:
    """A reply that says "done", with what it told. One that cannot be mapped is Unknown: a query-back may read better."""
    if case.reply is None:
        return Accepted()
    try:
        record = case.reply.read_one(root, ctx)
    except MappingError as error:
        return Unknown(reason=f"done, but the reply cannot be mapped: {error}")
    if not isinstance(record, Registration | Patient | Settlement):
        return Accepted()
    return Accepted(his_refs=dict(record.his_refs), record=record)


def outcome_of(error: ClientError | ExchangeError | MappingError, request: object) -> Outcome:
    """The outcome of a write that did not end in "done".

    HTTP 4xx without a SOAP body means that nothing was done, as does a fault that blames the caller; 5xx says nothing.
    """
    match error:
        case NotSent():
            return Rejected(code="not_sent", text=str(error), retryable=True)
        case CharsetTooSmall():
            return Rejected(code="charset", text=str(error))
        case RequestInvalid() | MappingError():
            return Rejected(code="invalid_request", text=str(error))
        case Refused(refusal=refusal):
            text = cleaned(refusal.text, request)
            if refusal.code == UNKNOWN:
                return Unknown(reason=text)
            return Rejected(code=refusal.code, text=text, retryable=refusal.retryable)
        case HttpFailed(status=429):
            return Rejected(code="busy", text=str(error), retryable=True)
        case HttpFailed(status=status) if 400 <= status < 500 and status != 408:
            return Rejected(code="invalid_request", text=str(error))
        case HttpFailed() | Unreadable() | Lost():
            return Unknown(reason=str(error))
    raise error


def not_offered(verb: Verb) -> Rejected:
    """The answer to a write that this HIS has no way to do."""
    return Rejected(code="not_offered", text=f"{verb} is not offered by this HIS")


def cleaned(text: str, request: object) -> str:
    """The HIS's own text without the person of the request, and without long numbers, whosoever they are."""
    for patient in (request, value_at(request, "patient"), value_at(request, "request")):
        if isinstance(patient, Patient):
            for value in (getattr(patient, name) for name in _PERSONAL):
                if value is not None and len(value) > 1:
                    text = text.replace(value, "***")
    return _LONG_NUMBER.sub("***", mask_text(text))
