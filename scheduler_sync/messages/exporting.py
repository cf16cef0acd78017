"""Messages as files that only their owner may read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from booking.store.crypto import SealBroken
from booking.store.engine import Store
from connectors.hl7v2.masking import is_hl7
from scheduler_sync.messages.presenting import Opened, as_text, exported, open_message
from scheduler_sync.messages.search import load_message

OWNER_ONLY, OWNER_ONLY_FOLDER = 0o600, 0o700


async def write_messages(store: Store, to: Path, wanted: Sequence[tuple[dict[str, Any], str]], *, masked: bool) -> int:
    """Write them into one file of NDJSON, or into a folder, one file each; returns how many.

    `wanted`: what is shown of each, and the character set of messages that name none. Unmasked bodies are written byte for
    byte. Raises OSError, of it FileExistsError: nothing is overwritten.
    """
    if to.suffix == ".ndjson":
        with _created(to) as stream:
            return await _write_lines(store, stream, wanted, masked)
    os.makedirs(to, mode=OWNER_ONLY_FOLDER, exist_ok=True)
    count = 0
    for record, charset in wanted:
        opened = await _opened(store, record)
        if opened is None:
            continue
        count += 1
        for kind, data in (("", opened.body), (".answer", opened.reply)):
            if data is not None:
                with _created(to / f"{record['id']}{kind}{_suffix(data)}") as stream:
                    stream.write(as_text(data, charset=charset, masked=True).encode() if masked else data)
    return count


async def _write_lines(
    store: Store, stream: BinaryIO, wanted: Sequence[tuple[dict[str, Any], str]], masked: bool
) -> int:
    count = 0
    for record, charset in wanted:
        opened = await _opened(store, record)
        if opened is not None:
            line = exported(record, opened, charset=charset, masked=masked)
            stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


async def _opened(store: Store, record: dict[str, Any]) -> Opened | None:
    """None where it has gone meanwhile, or its key has."""
    whole = await load_message(store, record["hospital_id"], record["id"])
    if whole is None:
        return None
    try:
        return open_message(store.vault, whole)
    except SealBroken:
        return None


def _created(path: Path) -> BinaryIO:
    """A new file, its owner's alone from its first byte on."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "wb")


def _suffix(data: bytes) -> str:
    if is_hl7(data):
        return ".hl7"
    return {b"<": ".xml", b"{": ".json", b"[": ".json"}.get(data.lstrip()[:1], ".txt")
