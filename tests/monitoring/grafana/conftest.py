"""One busy minute for all tests of this folder, and the Prometheus that has seen it."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitoring.grafana.asking import Prometheus, Span
from tests.acceptance.installation import lay_out, postgres_store, run_process
from tests.monitoring.grafana.busy import (
    HOSPITAL,
    SEATS,
    SERVICE,
    TRACED_SHARE,
    ZONE,
    busy_minute,
    release_of_the_next_minute,
)
from tests.otlp_receiver import otlp_receiver
from tests.postgres import PostgresServer
from tests.prometheus import SCRAPE_S, find_prometheus, run_prometheus

LEAD_S = 2.0
"""What Prometheus is given to see the last of it."""


@dataclass(frozen=True)
class Watched:
    """A Prometheus, and the time in which something happened."""

    url: str
    span: Span

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.url)


@pytest.fixture(scope="session")
def watched(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The busy minute, over; Prometheus still runs."""
    program = find_prometheus()
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as kept:
        yield asyncio.run(_watch(postgres_server, program, folder, kept))


async def _watch(server: PostgresServer, program: str, folder: Path, kept: ExitStack) -> Watched:
    visits = dt.datetime.now(ZONE).date() + dt.timedelta(days=1)  # the hospitals' one day
    async with (
        postgres_store(server) as store,
        otlp_receiver() as receiver,
        lay_out(
            folder,
            store=store,
            hospital=HOSPITAL,
            service_table=SERVICE,
            tracing={"endpoint": receiver.endpoint, "sample_ratio": TRACED_SHARE},
            seats=SEATS,
        ) as site,
    ):
        opens = release_of_the_next_minute(site.config, visits)
        async with run_process(site) as process:
            url = kept.enter_context(run_prometheus(program, folder, site.admin_url))
            began = time.time()
            await busy_minute(site, process.process.pid, opens)
            await asyncio.sleep(LEAD_S)
            ended = time.time()
            return Watched(url, Span(began, ended, SCRAPE_S))
