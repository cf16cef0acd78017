"""WSDLs that were read, kept on disk: a HIS whose web server is down, or slow at the start of the day, is called all the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

KEPT = ".wsdl"


def folder() -> Path:
    """Where: systemd's cache directory, else that of the user (XDG Base Directory Specification)."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "hisbridge"


def file_of(hospital_id: str, connector: str, source: str) -> Path:
    """The file of one connector's WSDL; another address has another."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    return folder() / f"{hospital_id}-{connector}-{digest}{KEPT}"


def keep(file: Path, data: bytes) -> str | None:
    """Keep a WSDL, unless it is kept already; why not, where that fails: nothing depends on it."""
    try:
        if read(file) == data:
            return None
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        new.write_bytes(data)
        new.replace(file)  # whoever reads meanwhile sees the old one or the new one
    except OSError as error:
        return f"{file}: {error.strerror or type(error).__name__}"
    return None


def read(file: Path) -> bytes | None:
    """What is kept; None where nothing is."""
    try:
        return file.read_bytes()
    except OSError:
        return None
