"""A secret of ours, in a file or in an environment variable; never in the settings, and never shown."""

from __future__ import annotations

import os
from pathlib import Path

MAX_SECRET_BYTES = 10_000


class Secret:
    """Where one secret is. `name` is that of its settings, as in `token` for `token_file` and `token_env`."""

    def __init__(self, name: str, file: str | None, env: str | None) -> None:
        """Raises ValueError where both or neither are given."""
        if (file is None) == (env is None):
            raise ValueError(f"set one of {name}_file and {name}_env")
        self._name, self._file, self._env = name, file, env

    def read(self) -> str:
        """What is there now, without the white space around. Raises ValueError, which says where and nothing of what."""
        if self._env is not None:
            where, text = f"{self._name}_env: the environment", os.environ.get(self._env, "").strip()
            if not text:
                raise ValueError(f"{where} has no {self._env}")
        else:
            where = f"{self._name}_file: {self._file}"
            text = _content(where, Path(self._file or "")).strip()
        if not text or not text.isprintable():
            raise ValueError(f"{where}: empty, or of several lines")
        return text

    def __repr__(self) -> str:
        return f"Secret({self._name})"


def _content(where: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            raise ValueError(f"{where}: larger than {MAX_SECRET_BYTES} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{where}: no UTF-8") from None
