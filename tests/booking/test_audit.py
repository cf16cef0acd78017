"""The audit: rows are added, and whoever changes one is found out."""

from __future__ import annotations

import os
import sys

import pytest
from sqlalchemy import delete, update

from booking.audit import AuditRow, append_audit, broken_at, os_actor, read_audit
from booking.store.engine import Store
from booking.store.tables import audit
from tests.stores import Wall


async def write_three(store: Store, hospital_id: str = "h1") -> None:
    for n in range(1, 4):
        async with store.write(hospital_id) as tx:
            assert (
                await append_audit(tx, actor="li@pc", action="show_message", subject=f"m{n}", reason="complaint") == n
            )


async def test_rows_are_read_newest_first_when_they_were_added(store: Store, wall: Wall) -> None:
    await write_three(store)
    async with store.read("h1") as tx:
        rows = await read_audit(tx, limit=2)
        assert await broken_at(tx) is None
    newest = AuditRow(
        number=3, at_ms=wall.now_ms, actor="li@pc", action="show_message", subject="m3", reason="complaint"
    )
    assert rows[0] == newest
    assert [row.number for row in rows] == [3, 2]
    async with store.read("h2") as tx:
        assert (await read_audit(tx), await broken_at(tx)) == ([], None)


@pytest.mark.parametrize("column", ["actor", "action", "subject", "reason", "at_ms", "digest"])
async def test_row_is_told_when_somebody_has_changed_it(store: Store, column: str) -> None:
    await write_three(store)
    async with store.write("h1") as tx:
        value = 7 if column == "at_ms" else "other"
        await tx.run(update(audit).where(audit.c.hospital_id == "h1", audit.c.number == 2).values({column: value}))
    async with store.read("h1") as tx:
        assert await broken_at(tx) == 2


async def test_row_is_told_when_somebody_has_removed_one(store: Store) -> None:
    await write_three(store)
    async with store.write("h1") as tx:
        await tx.run(delete(audit).where(audit.c.hospital_id == "h1", audit.c.number == 1))
    async with store.read("h1") as tx:
        assert await broken_at(tx) == 1


async def test_row_is_told_when_it_was_taken_from_another_hospital(store: Store) -> None:
    await write_three(store, "h1")
    async with store.write("h1") as tx:
        await tx.run(update(audit).where(audit.c.number == 1).values(hospital_id="h2"))
    async with store.read("h2") as tx:
        assert await broken_at(tx) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there users have no numbers")
def test_actor_is_who_the_system_knows_when_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    known = pwd.getpwuid(os.getuid()).pw_name
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    monkeypatch.setenv("SUDO_USER", "li")
    assert os_actor().startswith(f"{known} (sudo by li)@")
    monkeypatch.delenv("SUDO_USER")
    assert os_actor().startswith(f"{known}@")
