"""Runs all tests, as `make test` does: in lanes side by side, then what compares speeds, alone.

Most tests wait for a process, a clock or a disk, so that two cores have room for three of them. Of the first lane every line is
shown as it comes; what the others said is shown when all have ended, with how long each took: they should take about the same.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LANES = (
    ("tests/acceptance",),
    ("tests/connectors", "tests/cli_profiles", "tests/scheduler_sync"),
)
"""Beside the first one, which has all that is named nowhere here."""
ALONE = ("tests/loadtest", "tests/mappings/test_courtesy.py")
PYTEST = (sys.executable, "-m", "pytest")


def main() -> int:
    """Returns 0 when every test has passed."""
    elsewhere = (*(place for lane in LANES for place in lane), *ALONE)
    with ThreadPoolExecutor(len(LANES)) as threads:
        beside = [threads.submit(_run, lane, shown=False) for lane in LANES]
        codes = [_run(("tests", *(f"--ignore={place}" for place in elsewhere)))[0]]
    for lane in beside:
        code, said = lane.result()
        codes.append(code)
        sys.stdout.buffer.write(said)
        sys.stdout.flush()
    codes.append(_run(ALONE)[0])
    return 1 if any(codes) else 0


def _run(places: tuple[str, ...], *, shown: bool = True) -> tuple[int, bytes]:
    """The exit code of pytest, and what it said where that is not shown."""
    began = time.monotonic()
    stdout, stderr = (None, None) if shown else (subprocess.PIPE, subprocess.STDOUT)
    ended = subprocess.run([*PYTEST, *places], check=False, stdout=stdout, stderr=stderr)
    took = f"{' '.join(places[:2])} ...: {time.monotonic() - began:.0f} s\n"
    if shown:
        sys.stdout.write(took)
        sys.stdout.flush()
    return ended.returncode, (ended.stdout or b"") + (b"" if shown else took.encode())


if __name__ == "__main__":
    sys.exit(main())
