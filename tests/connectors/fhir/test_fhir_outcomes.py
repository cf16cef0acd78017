"""What a refusal of a FHIR server means to the outbox: whether the same request may be sent again."""

from __future__ import annotations

import pytest

from connectors.fhir.client import Reply
from connectors.fhir.outcomes import rejection
from connectors.port import Rejected

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
