"""Who looked at patients' data or changed what machines had decided: rows that are only added, each sealed to the one before.

A row's digest is keyed (the digest key) and covers the row and the digest before it: who can write to the database without the
key cannot alter, remove or insert a row unseen. Rows that are cut off at the end are seen only by whoever knows a later number.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import sys

import msgspec
from sqlalchemy import select

from booking.store.engine import Tx
from booking.store.tables import audit

PAGE = 500
BEGINNING = "0" * 64


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One act. `action` is a word of ours, `subject` what it was done to; `actor` as `os_actor` names a person."""

    number: int
    at_ms: int
    actor: str
    action: str
    subject: str
    reason: str


async def append_audit(tx: Tx, *, actor: str, action: str, subject: str, reason: str) -> int:
    """Add a row to the hospital's chain, in a write; returns its number. No value of a patient's may stand in it."""
    last = await tx.first(
        select(audit.c.number, audit.c.digest)
        .where(audit.c.hospital_id == tx.hospital_id)
        .order_by(audit.c.number.desc())
        .limit(1)
    )
    number, before = (1, BEGINNING) if last is None else (int(last["number"]) + 1, str(last["digest"]))
    row = AuditRow(number=number, at_ms=tx.now_ms, actor=actor, action=action, subject=subject, reason=reason)
    digest = _digest(tx, before, row)
    await tx.insert(audit, {"hospital_id": tx.hospital_id, **msgspec.structs.asdict(row), "digest": digest})
    return number


async def read_audit(tx: Tx, *, limit: int = 50) -> list[AuditRow]:
    """The newest rows of the hospital, newest first."""
    rows = await tx.all(
        select(audit).where(audit.c.hospital_id == tx.hospital_id).order_by(audit.c.number.desc()).limit(limit)
    )
    return [msgspec.convert(row, AuditRow) for row in rows]


async def broken_at(tx: Tx) -> int | None:
    """The number of the first row that is not what was written, or is missing; None where the chain holds."""
    expected, before = 1, BEGINNING
    while True:
        rows = await tx.all(
            select(audit)
            .where(audit.c.hospital_id == tx.hospital_id, audit.c.number >= expected)
            .order_by(audit.c.number)
            .limit(PAGE)
        )
        for row in rows:
            kept = msgspec.convert(row, AuditRow)
            if kept.number != expected or row["digest"] != _digest(tx, before, kept):
                return expected
            expected, before = expected + 1, row["digest"]
        if len(rows) < PAGE:
            return None


def os_actor() -> str:
    """Who runs this process, as `user@machine`, with the user behind a sudo.

    By the number of the user, which the system knows: `getpass` believes LOGNAME, in which anybody can write another's name.
    """
    if sys.platform == "win32":
        user = getpass.getuser()
    else:
        import pwd

        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # no name for this number
            user = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER")
    machine = platform.node() or "unknown"
    return f"{user}@{machine}" if behind in (None, "", user) else f"{user} (sudo by {behind})@{machine}"


def _digest(tx: Tx, before: str, row: AuditRow) -> str:
    told = [row.number, row.at_ms, row.actor, row.action, row.subject, row.reason]
    return tx.digest("audit", before + json.dumps(told, ensure_ascii=True, separators=(",", ":")))
