"""What a FHIR server's reply means: HTTP status and OperationOutcome to the port's words.

A 4xx says that the request was not carried out. A 5xx says nothing about what was done, and neither does a 429 or 503
with neither Retry-After nor OperationOutcome: a gateway may give it after the server behind it has committed. Such a write stays
in doubt, unless the server names a code that the profile's table knows, says itself that it was throttled, or names the time at
which the request is to come again (RFC 9110 section 10.2.3).
401 and 403 are about our token and not about the request: it may be sent again when somebody has renewed it.
Texts hold codes only: `diagnostics` and `details.text` may quote a patient's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.fhir.client import NotSent, Reply
from connectors.fhir.pace import BUSY
from connectors.port import REJECT_CODES, HisError, HisRefused, HisReplyInvalid, HisUnavailable, Rejected, Unknown

# Issue codes with which a server says itself that it did nothing and may be asked again.
_AGAIN = frozenset({"throttled", "transient"})
_RETRYABLE = frozenset({"busy", "not_open_yet"})
UNAUTHORISED = frozenset({401, 403})
_BY_STATUS = {404: "not_found", 410: "not_found", 409: "refused", 412: "refused"}
_SEVERE = frozenset({"fatal", "error"})
_NONE: Mapping[str, Any] = {}


def issues_of(body: Any, *, severe_only: bool = True) -> list[tuple[str, list[str]]]:
    """(issue code, detail codes) of an OperationOutcome's issues; [] for anything else.

    An operation may answer a failure with a Bundle around the outcome (IHE ITI Scheduling, 2:3.117.4.2.2): its entries count.
    """
    found = []
    for issue in _issues(body):
        if not isinstance(issue, dict) or (severe_only and str(issue.get("severity")) not in _SEVERE):
            continue
        concept = issue.get("details")
        codings = _list(concept.get("coding")) if isinstance(concept, dict) else []
        details = [str(c["code"]) for c in codings if isinstance(c, dict) and c.get("code")]
        found.append((str(issue.get("code", "")), details))
    return found


def _issues(body: Any) -> list[Any]:
    kind = body.get("resourceType") if isinstance(body, dict) else None
    if kind == "OperationOutcome":
        return _list(body.get("issue"))
    if kind != "Bundle":
        return []
    inside = [entry.get("resource") for entry in _list(body.get("entry")) if isinstance(entry, dict)]
    outcomes = [one for one in inside if isinstance(one, dict) and one.get("resourceType") == "OperationOutcome"]
    return [issue for one in outcomes for issue in _list(one.get("issue"))]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_version_conflict(reply: Reply, table: Mapping[str, Any]) -> bool:
    """Whether an update was refused because the resource has changed: 412, or the 409 that some servers give (HAPI).

    A 409 with a detail code that the profile's table knows is a refusal like any other (http.html#concurrency).
    """
    if reply.status != 409:
        return reply.status == 412
    return not any(code in table for _, details in issues_of(reply.body) for code in details)


def rejection(reply: Reply, table: Mapping[str, Any], issue_types: Mapping[str, Any] = _NONE) -> Rejected | None:
    """The refusal that a reply is, or None where it does not say that nothing was done. Not for 2xx.

    `table` is the verb's, from the server's own codes, and comes before `issue_types`, the profile's for all verbs.
    """
    issues = issues_of(reply.body)
    text = _text(reply.status, issues)
    for _, details in issues:
        for code in details:
            if (word := table.get(code)) in REJECT_CODES:
                return _rejected(str(word), text)
    if reply.status in BUSY:
        again = reply.retry_after_s is not None or any(code in _AGAIN for code, _ in issues)
        return _rejected("busy", text, reply.retry_after_s) if again else None
    if not 400 <= reply.status < 500 or reply.status == 408:
        return None
    words = [
        table.get(code) or (issue_types.get(code) if reply.status not in UNAUTHORISED else None) for code, _ in issues
    ]
    word = next((word for word in words if word in REJECT_CODES), None)
    if word is None:
        word = "busy" if reply.status in UNAUTHORISED else _BY_STATUS.get(reply.status, "invalid_request")
    return _rejected(str(word), text)


def refusal_of_write(
    reply: Reply, table: Mapping[str, Any], issue_types: Mapping[str, Any] = _NONE
) -> Rejected | Unknown:
    """The outcome of a write whose reply is not a success."""
    return rejection(reply, table, issue_types) or Unknown(reason=_text(reply.status, issues_of(reply.body)))


def error_of_read(reply: Reply, table: Mapping[str, Any], issue_types: Mapping[str, Any] = _NONE) -> HisError:
    """The error of a read whose reply is not a success."""
    text = _text(reply.status, issues_of(reply.body))
    refused = rejection(reply, table, issue_types)
    if refused is not None and (refused.code != "busy" or reply.status in UNAUTHORISED):
        return HisRefused(text, code=refused.code)
    if reply.status >= 500 or refused is not None or reply.status in (408, 429):
        return HisUnavailable(text)
    return HisReplyInvalid(text)


def not_sent(error: NotSent) -> Rejected:
    """The outcome of a write of which nothing left."""
    return Rejected(code="not_sent", text=str(error), retryable=True, retry_after_s=error.retry_after_s)


def _rejected(code: str, text: str, retry_after_s: float | None = None) -> Rejected:
    return Rejected(code=code, text=text, retryable=code in _RETRYABLE, retry_after_s=retry_after_s)


def _text(status: int, issues: list[tuple[str, list[str]]]) -> str:
    codes = ", ".join("/".join([code, *details])[:80] for code, details in issues[:3])
    return f"HTTP {status}" + (f": {codes}" if codes else "")
