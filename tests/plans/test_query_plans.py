"""No statement of production's looks at a large table from end to end, on either engine.

The service runs, with its own connections and prepared statements, on databases that are all but empty; then the tables are
filled under it, and everything is done once more. What counts is what the second round has cost: plans that were made for
empty tables, or by a planner that has no statistics, show themselves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import service
from tests.acceptance.installation import Installation, lay_out, postgres_store, run_service
from tests.plans.drive import drive
from tests.plans.fill import fill_messages, fill_store
from tests.plans.findings import UNTIL_ANALYSED, faults
from tests.plans.postgres_watch import MOST_ROWS, PostgresWatch
from tests.plans.sqlite_watch import MOST_STEPS, SqliteWatch
from tests.postgres import PostgresServer

FILLED = "soap-demo"
RULES = {
    "limits": [{"per": per, "within": "month", "most": 1_000} for per in ("patient", "user", "phone")],
    "blocks": [{"after": "no_shows", "count": 100, "within": "1 month", "lasts": "1 month"}],
    "eligibility": [{"max_age": 150, "min_age": 0, "departments": ["none"]}],
    "cancel_cutoffs": [{"before_s": 0}],
    "pay_windows": [{"departments": ["none"], "within_s": 900}],
    "channel_quotas": [{"clients": ["portal"], "most": 1_000}],
    "returned_seats": {"least_s": 86_400, "most_s": 86_400},
    "waitlist": {},
}
"""Every rule that looks at something in the store, none of which anybody reaches."""


@asynccontextmanager
async def installed(
    folder: Path, store: dict[str, str] | None = None
) -> AsyncIterator[tuple[Installation, service.Service]]:
    """A running installation on all but empty databases: everything was done once, so that every table has a row."""
    async with lay_out(folder, store=store, days=2, hospital={"rules": RULES}) as site, run_service(site) as running:
        await drive(site, running)
        yield site, running


async def fill(running: service.Service) -> None:
    """Years of work, at once."""
    async with running.store.write(FILLED) as tx:
        await fill_store(tx)
    async with running.messages.write(FILLED) as tx:
        await fill_messages(tx)


@pytest.mark.timeout(600)
async def test_no_statement_scans_a_large_table_on_sqlite(tmp_path: Path) -> None:
    watch = SqliteWatch()
    with watch.installed():
        async with installed(tmp_path) as (site, running):
            await fill(running)
            watch.recording = True
            await drive(site, running)
            watch.recording = False
    found = watch.costs()
    assert len(found) > 100  # a watch that saw nothing would prove nothing
    bad = faults(found, MOST_STEPS)
    assert not bad, "\n".join(str(cost) for cost in bad)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("plan_cache_mode", "analysed"), [("force_generic_plan", False), ("force_custom_plan", True)])
async def test_no_statement_scans_a_large_table_on_postgresql(
    tmp_path: Path, postgres_server: PostgresServer, plan_cache_mode: str, analysed: bool
) -> None:
    """At the worst, with plans that the server keeps from the time before the tables were filled, if it may keep any and has not
    counted its rows since; and as it is a minute later, when it has.
    """
    async with postgres_store(postgres_server) as store:
        databases = [url.rpartition("/")[2] for url in store.values()]
        watch = PostgresWatch(postgres_server, databases, plan_cache_mode)
        async with installed(tmp_path, store) as (site, running):
            await fill(running)
            if analysed:
                for database in databases:
                    postgres_server.run_sql("analyze", database=database)
            watch.record()
            await drive(site, running)
        found = watch.costs()
    assert len(found) > 100
    bad = faults(found, MOST_ROWS, excused=() if analysed else UNTIL_ANALYSED)
    assert not bad, "\n".join(str(cost) for cost in bad)
