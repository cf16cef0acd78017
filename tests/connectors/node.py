"""Programs of a folder `npm`, run by node with the packages of its lock file; they obey JSON lines (lines.mjs)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LINES = Path(__file__).parent / "lines.mjs"
END_S = 10.0


def install(programs: Path) -> Path:
    """A folder with the packages and the programs of `programs`: made once for a lock file, in the virtual environment.

    Raises AssertionError without node and npm: .ci/run installs them.
    """
    for tool in ("node", "npm"):
        assert shutil.which(tool) is not None, f"{tool} is not installed (Debian: nodejs, npm)"
    digest = hashlib.sha256((programs / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = Path(sys.prefix) / f"{programs.parent.name}-peers-{digest}"
    if not folder.exists():
        _fill(programs, folder)
    for program in (LINES, *programs.glob("*.mjs")):
        shutil.copyfile(program, folder / program.name)
    return folder


def _fill(programs: Path, folder: Path) -> None:
    """All at once, so that an interrupted run leaves nothing half made."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(programs / name, Path(made) / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"npm ci: {done.stderr}"
        try:
            shutil.copytree(made, folder.with_suffix(f".{os.getpid()}"))
            folder.with_suffix(f".{os.getpid()}").rename(folder)
        except OSError:  # another run was quicker
            assert folder.exists()


class Program:
    """One running program. Its calls block: use them in a thread."""

    def __init__(self, folder: Path, name: str) -> None:
        self._process = subprocess.Popen(
            ["node", str(folder / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def call(self, op: str, **given: Any) -> Any:
        """What the program answers. Raises ConnectionError with what went wrong there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the program ended: {self._process.wait(END_S)}"
        said = json.loads(line)
        if "error" in said:
            raise ConnectionError(said["error"])
        return said["value"]

    def end(self) -> None:
        """End it with its input."""
        self._process.communicate(timeout=END_S)
