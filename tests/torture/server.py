"""A PostgreSQL that keeps its promises (fsync on) and can be killed like a machine that loses its power, and started again."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.ports import free_port
from tests.acceptance.processes import is_running
from tests.postgres import (
    PostgresServer,
    _account,
    _environment,
    _initialise,
    _stop,
    _wait_until_ready,
    find_binaries,
)

END_S = 30.0
_SETTINGS = ("fsync=on", "synchronous_commit=on", "full_page_writes=on", "max_connections=100", "shared_buffers=64MB")


@dataclass
class DurableServer(PostgresServer):
    """A server in a folder of its own. `kill` and `start` as often as a test likes; what was committed stays."""

    folder: Path
    identity: dict[str, object]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on its old port and wait until it answers. Raises PostgresUnavailable."""
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), "-h", "127.0.0.1"]
        command += ["-p", str(self.port), "-k", str(self.folder)]
        for setting in _SETTINGS:
            command += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_environment(), **self.identity
            )  # type: ignore[call-overload]
        _wait_until_ready(self, self.process, self.folder / "log")

    def kill(self) -> None:
        """kill -9 of the postmaster and of every process that it has started."""
        assert self.process is not None
        pid = self.process.pid
        os.kill(pid, signal.SIGSTOP)  # it starts no more of them while they are counted
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for one in (pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self.process.wait(timeout=END_S)
        ends = time.monotonic() + END_S
        while left := [child for child in children if is_running(child)]:
            assert time.monotonic() < ends, f"still running: {left}"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in an orderly way, if it runs."""
        if self.process is not None:
            _stop(self.process)


@contextmanager
def run_durable() -> Iterator[DurableServer]:
    """A durable server, gone with its folder afterwards. Raises PostgresUnavailable."""
    binaries, account = find_binaries(), _account()
    folder = Path(tempfile.mkdtemp(prefix="hisbridge-torture-", dir="/tmp"))
    identity: dict[str, object] = {}
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        _initialise(binaries, folder / "data", identity)
        server = DurableServer(binaries, free_port(), "postgres", itertools.count(1), folder, identity)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
