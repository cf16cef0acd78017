"""What is said of a run beside its samples: rates in words, phases, faults, the machine."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from loadtest.crowd.plan import Plan
from loadtest.peak.faults import Strokes
from loadtest.peak.profiles import LOOP_MS, HisFault, Profile


def stated(profile: Profile) -> list[str]:
    """The rates and weights of a profile in words, beside the figures that they are scaled from."""
    shape, behaviour = profile.shape, profile.behaviour
    seats = sum(h.doctors * h.seats * 8 for h in profile.hospitals)
    visits = shape.expected(0, min(60.0, profile.ends_s))
    return [
        "Scaled from one tertiary hospital: 1,009 seats a day, 200,000 visits in the release minute, over 20,000 requests "
        "a second at the peak.",
        f"Here {visits:,.0f} visits come in the release minute ({shape.spike_per_s:,.0f}/s at the opening, falling with a "
        f"time constant of {shape.decay_s:g} s), for {seats:,} seats at {len(profile.hospitals)} hospitals: "
        f"{visits / 200_000:.1%} of the visits, and more seats, so that there are enough holds to judge.",
        *_scaled(profile),
        f"A visit is a journey of about five requests: look, look again (every {behaviour.refresh_s[0]:g} to "
        f"{behaviour.refresh_s[1]:g} s until the opening), up to {behaviour.attempts} holds, "
        f"{behaviour.stale_try:.0%} try a seat that is shown as sold out, {behaviour.comes_back:.0%} of those without a seat "
        f"come back; of those with one {behaviour.gives_up:.0%} give up, {behaviour.vanishes:.0%} vanish, the others pay "
        f"when the HIS has locked, and {behaviour.cancels_paid:.0%} of them cancel.",
        f"{behaviour.asks_his:.0%} look at their bills first, which only the HIS knows.",
        "Settings of the hospitals beside the defaults: lock_wait_s 600 instead of 60, since a HIS of 50 locks a second needs "
        "minutes for all seats; his_concurrency as the HIS allows.",
        *(
            f"{h.id} ({h.protocol}): {h.share:.0%} of the visits, {h.doctors * h.seats * 8:,} seats in {h.departments} "
            f"departments, a call takes {h.latency_ms:g} ms (median, lognormal), at most {h.at_once} at once."
            for h in profile.hospitals
        ),
    ]


def _scaled(profile: Profile) -> list[str]:
    if profile.scale == 1.0:
        return []
    return [
        f"That is {profile.scale:.3g} times the arrivals of the profile, which are meant for a machine that takes {LOOP_MS:g} ms "
        "for a million turns of plain Python."
    ]


def phases(plan: Plan, crowd_ended_s: float, ended_s: float) -> list[dict[str, Any]]:
    """The parts of a run, in seconds from its start: quiet, ramp, peak, decay, drain."""
    opens_s = -plan.starts_s
    ramp_s = max(0.0, opens_s + plan.shape.ramp_from_s)
    peak_s = opens_s + min(60.0, plan.ends_s)
    edges = [
        ("quiet", 0.0, ramp_s),
        ("ramp", ramp_s, opens_s),
        ("peak", opens_s, peak_s),
        ("decay", peak_s, opens_s + plan.ends_s),
        ("drain", opens_s + plan.ends_s, max(crowd_ended_s, ended_s)),
    ]
    return [{"name": name, "from_s": begins, "to_s": ends} for name, begins, ends in edges if ends > begins]


def faults(struck: Strokes, started_at: float) -> list[dict[str, Any]]:
    """What was broken when, as it really happened, in seconds from the start."""
    return [
        {
            "at_s": max(0.0, when.at - started_at),
            "until_s": None if when.until is None else when.until - started_at,
            "what": fault.what,
            "hospital": fault.hospital if isinstance(fault, HisFault) else None,
        }
        for fault, when in struck.items()
    ]


LOOP_TURNS = 1_000_000


def loop_ms() -> float:
    """How long this machine takes now for a loop of plain Python, the best of three: the measure between days and machines."""
    return min(_loop_s() for _ in range(3)) * 1000


def _loop_s() -> float:
    began_s, total = time.perf_counter(), 0
    for n in range(LOOP_TURNS):
        total += n * n % 7
    return time.perf_counter() - began_s


def machine() -> dict[str, Any]:
    """Where this is measured, and how quick it is now; to be asked before anything else runs."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "model": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30),
        "kernel": platform.release(),
        "loop_ms": loop_ms(),
    }
