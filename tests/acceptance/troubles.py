"""What can befall the disk or the database under a running installation: full, or read-only; seen from outside.

Without root a full SQLite disk is played by a limit on the size of files (setrlimit(2), RLIMIT_FSIZE): no write gets through.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.installation import ServiceProcess
from tests.postgres import PostgresServer

IS_ROOT = os.geteuid() == 0
DISK_MB = 160
_PIECES_BYTES = (1 << 20, 1 << 12)


class Trouble(ABC):
    """`strike` begins it, `lift` ends it; `total` where no write at all gets through meanwhile."""

    total = True

    @abstractmethod
    def strike(self, process: ServiceProcess) -> None: ...

    @abstractmethod
    def lift(self, process: ServiceProcess) -> None: ...


class FileLimit(Trouble):
    """No file of the process can be written."""

    def strike(self, process: ServiceProcess) -> None:
        self._limit(process, 0)

    def lift(self, process: ServiceProcess) -> None:
        self._limit(process, None)

    def _limit(self, process: ServiceProcess, most_bytes: int | None) -> None:
        _, hard = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (hard if most_bytes is None else most_bytes, hard))


class Immutable(Trouble):
    """The databases' files refuse every write, also through descriptors that are open: the kernel's own flag."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def strike(self, process: ServiceProcess) -> None:
        for file in self._files():
            set_immutable(file, True)

    def lift(self, process: ServiceProcess) -> None:
        for file in self._files():
            set_immutable(file, False)

    def _files(self) -> list[Path]:
        return [file for file in self._folder.glob("*.db*") if not file.name.endswith("-shm")]


class FullDisk(Trouble):
    """The disk has no room left: something else has filled it."""

    total = False  # what fits into pages that exist still gets through

    def __init__(self, disk: Path) -> None:
        self._ballast = disk / "ballast"

    def strike(self, process: ServiceProcess) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for piece in _PIECES_BYTES:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(piece))

    def lift(self, process: ServiceProcess) -> None:
        self._ballast.unlink()


class ReadOnlyServer(Trouble):
    """Every transaction that begins from now on is read-only, as on a standby."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def strike(self, process: ServiceProcess) -> None:
        self._server.run_sql("alter system set default_transaction_read_only = on")
        self._server.run_sql("select pg_reload_conf()")

    def lift(self, process: ServiceProcess) -> None:
        self._server.run_sql("alter system reset default_transaction_read_only")
        self._server.run_sql("select pg_reload_conf()")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of DISK_MB. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def set_immutable(file: Path, on: bool) -> None:
    """chattr(1). Raises CalledProcessError where the file system or our rights do not allow it."""
    subprocess.run(["chattr", "+i" if on else "-i", str(file)], check=True, capture_output=True)


def knows_immutable(folder: Path) -> bool:
    """Whether the flag works here."""
    probe = folder / "immutable"
    probe.touch()
    try:
        set_immutable(probe, True)
        set_immutable(probe, False)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        probe.unlink()
    return True
