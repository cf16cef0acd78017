"""A throw-away PostgreSQL for the tests, started from the binaries of this machine and gone with the run.

It listens on a socket in its own temporary folder only, keeps nothing safe (fsync off), and is ended by its own process id.
Run by root it runs as another user, because PostgreSQL refuses to be root.
"""

from __future__ import annotations

import itertools
import os
import pwd
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

START_TIMEOUT_S = 30.0
_UNPRIVILEGED = ("postgres", "nobody")
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


class PostgresUnavailable(Exception):
    """No usable PostgreSQL binaries here; the text says what is missing."""


@dataclass
class PostgresServer:
    """A running server. `url(database)` is what the store takes; `create_database` makes an empty one in milliseconds."""

    binaries: Path
    port: int
    user: str
    _numbers: Iterator[int]

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def create_database(self, *, template: str = "template0") -> str:
        """Create a database as a copy of `template` and return its name. Nobody may be connected to the template."""
        name = f"test_{next(self._numbers)}"
        self.run_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}" ENCODING \'UTF8\'')
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, connections or not."""
        self.run_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def run_sql(self, sql: str, *, database: str = "postgres") -> str:
        """Run one statement with psql; returns its output. Raises CalledProcessError."""
        command = [self.binaries / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        command += ["-p", str(self.port), "-U", self.user, "-d", database, "-c", sql]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """Start a server and end it. Raises PostgresUnavailable."""
    binaries = find_binaries()
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="hisbridge-pg-", dir="/tmp"))
    try:
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        identity: dict[str, object] = (
            {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        )
        data = folder / "data"
        _initialise(binaries, data, identity)
        port = free_port()
        process = _start(binaries, data, folder, port, identity)
        try:
            server = PostgresServer(binaries, port, "postgres", itertools.count(1))
            _wait_until_ready(server, process, folder / "log")
            yield server
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_binaries() -> Path:
    """The folder of initdb, postgres and psql: from PATH, else the newest of Debian's."""
    candidates = []
    found = shutil.which("initdb")
    if found is not None:
        candidates.append(Path(found).resolve().parent)
    versions = Path("/usr/lib/postgresql")
    if versions.is_dir():
        numbered = [entry for entry in versions.iterdir() if entry.name.isdigit()]
        candidates += [entry / "bin" for entry in sorted(numbered, key=lambda entry: int(entry.name), reverse=True)]
    for folder in candidates:
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql")):
            return folder
    raise PostgresUnavailable("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _account() -> pwd.struct_passwd | None:
    """Whom to run as: ourselves, or somebody harmless when we are root."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailable("run by root, and there is no user postgres or nobody to run the server as")


def _initialise(binaries: Path, data: Path, identity: dict[str, object]) -> None:
    command = [
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
        "-N",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env=_environment(),
        **identity,  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        raise PostgresUnavailable(f"initdb failed: {done.stderr.strip()[-500:]}")


def _start(binaries: Path, data: Path, folder: Path, port: int, identity: dict[str, object]) -> subprocess.Popen[bytes]:
    command = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    for name, value in _SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    with (folder / "log").open("wb") as log:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            **identity,  # type: ignore[call-overload]
        )
    return process


def _environment() -> dict[str, str]:
    """Ours without PG*: a developer's settings must not reach the throw-away server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            server.run_sql("SELECT 1")
        except subprocess.CalledProcessError:
            time.sleep(0.05)
        else:
            return
    raise PostgresUnavailable(f"the server did not start: {log.read_text(errors='replace')[-500:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # fast shutdown: ends its sessions
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # immediate shutdown
        process.wait(timeout=20)
