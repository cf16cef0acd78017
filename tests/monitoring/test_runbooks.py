"""Every alert has a page that can be followed: its parts, commands that exist, queries that run, figures that are told."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
import yaml

from booking.store.migrate import SCRIPTS, migrate
from monitoring.reference import page as reference_page
from tests.docs.test_docs import commands_in, unknown_part
from tests.monitoring.promtool import ROOT, RULE_FILES, alerts_of, groups_of, run
from tests.postgres import PostgresServer

RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = sorted(path for path in RUNBOOKS.glob("*.md") if path.stem != "README")
HEADINGS = ["Meaning", "First look", "Likely causes", "Commands", "How it ends"]

texts = pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)


def told_metrics() -> set[str]:
    """The names under which Prometheus knows every metric: a histogram has three."""
    found = set()
    for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", reference_page(), re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


RECORDED = {rule["record"] for group in groups_of(*RULE_FILES) for rule in group["rules"] if "record" in rule}


def strange_metrics(text: str) -> set[str]:
    """Names of ours in a text that neither the registry nor a rule has."""
    ours = set(re.findall(r"\bhisbridge_[a-z0-9_]+", text)) - told_metrics()
    return ours | (set(re.findall(r"\bslo:[a-z0-9_:]+", text)) - RECORDED)


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    alerts = {rule["alert"] for rule in alerts_of(*RULE_FILES)}
    assert {path.stem for path in PAGES} == alerts
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[(\w+)\]\((\w+)\.md\)", index, re.MULTILINE)) == {(a, a) for a in alerts}


@texts
def test_page_has_its_five_parts_and_none_is_empty(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert all(part.strip() for part in parts)
    assert re.search(r"^- .+: `.+`$", parts[1], re.MULTILINE), "a query to look at first"
    assert len(text.splitlines()) <= 60, "short enough for 07:01"


@texts
def test_page_s_commands_exist(path: Path) -> None:
    for words in commands_in(path.read_text(encoding="utf-8")):
        assert unknown_part(words) is None, words


@texts
def test_page_names_only_what_is_measured(path: Path) -> None:
    assert strange_metrics(path.read_text(encoding="utf-8")) == set()


def test_strange_names_are_found_when_there_are_some() -> None:
    text = "`hisbridge_outbox_depth`, hisbridge_lock_seconds_count, hisbridge_lock_seconds, slo:sli_error:ratio_rate7m"
    assert strange_metrics(text) == {"hisbridge_lock_seconds", "slo:sli_error:ratio_rate7m"}


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda f: f.name)
def test_rules_name_only_what_is_measured(file: Path) -> None:
    named = " ".join(rule["expr"] for group in groups_of(file) for rule in group["rules"])
    assert "hisbridge_" in named
    assert strange_metrics(named) == set()


@texts
def test_page_s_queries_are_promql(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8").split("## First look")[1].split("## Likely causes")[0]
    queries = re.findall(r"^- .+?: `(.+)`$", text, re.MULTILINE)
    rules = {"groups": [{"name": "q", "rules": [{"record": f"q{n}", "expr": q} for n, q in enumerate(queries)]}]}
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump(rules), encoding="utf-8")
    content, told = run("promtool", "check", "rules", file)
    assert content, told


def statements(program: str) -> list[tuple[str, str]]:
    """(page, SQL) of every line that asks the store by this program."""
    found = []
    for path in PAGES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{program} "):
                found.append((path.stem, line.split('"')[1]))
    return found


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.stores import run_apart

    file = tmp_path_factory.mktemp("runbooks") / "hisbridge.db"
    run_apart(migrate(f"sqlite:///{file}", SCRIPTS))
    return file


def test_queries_of_the_store_run_on_sqlite(sqlite_file: Path) -> None:
    asked = statements("sqlite3")
    assert len(asked) >= 7
    connection = sqlite3.connect(f"file:{sqlite_file}?mode=ro", uri=True)
    try:
        for _, sql in asked:
            connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_queries_of_the_store_run_on_postgresql(
    postgres_server: PostgresServer, postgres_originals: dict[str, str]
) -> None:
    asked = statements("psql")
    assert len(asked) >= 7
    for _, sql in asked:
        postgres_server.run_sql(sql, database=postgres_originals["store"])


def test_pages_that_ask_one_engine_of_bookings_ask_the_other_too() -> None:
    own = {"pg_stat_activity", "leases"}  # what SQLite does not have
    sqlite = {page for page, _ in statements("sqlite3")}
    assert {page for page, sql in statements("psql") if not any(name in sql for name in own)} == sqlite


def test_words_that_are_looked_for_in_the_log_are_said_there() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("booking", "connectors", "monitoring", "scheduler_sync", ".")
        for path in (ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py"))
    )
    said = set(re.findall(r'(?:log\.\w+|say|\w*warn)\(\s*"(\w+)"', source))
    for path in PAGES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("journalctl"):
                continue
            for pattern in re.findall(r"grep (?:-\w+ (?:\d+ )?)*'?([\w |]+?)'?(?: \||$)", line):
                for word in pattern.split("|"):
                    if "_" in word.strip():
                        assert word.strip() in said | {"not_open_yet"}, (path.stem, word)
