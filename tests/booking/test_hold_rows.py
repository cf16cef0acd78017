"""What one batch writes on PostgreSQL goes as arrays only where its rows may differ: everything else must be alike in them."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from booking.api.holding import renderer
from booking.inventory.requests import Facts, Granted, HoldRequest, PatientFacts, ScheduleFacts, SlotFacts
from booking.inventory.rows import VARYING, WRITTEN, build
from booking.inventory.statements import POSTGRES_WRITE, array_literal, postgres_values
from booking.settings import ReserveBy
from booking.store.crypto import HospitalVault, Vault
from booking.store.ids import new_id
from tests.booking.world import HOSPITAL, make_hospital

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize("reserve_by", list(ReserveBy))
def test_rows_of_a_batch_differ_only_in_the_columns_that_go_as_arrays(reserve_by: ReserveBy) -> None:
    """Two portals, two slots, linked and unlinked patients, with a fee and without."""
    hospital = make_hospital(reserve_by=reserve_by)
    vault = HospitalVault(Vault({"k1": b"\x01" * 32}, b"d" * 32), HOSPITAL)
    # Nothing of the two slots is alike, so that whatever a column may be made of differs.
    slots = [
        SlotFacts(
            f"sl_{n}",
            ScheduleFacts(f"sc_{n}", f"2031-03-0{n + 4}", f"D{n}", NOW_MS - n, False, 900 + n, 50 + n, n),
            NOW_MS + n,
            False,
            9 + n,
            n,
        )
        for n in range(2)
    ]
    patients = [PatientFacts("pe_1", "linked"), PatientFacts("pe_2", "pending")]
    facts = Facts(NOW_MS, 7, {slot.id: slot for slot in slots}, {}, {}, {})
    requests = [
        HoldRequest(
            client_id=f"portal-{n % 2}",
            user_ref=f"u{n}",
            slot_id=slots[n // 2 % 2].id,
            patient_id=f"p{n}",
            key=f"k{n}",
            digest=f"d{n}",
        )
        for n in range(16)
    ]
    decisions = [
        Granted(n, slots[n // 2 % 2], patients[n // 4 % 2], 1500 if n // 8 else 0) for n in range(len(requests))
    ]
    batch = build(hospital, requests, [new_id() for _ in requests], decisions, facts, vault, renderer(hospital))
    assert batch.granted == len(requests)
    for table, rows in zip(WRITTEN, batch.rows, strict=True):
        differ = {column.name for n, column in enumerate(table.columns) if len({row[n] for row in rows}) > 1}
        assert differ <= VARYING[table.name]
    assert f"${8 + len(postgres_values(batch.rows))}::" in POSTGRES_WRITE
    assert f"${9 + len(postgres_values(batch.rows))}::" not in POSTGRES_WRITE


ODD_TEXTS = [
    "", "NULL", "null", " ", "a,b", "{a}", '"', "\\", '\\"', "'", "it's", "\n\t\r", "\x01\x1f\x7f", "张三", "𠮷", "{}", "$1",
    "\\u0041", "a" * 10_000, "%s",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", ODD_TEXTS),
        ("text", [text for text in ODD_TEXTS if "\\" not in text and text.isprintable()]),
        ("text", [None, "a", None]),
        ("text", []),
        ("bigint", [0, -1, 2**63 - 1, None]),
        ("boolean", [True, False, None]),
    ],
)
async def test_server_reads_the_very_values_when_an_array_goes_as_text(
    postgres_url: str, kind: str, values: list[Any]
) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval(f"select $1::text::{kind}[]", array_literal(values)) == values
    finally:
        await connection.close()
