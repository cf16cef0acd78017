"""What is played: how large the hospitals are, who comes when, what goes wrong. Rates are stated with how they were scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from loadtest.crowd.plan import Behaviour
from loadtest.crowd.shape import Shape
from loadtest.verdict.facts import FLOOR

SQLITE, POSTGRESQL = "sqlite", "postgresql"
LOOP_MS = 51.0
"""What the machine took for a loop of plain Python when the ceilings were found that the rates are parts of."""

SHORT_FLOOR = 30  # of a class, in a run that is to show that everything works
SHORT_DELAY_S = 0.5
LONG_S = 600.0  # a run that lasts so long has samples enough at any rate


@dataclass(frozen=True)
class HospitalSize:
    """One hospital whose seats are released. `latency_ms` is the median of a call at its HIS, `at_once` its limit of calls."""

    id: str
    protocol: str
    share: float
    doctors: int = 48
    departments: int = 12
    seats: int = 12
    latency_ms: float = 150.0
    at_once: int = 8
    waiting_room: Mapping[str, object] | None = None
    """Settings of its waiting room; None: it has none."""


@dataclass(frozen=True)
class HisFault:
    """A fault of one or (hospital None) all simulated HIS, from and until seconds after the opening; see the switchboard."""

    what: str
    mode: str
    at_s: float
    until_s: float | None = None
    share: float = 1.0
    delay_s: float = 3.0
    op: str = "*"
    hospital: str | None = None


@dataclass(frozen=True)
class ServiceFault:
    """Something is done to our own processes: kill_api, kill_sync, restart_database."""

    what: str
    action: str
    at_s: float


@dataclass(frozen=True)
class FloodRate:
    """A client that floods one hospital."""

    per_s: float
    from_s: float
    to_s: float
    hospital: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One experiment. Seconds are relative to the opening. `judged` are the classes that must reach the objective."""

    name: str
    about: str
    engine: str = SQLITE
    workers: int = 1
    hospitals: tuple[HospitalSize, ...]
    shape: Shape
    starts_s: float = -30.0
    ends_s: float = 200.0
    drain_s: float = 300.0
    people: int = 6_000
    ready_s: float = 50.0
    """What the service and Prometheus may take to be ready, and all seats to be listed: 34 to 37 s on two cores."""
    behaviour: Behaviour = field(default_factory=Behaviour)
    his_faults: tuple[HisFault, ...] = ()
    service_faults: tuple[ServiceFault, ...] = ()
    flood: FloodRate | None = None
    service: Mapping[str, object] = field(default_factory=dict)
    """Settings of `[service]` beside the defaults."""
    judged: tuple[str, ...] = ("read", "status", "sold_out", "hold", "step")
    judges_peak: bool = True
    recovery_s: float | None = None
    floor: int = FLOOR
    """Valid samples below which a class has no percentage."""
    scale: float = 1.0
    """So many times the arrivals of the profile as it is listed."""

    def for_machine(self, loop_ms: float) -> Profile:
        """The same for a machine as quick as that: on one that is slower than ours was, fewer come, for as much longer.

        `loop_ms`: see `loadtest.peak.told.loop_ms`. A rate is a part of a ceiling, and a ceiling is a machine's.
        """
        factor = min(1.0, LOOP_MS / loop_ms)
        flood = self.flood and replace(self.flood, per_s=self.flood.per_s * factor)
        ends_s = self.ends_s / factor if self.ends_s < LONG_S else self.ends_s
        return replace(self.scaled(factor), ends_s=ends_s, flood=flood)

    def scaled(self, factor: float) -> Profile:
        """The same with so many times the arrivals."""
        s = self.shape
        return replace(
            self,
            scale=self.scale * factor,
            shape=Shape(
                quiet_per_s=s.quiet_per_s * factor,
                ramp_from_s=s.ramp_from_s,
                ramp_per_s=s.ramp_per_s * factor,
                spike_per_s=s.spike_per_s * factor,
                after_per_s=s.after_per_s * factor,
                decay_s=s.decay_s,
            ),
        )


