"""`hisbridge messages begin-series`: a sender that has lost count, beside the running service."""

from __future__ import annotations

import pytest

from tests.acceptance.installation import run_process
from tests.acceptance.test_messages_command import Site, site, siu

__all__ = ["site"]  # the fixture


def numbered(control_id: str, number: int) -> bytes:
    return siu(control_id).replace(b"|P|2.5.1||", b"|P|2.5.1|%d|" % number)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
async def test_sender_that_lost_count_is_taken_again_when_a_person_says_so(site: Site) -> None:
    config = site.installation.config
    profile = 'profile = "hl7v2@1"\n'
    text = config.read_text(encoding="utf-8")
    assert text.count(profile) == 1
    config.write_text(text.replace(profile, f'{profile}sequence = "check"\n'), encoding="utf-8")
    async with run_process(site.installation):
        assert await site.send(numbered("A", 41), numbered("B", 42), numbered("C", 1)) == ["AA", "AA", "AE"]
        assert "five characters" in await site.run("begin-series", "--reason", "no", code=2)
        assert "1 sender begins anew" in await site.run("begin-series", "--reason", "the interface engine was rebuilt")
        assert await site.send(numbered("C", 1), numbered("D", 2)) == ["AA", "AA"]
        assert "the interface engine was rebuilt" in await site.run("audit")
