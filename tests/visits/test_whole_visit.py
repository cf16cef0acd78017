"""The whole visit at once: portals, patients, the HIS, the clock and crashes, in whatever order Hypothesis thinks of.

After every step: money in = settled + waiting + refund due + refunded, in the rows and in the ledger; nothing is booked without a
registration at the HIS; the events alone rebuild what the API shows; slots and schedules count what there is; who came first to a
line is served first, and while somebody waits nobody else gets a seat; a report is shown to its patient, when the hospital's rule
says so, once, and on record. When nothing moves any more, the HIS and we agree on visits, seats and money, and a person is asked
only about what the HIS would not do; two days after the visits we know who came.

A few hospitals in `make test`; `make visits` plays a thousand and says what they have come to (`tests.visits.reached`). Seen to
be caught, each put into the product by hand: a lost reply that counts as a refusal, or as done; what a crash has left sent again
without asking; a lock that came too late and is not given back; no refund after a confirmed release; a refund that timed out
called failed; an event left out; a number left out between events; a settlement that is not in the ledger; a quota that follows
the figure of the HIS down; a line that is served from its end; a person who is asked for ever about a booking that is over; a
report that is listed twice after a merge.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.postgres import PostgresServer
from tests.visits.cash import Cash
from tests.visits.hospital import Hospital
from tests.visits.lines import Lines
from tests.visits.machine import Fresh, furnish
from tests.visits.patients import Patients
from tests.visits.process import Process
from tests.visits.reached import REACHED
from tests.visits.results import Results
from tests.visits.wanted import WANTED

# `make visits` asks for more: VISITS is how many examples, each of at most STEPS steps.
EXAMPLES, STEPS = int(os.environ.get("VISITS", "11")), int(os.environ.get("STEPS", "30"))
MEMORY = Path("/dev/shm")  # a disk that forgets: a crash here is one of the process, not of the machine


class WholeVisit(Patients, Lines, Process, Hospital, Cash, Results):
    """Everything at once."""


@contextmanager
def on_sqlite(folder: Path) -> Iterator[tuple[str, str]]:
    """Copies of the two databases of a folder."""
    to = Path(tempfile.mkdtemp(prefix="visits", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        store, messages = (f"sqlite:///{shutil.copy(folder / name, to / name)}" for name in ("store.db", "messages.db"))
        yield store, messages
    finally:
        shutil.rmtree(to)


@contextmanager
def on_postgresql(server: PostgresServer, names: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Databases made from two others."""
    made = [server.create_database(template=name) for name in names]
    try:
        yield server.url(made[0]), server.url(made[1])
    finally:
        for name in made:
            server.drop_database(name)


def play(urls: tuple[str, str], fresh: Fresh, examples: int) -> None:
    """So many hospitals, each in databases like those that are furnished at `urls`; says what they have come to."""
    WholeVisit.furnished, WholeVisit.fresh = furnish(urls), staticmethod(fresh)
    REACHED.begin()
    run_state_machine_as_test(
        WholeVisit,
        settings=settings(suppress_health_check=list(HealthCheck), stateful_step_count=STEPS, max_examples=examples),
    )
    never = ", ".join(REACHED.missing(WANTED)) or "nothing"
    sys.stdout.write(f"\n{REACHED.table()}\nnever reached: {never}\n")


@pytest.mark.usefixtures("quiet")
@pytest.mark.timeout(7200)
def test_no_fen_and_no_visit_goes_astray_when_everything_happens(sqlite_originals: Path, tmp_path: Path) -> None:
    store, messages = (
        f"sqlite:///{shutil.copy(sqlite_originals / n, tmp_path / n)}" for n in ("store.db", "messages.db")
    )
    play((store, messages), lambda: on_sqlite(tmp_path), EXAMPLES)


@pytest.mark.usefixtures("quiet")
@pytest.mark.timeout(7200)
def test_none_does_when_the_store_is_postgresql(
    postgres_server: PostgresServer, postgres_originals: dict[str, str]
) -> None:
    names = [postgres_server.create_database(template=postgres_originals[kind]) for kind in ("store", "messages")]
    urls = (postgres_server.url(names[0]), postgres_server.url(names[1]))
    play(urls, lambda: on_postgresql(postgres_server, (names[0], names[1])), max(2, EXAMPLES // 8))
    for name in names:
        postgres_server.drop_database(name)
