"""Bringing a database to the program's schema: all of it or nothing, and no work when it is there."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from booking.ledger import balances, imbalances
from booking.store.migrate import SCRIPTS, migrate, newest_revision
from scheduler_sync.messages.store import SCRIPTS as MESSAGE_SCRIPTS
from scheduler_sync.messages.store import VERSION_TABLE
from tests.stores import opened

TWO_STEPS = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("first", sa.Column("id", sa.Integer(), primary_key=True))
    op.execute("{second}")
"""


def scripts_of(folder: Path, second: str) -> Path:
    """One revision of two statements, the second as given."""
    (folder / "versions").mkdir(parents=True)
    shutil.copy(SCRIPTS / "env.py", folder)
    (folder / "versions" / "0001_initial.py").write_text(TWO_STEPS.format(second=second), encoding="utf-8")
    return folder


def tables_of(file: Path) -> set[str]:
    connection = sqlite3.connect(file)
    try:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    finally:
        connection.close()


@pytest.mark.parametrize("scripts", [SCRIPTS, MESSAGE_SCRIPTS], ids=["store", "messages"])
def test_newest_revision_is_alembics_head_when_it_is_read_from_the_files(scripts: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts))
    assert newest_revision(scripts) == ScriptDirectory.from_config(config).get_current_head()


async def test_nothing_stays_when_a_statement_of_a_migration_fails(tmp_path: Path) -> None:
    """A start that ends half-way, for whatever reason, must not keep the next one from its work."""
    file = tmp_path / "store.db"
    with pytest.raises(OperationalError):
        await migrate(f"sqlite:///{file}", scripts_of(tmp_path / "bad", "insert into nowhere values (1)"))
    assert tables_of(file) == set()
    await migrate(f"sqlite:///{file}", scripts_of(tmp_path / "good", "insert into first values (1)"))
    assert tables_of(file) == {"first", "alembic_version"}


async def test_documents_count_in_the_totals_when_they_were_kept_before_the_upgrade(tmp_path: Path) -> None:
    file = tmp_path / "messages.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MESSAGE_SCRIPTS))
        config.attributes["connection"] = connection
        config.attributes["version_table"] = VERSION_TABLE
        command.upgrade(config, "m0005")
        connection.exec_driver_sql(
            "insert into documents (hospital_id, id, size_bytes, complete, kept_ms)"
            " values ('h1', 'a', 70000, 1, 1), ('h1', 'b', 5000000000, 0, 2), ('h2', 'a', 1, 1, 1)"
        )
    engine.dispose()
    await migrate(f"sqlite:///{file}", MESSAGE_SCRIPTS, version_table=VERSION_TABLE)
    reader = sqlite3.connect(file)
    try:
        counted = reader.execute("select hospital_id, kind, count, bytes from message_totals order by 1").fetchall()
        assert counted == [("h1", "documents", 2, 5_000_070_000), ("h2", "documents", 1, 1)]
    finally:
        reader.close()


async def test_command_of_an_older_program_stays_and_has_no_trace_when_the_database_is_upgraded(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        config.attributes["version_table"] = "alembic_version"
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "insert into outbox (hospital_id, id, line, verb, subject_id, rank, status, due_ms, created_ms, updated_ms)"
            " values ('h1', 'c1', 'booking:b1', 'lock_slot', 'b1', 3, 'queued', 1, 1, 1)"
        )
    engine.dispose()
    await migrate(f"sqlite:///{file}", SCRIPTS)
    reader = sqlite3.connect(file)
    try:
        assert reader.execute("select id, status, trace from outbox").fetchall() == [("c1", "queued", None)]
    finally:
        reader.close()


async def test_ledger_has_what_was_recorded_before_the_upgrade(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        config.attributes["version_table"] = "alembic_version"
        command.upgrade(config, "0005")
        for trade_no, kept, settlement in (("T1", 1, "settled"), ("T2", 0, "none"), ("T3", 1, "pending")):
            connection.exec_driver_sql(
                "insert into payments (hospital_id, channel, trade_no, client_id, bill_id, amount_fen, paid_at_ms, kept,"
                " settlement, created_ms) values ('h1', 'wechat', ?, 'c', ?, 500, 1, ?, ?, 1)",
                (trade_no, trade_no, kept, settlement),
            )
        for trade_no, status in (("T1", "refund_due"), ("T2", "refunded")):
            connection.exec_driver_sql(
                "insert into refunds (hospital_id, id, channel, trade_no, client_id, bill_id, amount_fen, status, reason,"
                " created_ms, updated_ms) values ('h1', ?, 'wechat', ?, 'c', 'b', 500, ?, 'r', 2, 3)",
                (f"rf_{trade_no}", trade_no, status),
            )
    engine.dispose()
    await migrate(f"sqlite:///{file}", SCRIPTS)
    async with opened(f"sqlite:///{file}") as store:
        assert [one async for one in imbalances(store, "h1")] == []
        async with store.read("h1") as tx:
            held = {one.account: one.amount_fen for one in await balances(tx)}
    assert held == {"merchant_clearing": 1000, "receipts": 500, "his_settlement": 0, "refunds_payable": 500}
