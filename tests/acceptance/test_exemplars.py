"""From a slow bucket to a trace: a real Prometheus scrapes the service and is asked for its exemplars."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtest.ports import free_port
from tests.acceptance.installation import lay_out, run_service, until
from tests.otlp_receiver import otlp_receiver

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """Prometheus, scraping `target` every half second; where its API is."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    scrape = {"job_name": "hisbridge", "static_configs": [{"targets": [target]}]}
    config = folder / "prometheus.json"  # YAML, too
    config.write_text(json.dumps({"global": {"scrape_interval": "500ms"}, "scrape_configs": [scrape]}))
    listen = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={listen}",
            "--enable-feature=exemplar-storage",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{listen}/api/v1"
    finally:
        process.terminate()
        await process.wait()


async def test_prometheus_knows_the_trace_of_a_request_and_of_a_call_when_both_were_traced(tmp_path: Path) -> None:
    async with (
        otlp_receiver() as receiver,
        lay_out(tmp_path, tracing={"endpoint": receiver.endpoint, "sample_ratio": 0.0}) as site,
        run_service(site),
        prometheus(tmp_path, site.admin_url.removeprefix("http://")) as api,
        aiohttp.ClientSession() as session,
    ):
        patient_id = await site.patient("soap-demo")
        headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
        of = f"/v1/hospitals/soap-demo/patients/{patient_id}/bills"

        async def ask(path: str, **query: str) -> Any:
            try:
                async with session.get(f"{api}/{path}", params=query) as response:
                    assert response.status == 200, await response.text()
                    return (await response.json())["data"]
            except aiohttp.ClientConnectionError:
                return None  # it is still starting

        async def is_scraped() -> Any:
            return await ask("query", query="up")

        await until(is_scraped, lambda data: data and data["result"][0:] != [], what="a first scrape")
        up = await is_scraped()
        assert [sample["value"][1] for sample in up["result"]] == ["1"]
        assert (await site.portal().call("GET", of, headers=headers)).status == 200

        async def exemplars(query: str) -> list[dict[str, Any]]:
            now = time.time()
            found = await ask("query_exemplars", query=query, start=f"{now - 300}", end=f"{now + 60}")
            return [
                exemplar["labels"]
                for series in found
                for exemplar in series["exemplars"]
                if exemplar["labels"] == {"trace_id": TRACE_ID}
            ]

        for query in (
            'hisbridge_http_request_seconds_bucket{route="/v1/hospitals/{hospital_id}/patients/{patient_id}/bills"}',
            'hisbridge_his_call_seconds_bucket{verb="fetch_bills"}',
        ):

            async def look(query: str = query) -> list[dict[str, Any]]:
                return await exemplars(query)

            await until(look, lambda found: len(found) > 0, what=f"exemplars of {query}")
