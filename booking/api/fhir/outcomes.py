"""Problems as OperationOutcomes: the same codes as everywhere, told as FHIR tells errors.

Statuses follow FHIR R4 http.html where they differ from ours: a search or a body that cannot be read is 400 (sections 3.1.0.5
and 3.1.0.11), never 422.

IHE ITI Scheduling 1.0.1 says how its transactions fail: `$hold` answers the OperationOutcome alone (2:3.116.4.2.2), `$book` a
Bundle with nothing but it (2:3.117.4.2.2), `$find` and the search of Appointments one whose severity is `fatal` (tables
2:3.115.4.2.4-2 and 2:3.118.4.2.4-2; their `code`, the words of an HTTP error, is none of the required value set, so it is the
standard's). The HTTP status says that it failed, in each of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import msgspec

from booking.api.problems import PROBLEMS, ApiProblem, prefers_chinese
from booking.api.wire import Ready, join_head, render_head

FHIR_JSON = "application/fhir+json"
FHIR_ROOT = "/fhir/R4"
PROBLEM_SYSTEM = "urn:hisbridge:problem"
_BOOKING = "/Appointment/$book"
_ASKING = ("/Appointment/$find", "/Appointment/_search", "/Appointment")
_encode = msgspec.json.Encoder().encode


class Issue(NamedTuple):
    """How a problem is told: `code` of the value set issue-type (required binding of OperationOutcome.issue.code)."""

    code: str
    status: int | None = None
    severity: str = "error"


# http://hl7.org/fhir/R4/valueset-issue-type.html
_ISSUES: dict[str, Issue] = {
    "slot_sold_out": Issue("conflict"),
    "slot_not_released": Issue("business-rule"),
    "hospital_closed": Issue("business-rule"),
    "schedule_stopped": Issue("business-rule"),
    "duplicate_booking": Issue("duplicate"),
    "limit_reached": Issue("business-rule"),
    "patient_not_eligible": Issue("business-rule"),
    "patient_blocked": Issue("business-rule"),
    "channel_quota_reached": Issue("business-rule"),
    "wait_after_cancellation": Issue("business-rule"),
    "price_changed": Issue("conflict"),
    "fee_unknown": Issue("business-rule"),
    "waiting_room": Issue("throttled"),
    "waiting_room_closed": Issue("business-rule"),
    "slot_in_past": Issue("business-rule"),
    "not_cancellable": Issue("business-rule"),
    "cancel_too_late": Issue("business-rule"),
    "booking_over": Issue("business-rule"),
    "not_payable": Issue("business-rule"),
    "payment_conflict": Issue("conflict"),
    "payment_of_another_portal": Issue("conflict"),
    "refund_conflict": Issue("conflict"),
    "already_paid": Issue("business-rule"),
    "patient_share_due": Issue("business-rule"),
    "refund_too_large": Issue("business-rule"),
    "nothing_to_refund": Issue("business-rule"),
    "patient_rejected": Issue("business-rule"),
    "patient_has_bookings": Issue("business-rule"),
    "not_sold_out": Issue("business-rule"),
    "waitlist_closed": Issue("business-rule"),
    "waitlist_full": Issue("business-rule"),
    "already_waiting": Issue("duplicate"),
    "offer_over": Issue("business-rule"),
    "not_offered_by_hospital": Issue("not-supported"),
    "hospital_paused": Issue("transient"),
    "hospital_observe_only": Issue("business-rule"),
    "his_unavailable": Issue("transient"),
    "his_refused": Issue("processing"),
    "his_reply_invalid": Issue("transient"),
    "malformed_http": Issue("structure"),
    "malformed_json": Issue("structure"),
    "unknown_field": Issue("not-supported", 400),
    "invalid_field": Issue("value", 400),
    "merchant_bill_invalid": Issue("value"),
    "unsupported_media_type": Issue("not-supported"),
    "not_acceptable": Issue("not-supported"),
    "too_large": Issue("too-long"),
    "request_timeout": Issue("timeout"),
    "idempotency_key_missing": Issue("required"),
    "idempotency_key_invalid": Issue("value"),
    "idempotency_key_reused": Issue("conflict"),
    "request_in_progress": Issue("lock-error"),
    "version_conflict": Issue("conflict"),
    "unauthenticated": Issue("login"),
    "forbidden_scope": Issue("forbidden"),
    "forbidden_hospital": Issue("forbidden"),
    "hospital_ambiguous": Issue("multiple-matches"),
    "not_found": Issue("not-found"),
    "method_not_allowed": Issue("not-supported"),
    "cursor_invalid": Issue("value", 400),
    "cursor_expired": Issue("expired"),
    "rate_limited": Issue("throttled"),
    "overloaded": Issue("transient"),
    "store_unavailable": Issue("no-store"),
    "draining": Issue("transient"),
    "internal_error": Issue("exception", severity="fatal"),
}
ISSUES = _ISSUES | {code: Issue("not-found") for code in PROBLEMS if code.endswith("_unknown") and code not in _ISSUES}
"""Every code of `PROBLEMS`."""


NOT_AVAILABLE = Issue("not-found", severity="fatal")


class NotAvailable(ApiProblem):
    """An Appointment that cannot be had: told as fatal and not-found (IHE ITI Scheduling 1.0.1, 2:3.116.4.2.3)."""


def is_fhir(address: str) -> bool:
    """Whether a path belongs to the facade, found or not."""
    return address.startswith(FHIR_ROOT) and address[len(FHIR_ROOT) :][:1] in ("", "/")


def describe_outcome(
    problem: ApiProblem, *, request_id: str = "", accept_language: str = "", severity: str | None = None
) -> dict[str, Any]:
    """The OperationOutcome of one occurrence: an issue for each field that is wrong, else a single one.

    `details.coding` holds our code, `details.text` its title, `diagnostics` what happened, what to do and the request's id;
    `severity` counts more than the problem's own.
    """
    known = problem.problem
    issue = NOT_AVAILABLE if isinstance(problem, NotAvailable) else ISSUES[known.code]
    chinese = prefers_chinese(accept_language)
    title, remedy = (known.title_zh, known.do_zh) if chinese else (known.title_en, known.do_en)
    coding = {"system": PROBLEM_SYSTEM, "code": known.code, "display": known.title_en}
    instance = f"urn:hisbridge:request:{request_id}" if request_id else None
    issues: list[dict[str, Any]] = []
    for error in problem.errors or (None,):
        said = [problem.detail, remedy if error is None else f"{error.path}: {error.expected}"]
        said += [_facts(problem.extra), instance] if not issues else []
        told: dict[str, Any] = {
            "severity": severity or issue.severity,
            "code": issue.code,
            "details": {"coding": [coding], "text": title},
        }
        diagnostics = "; ".join(text for text in said if text)
        if diagnostics:
            told["diagnostics"] = diagnostics
        if error is not None and error.path.startswith("$."):
            told["expression"] = [error.path[2:]]
        issues.append(told)
    return {"resourceType": "OperationOutcome", "issue": issues}


def _facts(extra: dict[str, Any]) -> str:
    """What a client can act on, as in `extra` of a problem document."""
    return _encode(extra).decode() if extra else ""


def outcome_status(code: str) -> int:
    """The HTTP status of a problem in the facade."""
    return ISSUES[code].status or PROBLEMS[code].status


def answer_outcome(problem: ApiProblem, *, request_id: str, accept_language: str = "", address: str = "") -> Ready:
    """The answer for one occurrence, with `Retry-After` where a delay is known. `address` is the path that was asked."""
    status, chinese = outcome_status(problem.code), prefers_chinese(accept_language)
    if problem.retry_after_s is None and not problem.headers:
        head = _head(status, chinese)
    else:
        wait = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
        head = render_head(status, {**_fields(chinese), **(problem.headers or {}), **wait})
    severity = "fatal" if address.endswith(_ASKING) else None
    document = describe_outcome(problem, request_id=request_id, accept_language=accept_language, severity=severity)
    body = _encode(document)
    return join_head(head, status, _in_bundle(body) if address.endswith(_BOOKING) else body)


def _in_bundle(outcome: bytes) -> bytes:
    entry = b'{"resource":%b,"search":{"mode":"outcome"}}' % outcome
    links = b'[{"relation":"self","url":"Appointment/$book"}]'  # a caller may have written anything before it
    return b'{"resourceType":"Bundle","type":"searchset","total":0,"link":%b,"entry":[%b]}' % (links, entry)


def _fields(chinese: bool) -> dict[str, str]:
    return {"Content-Type": FHIR_JSON, "Content-Language": "zh" if chinese else "en", "Cache-Control": "no-store"}


@cache
def _head(status: int, chinese: bool) -> bytes:
    return render_head(status, _fields(chinese))
