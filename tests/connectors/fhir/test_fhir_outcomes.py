"""What a refusal of a FHIR server means to the outbox: whether the same request may be sent again."""

from __future__ import annotations

import pytest

from connectors.fhir.client import Reply
from connectors.fhir.outcomes import rejection
from connectors.port import REJECT_CODES, Rejected
from mappings.profile import load_profile

TABLE = {"NOT-YET": "not_open_yet", "FULL": "full", "LATER": "busy"}


def refused(detail: str) -> Reply:
    issue = {"severity": "error", "code": "business-rule", "details": {"coding": [{"code": detail}]}}
    return Reply(status=409, body={"resourceType": "OperationOutcome", "issue": [issue]})


@pytest.mark.parametrize(
    ("detail", "code", "retryable"),
    [("NOT-YET", "not_open_yet", True), ("LATER", "busy", True), ("FULL", "full", False), ("X", "refused", False)],
)
def test_refusal_may_be_tried_again_when_only_time_stands_in_its_way(detail: str, code: str, retryable: bool) -> None:
    found = rejection(refused(detail), TABLE)
    assert isinstance(found, Rejected)
    assert (found.code, found.retryable) == (code, retryable)


@pytest.mark.parametrize("entries", [[], ["not an entry"], [{}], [{"resource": []}], "no list"])
def test_failure_in_a_bundle_is_the_failure_inside_whatever_stands_beside_it(entries: list[object] | str) -> None:
    bare = refused("NOT-YET")
    beside = entries if isinstance(entries, list) else []
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [*beside, {"resource": bare.body}]}
    assert rejection(Reply(status=409, body=bundle), TABLE) == rejection(bare, TABLE)
    without = rejection(Reply(status=409, body={**bundle, "entry": entries}), TABLE)
    assert isinstance(without, Rejected)
    assert without.code == "refused"


ISSUE_TYPES = load_profile("fhir_r4").tables["issue_types"]
# FHIR R4 valueset-issue-type: every code but those of successes and logins.
STANDARD = {
    "invalid", "structure", "required", "value", "invariant", "security", "forbidden", "not-supported", "duplicate", "not-found",
    "deleted", "too-long", "code-invalid", "extension", "business-rule", "conflict", "transient", "lock-error", "throttled",
}  # fmt: skip


def test_issue_types_of_the_profile_are_the_standards_and_mean_words_of_the_port() -> None:
    assert set(ISSUE_TYPES) == STANDARD
    assert set(ISSUE_TYPES.values()) <= REJECT_CODES


@pytest.mark.parametrize(
    ("status", "issue", "code"),
    [
        (409, "duplicate", "already_exists"),
        (422, "business-rule", "refused"),
        (400, "invariant", "invalid_request"),
        (409, "lock-error", "busy"),
        (403, "forbidden", "busy"),  # about our token
        (422, "no-such-code", "invalid_request"),
    ],
)
def test_issue_type_says_what_was_refused_unless_it_is_about_our_token(status: int, issue: str, code: str) -> None:
    body = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": issue}]}
    found = rejection(Reply(status=status, body=body), {}, ISSUE_TYPES)
    assert isinstance(found, Rejected)
    assert found.code == code


def test_code_of_a_verb_comes_before_the_issue_type() -> None:
    body = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "conflict"}]}
    found = rejection(Reply(status=409, body=body), {"conflict": "taken"}, ISSUE_TYPES)
    assert isinstance(found, Rejected)
    assert found.code == "taken"
