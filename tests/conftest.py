"""What every test may use, and the rule that a test may not hide by being skipped where it could have run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import PostgresServer, PostgresUnavailable, run_postgres

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT.parent / "shared" / "corpus"

# In CI everything is installed, so that a skip is a hole in the net. What may still be absent there, by a part of its reason:
ALLOWED_SKIPS = ("corpus is not there",) if not CORPUS.is_dir() else ()

# How long an example takes is a matter of what else the machine does.
settings.register_profile("hisbridge", deadline=None)
settings.register_profile("ci", deadline=None, max_examples=25)  # a short form, as of all that takes long
settings.load_profile("ci" if os.environ.get("HISBRIDGE_CI") else "hisbridge")

_skipped: dict[str, str] = {}


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the program keeps for the next start does not go into the home of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder))
        patched.delenv("CACHE_DIRECTORY", raising=False)
        yield folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A throw-away PostgreSQL for the whole run; skips where there are no binaries."""
    try:
        with run_postgres() as server:
            yield server
    except PostgresUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database for this test, dropped afterwards."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def corpus() -> Path:
    """The folder of real messages beside the repository; skips where it is absent."""
    if not CORPUS.is_dir():
        pytest.skip("the corpus is not there (../shared/corpus)")
    return CORPUS


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember why tests were skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped[report.nodeid] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A whole module that is skipped at import counts too."""
    if report.skipped:
        _skipped[report.nodeid] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under HISBRIDGE_CI=1 a skipped test fails the run."""
    if _holes() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips failed the run."""
    holes = _holes()
    if holes:
        terminalreporter.section("skipped in CI, where everything is installed", red=True)
        for nodeid, reason in sorted(holes.items()):
            terminalreporter.line(f"{nodeid}: {reason}")


def _holes() -> dict[str, str]:
    if os.environ.get("HISBRIDGE_CI") != "1":
        return {}
    return {
        nodeid: reason for nodeid, reason in _skipped.items() if not any(allowed in reason for allowed in ALLOWED_SKIPS)
    }
