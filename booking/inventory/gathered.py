"""Reading what `statements.*_GATHER` returns, whichever engine it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from booking.inventory.decide import KEEP_KEYS_MS
from booking.inventory.requests import Facts, HoldRequest, KeyFacts, LiveFacts, PatientFacts, ScheduleFacts, SlotFacts

Merged = tuple[HoldRequest, str, str | None, str]
"""A request whose person was merged: the request, the person next in the chain, the slot's schedule, the patient's user."""


def read_facts(
    rows: Iterable[Sequence[Any]], requests: Sequence[HoldRequest], now_ms: int, seq: int, room_ms: int
) -> tuple[Facts, list[Merged]]:
    """The facts of a batch, and the requests whose persons must still be followed to a survivor."""
    facts = Facts(now_ms, seq, {}, {}, {}, {}, room_ms=room_ms)
    merged: list[Merged] = []
    schedules: dict[str, ScheduleFacts] = {}
    for (
        n, digest, status, sealed_body, created_ms, person_id, his_state, reject_code, merged_into,
        schedule_id, date, department_id, starts_at_ms, opens_at_ms, slot_status, schedule_status, fee_fen,
        his_left, unreflected, quota, taken, live_id, live_client, user_ref, clinic_type, waiting,
    ) in rows:  # fmt: skip
        request = requests[n]
        if digest is not None:
            if created_ms > now_ms - KEEP_KEYS_MS:
                facts.keys[request.client_id, request.key] = KeyFacts(digest, status, sealed_body)
            else:
                facts.old_keys.append((request.client_id, request.key))
        if schedule_status is not None and request.slot_id not in facts.slots:
            schedule = schedules.get(schedule_id)
            if schedule is None:
                schedule = schedules[schedule_id] = ScheduleFacts(
                    schedule_id, date, department_id, opens_at_ms, schedule_status == "stopped", fee_fen, quota, taken,
                    clinic_type, waiting,
                )  # fmt: skip
            facts.slots[request.slot_id] = SlotFacts(
                request.slot_id, schedule, starts_at_ms, slot_status == "stopped", his_left, unreflected
            )
        if his_state is None:
            continue
        if merged_into is not None:
            merged.append((request, merged_into, schedule_id, user_ref))
            continue
        facts.patients[request.client_id, request.patient_id] = PatientFacts(
            person_id, his_state, reject_code, user_ref
        )
        if live_id is not None:
            facts.live[person_id, schedule_id] = LiveFacts(live_id, live_client)
    return facts, merged
