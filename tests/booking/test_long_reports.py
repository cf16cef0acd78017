"""A report of thousands of results is sealed and opened beside the event loop."""

from __future__ import annotations

import threading

import pytest

from booking.reporting import LONG_BYTES, load_report, put_report
from booking.store.engine import Store, Tx
from mappings.canonical import Observation, Report, ReportKind, ReportStatus
from tests.booking.world import HOSPITAL

SHORT, LONG = 1, LONG_BYTES // 20


def report(count: int, value: str) -> Report:
    found = tuple(Observation(name=f"K{n}", value=value) for n in range(count))
    return Report(id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1", observations=found)


@pytest.mark.parametrize(("count", "on_loop"), [(SHORT, True), (LONG, False)])
async def test_report_is_sealed_and_opened_beside_the_event_loop_when_it_is_long(
    store: Store, monkeypatch: pytest.MonkeyPatch, count: int, on_loop: bool
) -> None:
    threads: list[int] = []
    seal, unseal = Tx.seal, Tx.unseal

    def sealed(self: Tx, plain: bytes, table: str, column: str) -> bytes:
        threads.append(threading.get_ident())
        return seal(self, plain, table, column)

    def unsealed(self: Tx, data: bytes, table: str, column: str) -> bytes:
        threads.append(threading.get_ident())
        return unseal(self, data, table, column)

    monkeypatch.setattr(Tx, "seal", sealed)
    monkeypatch.setattr(Tx, "unseal", unsealed)
    for value in ("1", "2", "2"):
        async with store.write(HOSPITAL) as tx:
            row = await put_report(tx, report(count, value))
    async with store.read(HOSPITAL) as tx:
        known = await load_report(tx, row.id)
    assert known is not None
    assert (known.version, known.record) == (2, report(count, "2"))
    assert len(threads) == 5  # sealed twice, opened for each word after the first, and for the look
    assert {one == threading.get_ident() for one in threads} == {on_loop}
