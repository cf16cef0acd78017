"""What the service counts: a real Prometheus where one is installed, else its metrics pages, read by ourselves."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench.processes import ProcessFailed, accepts, end, last_words
from loadtest.ports import free_port

READY_WITHIN_S = 30.0
SCRAPE_S = 1
SLI = "hisbridge_sli_requests_total"
SLI_LABELS = ("hospital", "request_class", "phase", "verdict")

Counts = dict[tuple[str, ...], float]


class Pages:
    """The metrics pages of all processes of the service. Many processes: the parent's `/sd` lists them."""

    def __init__(self, session: aiohttp.ClientSession, admin_port: int, *, many: bool) -> None:
        self._session = session
        self._admin = f"127.0.0.1:{admin_port}"
        self._many = many

    async def read(self) -> dict[str, str]:
        """The text of each page by its address; those that do not answer are left out."""
        pages = {}
        for address in [self._admin, *(await self._children() if self._many else ())]:
            try:
                async with self._session.get(f"http://{address}/metrics") as response:
                    pages[address] = await response.text()
            except (aiohttp.ClientError, TimeoutError):
                continue
        return pages

    async def sum(self, metric: str) -> float:
        """The sum of all series of a metric over all processes."""
        return sum(
            sample.value
            for page in (await self.read()).values()
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == metric
        )

    async def counts(self) -> Counts:
        """The server's own SLI."""
        found: Counts = {}
        for page in (await self.read()).values():
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    if sample.name == SLI:
                        key = tuple(sample.labels.get(name, "") for name in SLI_LABELS)
                        found[key] = found.get(key, 0.0) + sample.value
        return found

    async def _children(self) -> list[str]:
        try:
            async with self._session.get(f"http://{self._admin}/sd") as response:
                return [target for entry in await response.json() for target in entry["targets"]]
        except (aiohttp.ClientError, TimeoutError):
            return []


class Prometheus:
    """A server of our own that scrapes every second and is gone afterwards."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, session: aiohttp.ClientSession) -> None:
        self._process = process
        self._session = session
        self.url = f"http://127.0.0.1:{port}"

    @classmethod
    async def start(
        cls, folder: Path, admin_port: int, session: aiohttp.ClientSession, *, many: bool
    ) -> Prometheus | None:
        """Its files go to `folder`, which is there. None where Prometheus is not installed. Raises ProcessFailed."""
        program = shutil.which("prometheus")
        if program is None:
            return None
        port, log = free_port(), folder / "log"
        jobs: list[dict[str, Any]] = [
            {"job_name": "hisbridge", "static_configs": [{"targets": [f"127.0.0.1:{admin_port}"]}]}
        ]
        if many:
            discovery = [{"url": f"http://127.0.0.1:{admin_port}/sd", "refresh_interval": "1s"}]
            jobs.append({"job_name": "hisbridge-children", "http_sd_configs": discovery})
        config = {"global": {"scrape_interval": f"{SCRAPE_S}s"}, "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", stdout=stream, stderr=stream,
            )  # fmt: skip
        ends = time.monotonic() + READY_WITHIN_S
        try:
            while not await asyncio.to_thread(accepts, port):
                if process.returncode is not None or time.monotonic() > ends:
                    raise ProcessFailed(f"Prometheus did not start: {last_words(log)}")
                await asyncio.sleep(0.1)
        except BaseException:
            await end(process)
            raise
        return cls(process, port, session)

    async def query(self, query: str, *, at: float | None = None) -> list[dict[str, Any]]:
        """An instant query's vector."""
        parameters = {"query": query, **({} if at is None else {"time": f"{at:.3f}"})}
        async with self._session.get(f"{self.url}/api/v1/query", params=parameters) as response:
            found = await response.json()
        if found["status"] != "success":
            raise ProcessFailed(f"Prometheus: {found.get('error')}")
        return list(found["data"]["result"])

    async def counts(self, since: float) -> Counts:
        """The server's own SLI since an instant, processes that have died meanwhile included (but for their last second)."""
        labels, length_s = ", ".join(SLI_LABELS), int(time.time() - since) + 1
        total = await self.query(f"sum by ({labels}) (max_over_time({SLI}[{length_s}s]))")
        before = await self.query(f"sum by ({labels}) ({SLI})", at=since)
        found = _vector(total)
        for key, count in _vector(before).items():
            found[key] = found.get(key, 0.0) - count
        return found

    async def stop(self) -> None:
        await end(self._process)


def _vector(result: list[dict[str, Any]]) -> Counts:
    return {tuple(row["metric"].get(n, "") for n in SLI_LABELS): float(row["value"][1]) for row in result}


def as_rows(counts: Counts) -> list[dict[str, Any]]:
    """For `prometheus.json`."""
    return [
        {**dict(zip(SLI_LABELS, key, strict=True)), "count": count} for key, count in sorted(counts.items()) if count
    ]
