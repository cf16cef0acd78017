"""Every profile in little: it can be played, breaks what it says, and the audit finds nothing afterwards."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.bench.processes import output_of
from loadtest.crowd.shape import Shape
from loadtest.peak.profiles import LOOP_MS, PROFILES, short
from loadtest.peak.settings import released_day, zone_of
from loadtest.peak.told import stated

TROUBLES = [name for name in PROFILES if name not in ("release-peak", "soak")]  # these two have none
PLAYED = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every profile in little, three at once: most of a run is waiting for the minute of its opening."""
    folder = tmp_path_factory.mktemp("profiles")

    async def play(name: str, places: asyncio.Semaphore) -> None:
        words = ("-m", "loadtest", "--profile", name, "--short", "--out", str(folder / name))
        async with places:
            await output_of(sys.executable, *words, cores=(), within_s=280, codes=PLAYED)

    async def play_all() -> None:
        places = asyncio.Semaphore(3)
        await asyncio.gather(*(play(name, places) for name in TROUBLES))

    asyncio.run(play_all())
    return {name: folder / name for name in TROUBLES}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TROUBLES)
def test_profile_is_played_and_nothing_is_sold_twice_or_lost(name: str, played: dict[str, Path]) -> None:
    """Its verdict on time is worth nothing here: others run beside it. The audit does not depend on that."""
    folder = played[name]
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["audit"]
    for check in verdict["audit"]:
        assert check["findings"] == [], check
    run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    assert len(run["faults"]) == len(PROFILES[name].his_faults) + len(PROFILES[name].service_faults)
    assert {b["hospital"] for b in _bookings(folder)} == set(run["hospitals"])
    assert (folder / "report.html").stat().st_size > 100_000


def _bookings(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "run" / "bookings.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", PROFILES)
def test_profile_states_its_rates_and_what_they_are_scaled_from(name: str) -> None:
    text = " ".join(stated(PROFILES[name]))
    seats = sum(h.doctors * h.seats * 8 for h in PROFILES[name].hospitals)
    assert "200,000 visits in the release minute" in text
    assert f"{seats:,} seats" in text


@pytest.mark.parametrize("name", PROFILES)
def test_short_form_keeps_every_trouble(name: str) -> None:
    profile, little = PROFILES[name], short(PROFILES[name])
    assert [f.mode for f in little.his_faults] == [f.mode for f in profile.his_faults]
    assert [f.action for f in little.service_faults] == [f.action for f in profile.service_faults]
    assert (little.flood is None) == (profile.flood is None)
    assert little.ends_s < profile.ends_s / 5


def test_scaling_changes_arrivals_and_nothing_else() -> None:
    profile = PROFILES["release-peak"]
    twice = profile.scaled(2)
    assert twice.shape.expected(-30, 60) == pytest.approx(2 * profile.shape.expected(-30, 60))
    assert (twice.hospitals, twice.behaviour, twice.ends_s) == (profile.hospitals, profile.behaviour, profile.ends_s)
    assert isinstance(twice.shape, Shape)


@pytest.mark.parametrize("name", PROFILES)
def test_as_many_come_to_a_slower_machine_and_more_slowly(name: str) -> None:
    profile = PROFILES[name]
    slow = profile.for_machine(1.5 * LOOP_MS)
    assert slow.shape.spike_per_s == pytest.approx(profile.shape.spike_per_s / 1.5)
    assert slow.scale == pytest.approx(1 / 1.5)
    if name != "soak":  # half an hour is half an hour
        come, came = slow.shape.expected(0, slow.ends_s), profile.shape.expected(0, profile.ends_s)
        assert came * 0.8 < come < came * 1.2
    assert (slow.hospitals, slow.his_faults, slow.service_faults) == (
        profile.hospitals, profile.his_faults, profile.service_faults,
    )  # fmt: skip
    assert "0.667 times the arrivals" in " ".join(stated(slow))


@pytest.mark.parametrize("loop_ms", [LOOP_MS, LOOP_MS / 2])
def test_no_more_come_to_a_quicker_machine(loop_ms: float) -> None:
    assert PROFILES["scalper"].for_machine(loop_ms) == PROFILES["scalper"]


@pytest.mark.parametrize("hour", range(24))
def test_release_is_in_the_hospitals_morning_whenever_it_is_played(hour: int) -> None:
    """At midnight of the hospital the released day would be another one than that of the plan."""
    at = 1_800_000_000 // 86_400 * 86_400 + hour * 3600 + 59 * 60
    assert released_day(at, zone_of(at)) == released_day(at + 120, zone_of(at))


@pytest.mark.parametrize(
    "words", [("rounds", "--times", "0"), ("rounds", "--scale", "0"), ("--scale", "nan"), ("ceiling", "--scale", "-1")]
)
def test_numbers_that_play_nothing_are_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert repr(words[-1]) in capsys.readouterr().err


def test_short_profile_says_what_is_played() -> None:
    told = " ".join(fault.what for fault in short(PROFILES["slow-his"]).his_faults)
    assert "0.5 s more" in told
    assert "2 s" not in told
