"""The listener on uvloop, on which the service runs: its transports and its TLS are not asyncio's own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from . import test_listener as played

SCENARIOS = (
    played.test_request_is_ended_while_it_is_read_when_it_grows_too_large,
    played.test_request_in_chunks_is_taken_when_it_is_good,
    played.test_connection_is_kept_and_then_closed_when_it_idles,
    played.test_dotnet_client_is_told_to_go_on_when_it_asks_before_it_sends,
    played.test_many_calls_at_once_are_all_answered,
    played.test_call_in_hand_is_answered_when_the_connector_closes,
    played.test_only_who_shows_a_certificate_is_heard_when_it_must_be_mutual,
    played.test_renewed_certificate_serves_the_next_connection,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("test_"))
def test_scenario_comes_out_when_it_is_played_on_uvloop(
    scenario: Callable[[Path], Coroutine[Any, Any, None]], tmp_path: Path
) -> None:
    uvloop.run(scenario(tmp_path))
