"""The tests' own tools: the throw-away PostgreSQL, and the rule about skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
ROOT = CONFTEST.parent.parent


async def test_database_is_fresh_when_a_test_asks_for_one(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        await connection.execute("CREATE TABLE left_behind (x int)")
    finally:
        await connection.close()


async def test_database_is_fresh_when_another_test_wrote_before(postgres_url: str) -> None:
    await test_database_is_fresh_when_a_test_asks_for_one(postgres_url)


@pytest.mark.parametrize(
    ("ci", "reason", "code"),
    [("1", "no such tool", 1), ("0", "no such tool", 0), ("1", None, 0)],
)
def test_run_fails_when_a_test_is_skipped_in_ci(tmp_path: Path, ci: str, reason: str | None, code: int) -> None:
    body = "pass" if reason is None else f"pytest.skip({reason!r})"
    (tmp_path / "test_it.py").write_text(f"import pytest\ndef test_it():\n    {body}\ndef test_other():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), str(tmp_path)]
    environment = {**os.environ, "HISBRIDGE_CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("skipped in CI" in done.stdout) == (code == 1)
