"""What `hisbridge messages` writes to a terminal."""

from __future__ import annotations

import json

from cli_messages.output import json_line


def test_line_is_the_same_json_without_what_a_terminal_acts_on_when_a_peer_chose_the_text() -> None:
    record = {"control_id": "A\x9b2J\x1b[2J\u202eB\x7f", "reason": "挂号 \U000e0001"}
    line = json_line(record)
    assert line.isprintable()
    assert "挂号" in line
    assert json.loads(line) == record
