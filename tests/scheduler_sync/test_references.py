"""What a message is found by."""

from __future__ import annotations

from mappings.canonical import PatientMerged
from scheduler_sync.messages.references import references_of


def test_message_is_found_by_the_first_patients_when_it_names_thousands() -> None:
    merged = [PatientMerged(surviving_mrn=f"S{n}", retired_mrn=f"R{n}") for n in range(3000)]
    named = references_of([merged[0], *merged])
    assert named.mrns == tuple(f"{kind}{n}" for n in range(50) for kind in "SR")
