"""A real Prometheus for tests: on loopback, in a folder of its own, scraping once a second what the service's parent
tells, or answering from what another one has left.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.ports import free_port

SCRAPE_S = 1.0
READY_WITHIN_S = 30.0

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: hisbridge-parent
    static_configs: [{{targets: ["{admin}"]}}]
  - job_name: hisbridge
    http_sd_configs: [{{url: "http://{admin}/sd", refresh_interval: 1s}}]
"""


def find_prometheus() -> str | None:
    """Where it is installed."""
    return shutil.which("prometheus")


@contextmanager
def run_prometheus(program: str, folder: Path, admin_url: str) -> Iterator[str]:
    """Scrape the service behind an admin listener; yields Prometheus's own URL once it is ready."""
    config = CONFIG.format(admin=admin_url.removeprefix("http://"))
    with _running(program, folder, folder / "prometheus", config) as url:
        yield url


@contextmanager
def open_prometheus(program: str, folder: Path, data: Path) -> Iterator[str]:
    """Scrape nothing, and answer from what another Prometheus left in `data`; its own files go to `folder`."""
    with _running(program, folder, data, "scrape_configs: []\n") as url:
        yield url


@contextmanager
def _running(program: str, folder: Path, data: Path, settings: str) -> Iterator[str]:
    config = folder / "prometheus.yml"
    config.write_text(settings, encoding="utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    log = folder / "prometheus.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=stream,
            stderr=stream,
        )
    try:
        _wait_until_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(log.read_text(errors="replace"))


def names(url: str) -> set[str]:
    """The names of everything that it has ever scraped."""
    with urllib.request.urlopen(f"{url}/api/v1/label/__name__/values", timeout=10) as response:
        return set(json.load(response)["data"])
