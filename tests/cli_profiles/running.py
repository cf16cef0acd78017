"""`hisbridge profile ...` as hospital IT types it, and what it says."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import cli


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    def line(self, words: str) -> str:
        """The one line that has these words."""
        found = [line for line in self.out.splitlines() if words in line]
        assert len(found) == 1, self.out + self.err
        return found[0]


def profile(*words: str | Path) -> Said:
    """Run the command to its end."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["hisbridge", "profile", *map(str, words)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = before
        gc.enable()
    assert isinstance(code, int)
    return Said(code, out.getvalue(), err.getvalue())


def enveloped(inner: str) -> str:
    """A document as the text of a SOAP answer."""
    escaped = inner.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<OpResponse xmlns="http://tempuri.org"><OpResult>{escaped}</OpResult></OpResponse></s:Body></s:Envelope>'
    )
