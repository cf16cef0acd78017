"""Ids that sort as they should, and are what they call themselves."""

from __future__ import annotations

import uuid

from booking.store.ids import first_id, new_ids_at

NOW_MS = 1_930_000_000_000


def test_id_sorts_by_the_stores_time_then_by_the_commit_then_as_it_was_made() -> None:
    made = [
        i
        for now_ms, seq in ((NOW_MS, 0), (NOW_MS, 7), (NOW_MS, 8), (NOW_MS + 1, 0), (NOW_MS + 1, 9))
        for i in new_ids_at(now_ms, 3, seq=seq)
    ]
    assert made == sorted(made)
    assert len(set(made)) == 15


def test_id_is_a_uuid_of_version_7_over_its_milliseconds() -> None:
    for seq in (0, 2**20 - 1, 2**40):
        (made,) = new_ids_at(NOW_MS, seq=seq)
        told = uuid.UUID(made)
        assert (str(told), told.version, told.variant) == (made, 7, uuid.RFC_4122)
        assert told.int >> 80 == NOW_MS
        assert first_id(NOW_MS) < made < first_id(NOW_MS + 1)
