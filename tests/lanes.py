"""Runs all tests, as `make test` does: in two lanes side by side, then what compares speeds, alone.

Most tests wait for a process, a clock or a disk, so that two cores have room for two of them. Of the first lane every line is
shown as it comes; what the second one said is shown when it has ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

APART = ("tests/acceptance", "tests/torture", "tests/cli_profiles")
ALONE = ("tests/loadtest", "tests/mappings/test_courtesy.py")
PYTEST = (sys.executable, "-m", "pytest")


def main() -> int:
    """Returns 0 when every test has passed."""
    rest = [f"--ignore={place}" for place in (*APART, *ALONE)]
    with tempfile.TemporaryFile() as told:
        with subprocess.Popen([*PYTEST, *APART], stdout=told, stderr=subprocess.STDOUT) as apart:
            try:
                codes = [subprocess.call([*PYTEST, "tests", *rest])]
                codes.append(apart.wait())
            finally:
                apart.terminate()  # of no effect where it has ended
        told.seek(0)
        sys.stdout.buffer.write(told.read())
        sys.stdout.flush()
    codes.append(subprocess.call([*PYTEST, *ALONE]))
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
