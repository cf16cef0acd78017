"""How long the disk takes to make a small write durable: what no SQLite commit can be faster than."""

from __future__ import annotations

import os
import time
from pathlib import Path

from loadtest.bench.stats import percentile

PAGE = b"x" * 4096


def fdatasync_ms(folder: Path, *, writes: int = 300) -> tuple[float, float]:
    """p50 and p99, in milliseconds, of appending 4 KB and fdatasync, in this folder."""
    file = folder / "fdatasync.probe"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    took_ms = []
    try:
        for number in range(writes):
            os.pwrite(descriptor, PAGE, number * len(PAGE))
            began = time.perf_counter()
            os.fdatasync(descriptor)
            took_ms.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(descriptor)
        file.unlink()
    return percentile(took_ms, 0.5), percentile(took_ms, 0.99)
