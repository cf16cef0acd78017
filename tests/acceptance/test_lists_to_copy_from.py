"""What the commands list is there to be copied into the next command, or told to a cashier: never cut, on any terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.acceptance.installation import Installation, run_installation

SOAP = "soap-demo"


async def test_ids_and_trade_numbers_are_whole_when_the_terminal_is_narrow(tmp_path: Path) -> None:
    async with run_installation(tmp_path) as site:
        booked = await site.booked(SOAP)
        paid_again = await site.pay(SOAP, booked, trade_no="4200001234202611210001")
        [refund] = paid_again["refunds"]
        listed = await lines(site, "refunds", "list", SOAP)
        [key] = [line for line in await lines(site, "keys", "list") if " single " in line]
    assert listed[0].split() == [
        "refund",
        "due",
        "since",
        "amount",
        "status",
        "his",
        "his_code",
        "channel",
        "trade_no",
        "of",
    ]
    assert [refund["id"], "4200001234202611210001", booked["id"]] == [listed[1].split()[n] for n in (0, 8, 9)]
    assert key.split()[-1] == "-"  # not revoked
    assert "booking, patients, billing, reports, events, reconciliation" in key


async def lines(site: Installation, *words: str) -> list[str]:
    """What `hisbridge` prints on a terminal of 80 columns."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *words, "--config", str(site.config),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, said.decode()
    return said.decode().splitlines()
