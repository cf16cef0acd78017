"""The patients of a load test: bound to the portal and known to the hospital long before, so straight into the store."""

from __future__ import annotations

import time
from pathlib import Path

from loadtest.bench.fill.layout import LEAST_SLOTS, Layout
from loadtest.bench.fill.rows import Rows
from loadtest.bench.fill.sealing import Sealer
from loadtest.bench.fill.stores import open_database

TABLES = ("persons", "person_mrns", "patients")


async def bind_people(folder: Path, url: str, hospital_id: str, client_id: str, count: int) -> list[str]:
    """So many patients of one hospital and one portal; returns their ids. Their record numbers are M00000000 and on."""
    layout = Layout(
        slots=LEAST_SLOTS, bookings=0, crowd=count, now_ms=time.time_ns() // 1_000_000, hospital_id=hospital_id,
        client_id=client_id,
    )  # fmt: skip
    rows = Rows(layout, Sealer(folder / "data.key", folder / "digest.key", hospital_id)).tables()
    await open_database(url).fill({name: rows[name] for name in TABLES}, hospital_id=hospital_id)
    return [layout.patient_id(number) for number in range(count)]
