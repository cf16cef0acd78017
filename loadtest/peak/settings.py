"""The settings file of a load test's installation: the program's defaults but for the lines below, each with its reason."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from loadtest.peak.profiles import HospitalSize, Profile

DAYS_AHEAD = 3
HIS_LOCK_S = 1_800
ZONE_HOUR = (
    7  # o'clock at the hospitals, more or less: far from their midnight, at which the released day would be another
)


@dataclass(frozen=True)
class Ports:
    """Where the program listens and where a hospital's simulator does."""

    api: int
    admin: int
    his: Mapping[str, int]
    inbound: Mapping[str, int]
    wsdl: Mapping[str, str]


# lock_wait_s: a HIS that locks 50 seats a second takes over a minute for a release; patients are shown that it takes so long.
# pay_window_s, his_lock_s: long enough that whoever is slow is not expired by the end of a run.
# his_queue: the outbox keeps what waits; a queue in memory need not hold the crowd.
# horizon_days: what the simulated hospitals have planned.
_HOSPITAL = """
[hospital.{id}]
name = "{id}"
mode = "live"
reserve_by = "{reserve_by}"
time_zone = "{zone}"
lock_wait_s = 600
pay_window_s = 900
his_lock_s = {his_lock_s}
his_concurrency = {at_once}
his_concurrency_floor = 2
horizon_days = {days}
his_settle_s = 5
[hospital.{id}.release]
time = "{opens}"
days_ahead = {days}
sync_before_s = 20
{waiting_room}[hospital.{id}.connector.main]
{connector}
"""
_CONNECTORS = {
    "soap": 'protocol = "soap"\nprofile = "dhc@1"\nwsdl = "{wsdl}"',
    "fhir": 'protocol = "fhir"\nprofile = "fhir_demo@1"\nbase_url = "http://127.0.0.1:{his}/fhir"',
    "hl7": (
        'protocol = "hl7v2"\nprofile = "hl7v2_demo@1"\nhost = "127.0.0.1"\nport = {his}\n'
        'listen_host = "127.0.0.1"\nlisten_port = {inbound}\nconnections = {at_once}'
    ),
}


def zone_of(opens_at: float) -> str:
    """A time zone in which it is about seven in the morning then; tz database names have the sign the other way round."""
    hour = dt.datetime.fromtimestamp(opens_at, dt.UTC).hour
    ahead = (ZONE_HOUR - hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"


def write_settings(
    folder: Path, profile: Profile, ports: Ports, *, urls: tuple[str, str], opens_at: float, zone: str
) -> Path:
    """`hisbridge.toml` in the folder. `zone` is that of all hospitals, see `zone_of`."""
    service = {
        "listen": f"127.0.0.1:{ports.api}",
        "admin_listen": f"127.0.0.1:{ports.admin}",
        "drain_s": 5,
        **({} if profile.engine == "sqlite" else {"workers": profile.workers}),
        **profile.service,
    }
    lines = ["[service]", *(f"{name} = {_toml(value)}" for name, value in service.items())]
    lines += ["[store]", f'url = "{urls[0]}"', f'messages_url = "{urls[1]}"']
    lines += ["[secrets]", 'data_key_file = "data.key"', 'digest_key_file = "digest.key"']
    text = "\n".join(lines) + "".join(_hospital(h, ports, opens_at, zone) for h in profile.hospitals)
    file = folder / "hisbridge.toml"
    file.write_text(text, encoding="utf-8")
    return file


def _hospital(hospital: HospitalSize, ports: Ports, opens_at: float, zone: str) -> str:
    connector = _CONNECTORS[hospital.protocol].format(
        at_once=hospital.at_once,
        his=ports.his[hospital.id],
        inbound=ports.inbound.get(hospital.id, 0),
        wsdl=ports.wsdl.get(hospital.id, ""),
    )
    return _HOSPITAL.format(
        id=hospital.id,
        reserve_by="book" if hospital.protocol == "fhir" else "lock",
        zone=zone,
        at_once=hospital.at_once,
        days=DAYS_AHEAD,
        his_lock_s=HIS_LOCK_S,
        opens=local_time(opens_at, zone).strftime("%H:%M"),
        connector=connector,
        waiting_room=_table(f"hospital.{hospital.id}.waiting_room", hospital.waiting_room),
    )


def local_time(at: float, zone: str) -> dt.datetime:
    """An instant as the hospital's wall clock shows it."""
    return dt.datetime.fromtimestamp(at, ZoneInfo(zone))


def released_day(opens_at: float, zone: str) -> str:
    """The day of the visits that open then."""
    return (local_time(opens_at, zone).date() + dt.timedelta(days=DAYS_AHEAD)).isoformat()


def _table(name: str, values: Mapping[str, object] | None) -> str:
    """A table with its line end; nothing where there is none."""
    if values is None:
        return ""
    return "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""])


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
