"""Before the crowd: everything that it must know, as the API tells it to any portal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from loadtest.bench.processes import ProcessFailed
from loadtest.crowd.plan import Flood, Plan, Target
from loadtest.peak.profiles import Profile
from loadtest.peak.settings import released_day
from loadtest.peak.stage import PORTAL, SCALPER, Stage

LISTED_WITHIN_S = 60.0
SCALPER_PATIENTS = 20
CROWD_STARTS_S = 2.0  # what the crowd's process takes to begin
MOST_LATE_S = 1.0


async def make_plan(stage: Stage) -> Plan:
    """Everything that the crowd must know, as the API tells it to any portal."""
    profile, day = stage.profile, released_day(stage.opens_at, stage.zone)
    targets = []
    for hospital in profile.hospitals:
        departments = await _listed(stage, hospital.id, day, hospital.doctors * 8)
        targets.append(
            Target(
                id=hospital.id,
                share=hospital.share,
                day=day,
                departments=tuple(departments),
                patients=tuple(stage.patients[hospital.id]),
            )
        )
    latest = profile.ends_s + profile.behaviour.patience_s + 30
    return Plan(
        port=stage.ports.api,
        key=stage.keys[PORTAL],
        targets=tuple(targets),
        opens_at=stage.opens_at,
        starts_s=starts_of(profile, stage.opens_at, time.time()),
        ends_s=profile.ends_s,
        give_up_s=min(latest, profile.ends_s + profile.drain_s),
        shape=profile.shape,
        behaviour=profile.behaviour,
        flood=await _flood(stage),
    )


def starts_of(profile: Profile, opens_at: float, now: float) -> float:
    """When the crowd begins, relative to the opening. Raises ProcessFailed where that is later than the profile says.

    The opening cannot be moved any more: it stands in the settings of a service that runs. And without its quiet phase, its
    ramp or its opening a run would be another one than that which it is judged as.
    """
    earliest_s = now + CROWD_STARTS_S - opens_at
    if earliest_s > profile.starts_s + MOST_LATE_S:
        raise ProcessFailed(
            f"the stage was ready {earliest_s - profile.starts_s:.0f} s too late for a crowd that comes "
            f"{-profile.starts_s:g} s before the opening: {profile.ready_s:g} s are set aside for it (ready_s of the profile); "
            "is something else running on this machine?"
        )
    return max(profile.starts_s, earliest_s)


async def _listed(stage: Stage, hospital_id: str, day: str, slots: int) -> list[str]:
    """Wait until all of the released slots are listed as not released; the departments that have them."""
    ends = time.monotonic() + LISTED_WITHIN_S
    seen: list[dict[str, Any]] = []
    while time.monotonic() < ends:
        departments = await _items(stage, hospital_id, "/departments", {})
        lists = [
            await _items(stage, hospital_id, "/slots", {"department_id": d["id"], "from": day, "to": day, "limit": 200})
            for d in departments
        ]
        seen = [slot for one in lists for slot in one]
        if len(seen) == slots:
            return [d["id"] for d, one in zip(departments, lists, strict=True) if one]
        await asyncio.sleep(0.5)
    raise ProcessFailed(f"{hospital_id} lists {len(seen)} of {slots} slots on {day}; see the service's log")


async def _items(stage: Stage, hospital_id: str, path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    async with stage.session.get(stage.of(hospital_id, path), params=query, headers=stage.key()) as response:
        if response.status != 200:
            return []
        return list((await response.json())["items"])


async def _flood(stage: Stage) -> Flood | None:
    """The scalper's share of the plan: a key and patients of its own."""
    told = stage.profile.flood
    if told is None:
        return None
    patients = []
    for number in range(SCALPER_PATIENTS):
        body = {
            "user_ref": f"scalper-{number}", "name": f"黄牛{number}", "id_type": "passport",
            "id_number": f"E9{number:07d}", "phone": f"137{number:08d}",
        }  # fmt: skip
        headers = {**stage.key(SCALPER), "Idempotency-Key": f"scalper-{number}"}
        async with stage.session.post(stage.of(told.hospital, "/patients"), json=body, headers=headers) as response:
            response.raise_for_status()
            patients.append((await response.json())["id"])
    return Flood(
        key=stage.keys[SCALPER],
        hospital=told.hospital,
        per_s=told.per_s,
        from_s=told.from_s,
        to_s=told.to_s,
        patients=tuple(patients),
    )
