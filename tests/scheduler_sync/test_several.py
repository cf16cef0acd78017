"""More than one thing at the HIS under a key of ours is a person's to settle, never sent again."""

from __future__ import annotations

import pytest

from connectors.port import Rejected, Verb
from scheduler_sync.commands import judge


@pytest.mark.parametrize("verb", [Verb.LOCK_SLOT, Verb.BOOK, Verb.REGISTER, Verb.CANCEL_REGISTRATION, Verb.SETTLE_BILL])
def test_command_is_dead_when_the_his_has_several_under_our_key(verb: Verb) -> None:
    verdict = judge(verb, Rejected(code="several"))
    assert (verdict.kind, verdict.reason and "cancel all but one" in verdict.reason) == ("dead", True)