HOSPITALS = (
    HospitalSize("soap-release", "soap", 0.5),
    HospitalSize("hl7-release", "hl7", 0.4),
    # A small one: FHIR has a resource for each seat, and all of them are read again and again.
    HospitalSize("fhir-release", "fhir", 0.1, doctors=12, departments=3, seats=9),
)
# At 70 % of the ceiling of two cores and more (docs/benchmarks.md).
PEAK = Shape(quiet_per_s=20, ramp_from_s=-20, ramp_per_s=100, spike_per_s=430, after_per_s=85, decay_s=25)
# Where the database or a flood takes a part of the two cores: 72 % of the ceiling with PostgreSQL.
LOWER = Shape(quiet_per_s=10, ramp_from_s=-20, ramp_per_s=50, spike_per_s=190, after_per_s=70, decay_s=25)
# What is locked late is paid for late. With a HIS in trouble the last seats are locked after the 240 s for which others wait.
PATIENT = Behaviour(patience_s=420.0)
LOWER_JUDGED = ("read", "status", "hold", "step")  # too few are told that all is sold out
_BASE = Profile(name="release-peak", about="The release, and nothing goes wrong.", hospitals=HOSPITALS, shape=PEAK)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _BASE,
        replace(
            _BASE,
            name="slow-his",
            about="Every HIS takes 2 s for a call, and 5 % of the calls fail.",
            # As many at once as it takes to do at 2 s a call what the others do at 0.15 s: slow, not small.
            hospitals=tuple(replace(h, at_once=120) for h in HOSPITALS),
            his_faults=(
                HisFault("5 % of the calls fail", "fault", -60.0, share=0.05),
                HisFault("every call takes 2 s more", "slow", -60.0, delay_s=2.0),
            ),
            behaviour=PATIENT,
            # Whoever waits for 2 s asks again and again meanwhile: of five whole runs at 400 to 430/s one failed.
            shape=msgspec.structs.replace(PEAK, spike_per_s=305, decay_s=40),
        ),
        replace(
            _BASE,
            name="his-outage",
            about="10 s after the opening the SOAP and the FHIR hospital are down for 60 s and refuse connections; the HL7 "
            "hospital accepts them for as long and never answers.",
            his_faults=(
                HisFault("soap-release down", "down", 10.0, 70.0, hospital="soap-release"),
                HisFault("fhir-release down", "down", 10.0, 70.0, hospital="fhir-release"),
                HisFault("hl7-release hangs", "hang", 10.0, 70.0, hospital="hl7-release"),
            ),
            behaviour=PATIENT,
        ),
        replace(
            _BASE,
            name="reply-lost",
            about="One in ten calls is carried out and its reply lost.",
            his_faults=(HisFault("10 % of the replies are lost", "lose_reply", 0.0, share=0.1),),
            behaviour=PATIENT,
        ),
        replace(
            _BASE,
            name="worker-killed",
            about="An API process is killed (SIGKILL) 3 s after the opening, the sync process 10 s after it.",
            engine=POSTGRESQL,
            workers=2,
            service_faults=(
                ServiceFault("an API process is killed", "kill_api", 3.0),
                ServiceFault("the sync process is killed", "kill_sync", 10.0),
            ),
            shape=LOWER,
            judged=LOWER_JUDGED,
        ),
        replace(
            _BASE,
            name="database-restart",
            about="PostgreSQL is restarted at once (immediate) 10 s after the opening.",
            engine=POSTGRESQL,
            workers=2,
            service_faults=(ServiceFault("PostgreSQL restarts", "restart_database", 10.0),),
            judged=("read",),
            judges_peak=False,
            recovery_s=10.0,
            shape=LOWER,
        ),
        replace(
            _BASE,
            name="scalper",
            about="One client floods the service from 5 s before the opening on.",
            flood=FloodRate(2_000, -5.0, 60.0, "soap-release"),
            service={
                # What the portal needs at its peak; the flood is twice that.
                "client_rate_per_s": 1_000.0,
                "client_burst": 2_000,
                "identity_rate_per_s": 1.0,
                "identity_burst": 20,
            },
            shape=LOWER,
            judged=LOWER_JUDGED,
        ),
        replace(
            _BASE,
            name="waiting-room",
            about="The largest hospital has a waiting room, which opens before the release.",
            hospitals=(replace(HOSPITALS[0], waiting_room={"opens_before_s": 25}), *HOSPITALS[1:]),
            # Those who wait ask where they stand, beside all who wait for their lock: at 420 and 430/s the process was busy for
            # 95 % of its core for over a minute, and of four whole runs two failed. 39,000 of 45,000 visits are left.
            shape=msgspec.structs.replace(PEAK, spike_per_s=305, decay_s=127),
            judged=("read", "status", "sold_out", "hold", "join", "step"),
        ),
        replace(
            _BASE,
            name="soak",
            about="Half an hour of steady arrivals after the opening.",
            ends_s=1_800.0,
            shape=Shape(quiet_per_s=20, ramp_from_s=-20, ramp_per_s=60, spike_per_s=150, after_per_s=60, decay_s=60),
        ),
    )
}


def short(profile: Profile) -> Profile:
    """The same in little, for tests: fewer seats and people, a tenth of the time."""
    hospitals = tuple(
        replace(
            h, doctors=6, departments=3, seats=2, latency_ms=20.0, waiting_room=h.waiting_room and {"opens_before_s": 5}
        )
        for h in profile.hospitals
    )
    flood = profile.flood and replace(profile.flood, per_s=150.0, from_s=-2.0, to_s=6.0)
    service = dict(profile.service)
    if flood is not None:
        service.update(client_rate_per_s=100.0, client_burst=150)
    return replace(
        profile,
        hospitals=hospitals,
        shape=Shape(quiet_per_s=4, ramp_from_s=-4, ramp_per_s=10, spike_per_s=40, after_per_s=6, decay_s=4),
        floor=SHORT_FLOOR,
        starts_s=-6.0,
        ends_s=12.0,
        drain_s=60.0,
        people=300,
        ready_s=40.0,  # tests play three of them at once
        behaviour=Behaviour(think_s=(0.2, 0.6), refresh_s=(0.8, 1.5), back_after_s=(2, 4), poll_s=(0.5, 1.0)),
        his_faults=tuple(
            replace(
                f,
                what=f.what.replace(f"{f.delay_s:g} s", f"{SHORT_DELAY_S:g} s"),
                at_s=f.at_s if f.at_s < 0 else f.at_s / 10,
                until_s=f.until_s and f.until_s / 10,
                delay_s=SHORT_DELAY_S,
            )
            for f in profile.his_faults
        ),
        service_faults=tuple(replace(f, at_s=f.at_s / 5) for f in profile.service_faults),
        flood=flood,
        service=service,
    )
