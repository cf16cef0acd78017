"""The keys and passwords of an installation, from files or the environment, never from the settings file.

    HISBRIDGE_DATA_KEY        or secrets.data_key_file     encrypts patient data: lines of `<key id>:<base64 of 32 bytes>`;
                                                           the first one seals, all open, so that keys can be rotated
    HISBRIDGE_DIGEST_KEY      or secrets.digest_key_file   keys the search digests: base64 of 32 bytes or more
    HISBRIDGE_STORE_PASSWORD  or store.password_file       the database user's password (PostgreSQL only)
    HISBRIDGE_TRACING_HEADERS or tracing.headers_file      what a collector of traces asks for: lines of `Name: value`

In the environment, several data keys are separated by commas. Nothing here shows a key: not in errors, not in `repr`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from booking.conversion import SettingsError
from booking.settings import Settings

MAX_SECRET_BYTES = 100_000
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1


class Keys:
    """The keys of the store. `data_keys` is in order: the first seals."""

    def __init__(self, data_keys: Mapping[str, bytes], digest_key: bytes) -> None:
        self.data_keys = dict(data_keys)
        self.digest_key = digest_key

    def __repr__(self) -> str:
        return f"Keys(data_keys={list(self.data_keys)})"


def read_keys(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> Keys:
    """The keys that encrypt and search patient data. Raises SettingsError."""
    data = _read("the data key", "HISBRIDGE_DATA_KEY", settings.secrets.data_key_file, environ)
    digest = _read("the digest key", "HISBRIDGE_DIGEST_KEY", settings.secrets.digest_key_file, environ)
    if data is None or digest is None:
        raise SettingsError(
            "secrets: set secrets.data_key_file and secrets.digest_key_file (or HISBRIDGE_DATA_KEY and "
            "HISBRIDGE_DIGEST_KEY); `hisbridge secrets` makes them"
        )
    keys: dict[str, bytes] = {}
    for line in data.replace(",", "\n").split():
        key_id, colon, text = line.partition(":")
        key = _decode(text) if colon else None
        if key is None or len(key) != 32 or not 1 <= len(key_id.encode()) <= 255 or key_id in keys:
            raise SettingsError("the data key: expected lines of <key id>:<base64 of 32 bytes>, each id once")
        keys[key_id] = key
    digest_key = _decode(digest.strip())
    if not keys or digest_key is None or len(digest_key) < 32:
        raise SettingsError("the digest key: expected base64 of at least 32 bytes")
    return Keys(keys, digest_key)


def read_store_password(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> str | None:
    """The database password, or None when none is set (peer authentication, .pgpass, SQLite)."""
    password = _read("the store password", "HISBRIDGE_STORE_PASSWORD", settings.store.password_file, environ)
    return None if password is None else password.rstrip("\r\n")


def read_tracing_headers(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The HTTP fields that go to the collector of traces with every request. Raises SettingsError."""
    text = _read("the headers of traces", "HISBRIDGE_TRACING_HEADERS", settings.tracing.headers_file, environ)
    headers: dict[str, str] = {}
    for line in (text or "").splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not _FIELD_NAME.fullmatch(name.strip()) or not value.isprintable() or not value.isascii():
            raise SettingsError("the headers of traces: expected lines of `Name: value`, in ASCII")
        headers[name.strip()] = value.strip()
    return headers


def new_data_key(key_id: str = "k1") -> str:
    """A line for the data key file."""
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def new_digest_key() -> str:
    """The contents of a digest key file."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _read(what: str, variable: str, file: str | None, environ: Mapping[str, str]) -> str | None:
    if environ.get(variable):
        return environ[variable]
    if file is None:
        return None
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: {what} cannot be read: {error.strerror}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise SettingsError(f"{file}: too large for {what}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: {what} is not text") from None


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
