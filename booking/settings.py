"""The settings file (TOML): its shape, its defaults and its checks. `hisbridge.example.toml` shows and explains each one.

Secrets never stand here: see `booking.secrets`. Units end the names: `_s` seconds, `_ms` milliseconds, `_bytes`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from booking.conversion import SettingsError, Where, convert_options
from booking.merchant_filter import MerchantFilter, filter_problems
from booking.patient_rules import PatientRule
from booking.release import ReleaseRule, rule_problems
from booking.report_links import link_problems
from booking.report_rules import ReportRule
from booking.rules.settings import NO_RULES, BookingRules, booking_rule_problems
from booking.visit_rules import VisitRule
from booking.waiting_room.rules import WaitingRoomRule, room_problems
from booking.webhook_targets import networks_of

__all__ = [
    "AccessLog", "Campus", "Hospital", "Listen", "Mode", "MovedWithoutPlace", "ReserveBy",
    "Secrets", "Service", "Settings", "SettingsError",
    "StoreSettings", "Tracing", "Where", "convert_options", "load_settings", "parse_listen", "read_settings_text",
    "settings_of_text",
]  # fmt: skip

MAX_FILE_BYTES = 1_000_000
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
_HOSPITAL_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_WEB_ADDRESS = re.compile(r"https?://[^\s/@?#]+/[^\s?#]*")
_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?")
_CONNECTOR_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]


class Mode(StrEnum):
    """observe: read only. live: everything. paused: nothing is asked of the HIS, and nothing is sold."""

    OBSERVE = "observe"
    LIVE = "live"
    PAUSED = "paused"


class ReserveBy(StrEnum):
    """How a seat is held at the HIS. lock: lock it, register when paid. book: book it unpaid, cancel on expiry.
    quota: the seats are ours, the HIS is told afterwards.
    """

    LOCK = "lock"
    BOOK = "book"
    QUOTA = "quota"


class MovedWithoutPlace(StrEnum):
    """What becomes of a booking that cannot follow its moved session. attention: a person looks. stop: stopped, and refunded."""

    ATTENTION = "attention"
    STOP = "stop"


class AccessLog(StrEnum):
    """Which requests leave a line in the log. Errors and slow requests always do."""

    ALL = "all"
    CHANGES = "changes"
    ERRORS = "errors"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Listen(msgspec.Struct, frozen=True):
    """An address to listen on; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Service(_Table, frozen=True, kw_only=True):
    """`[service]`: the process and its listeners."""

    listen: Text = "127.0.0.1:8080"
    admin_listen: Text = "127.0.0.1:8081"
    internal_listen: Text = "127.0.0.1:0"
    workers: Annotated[int, Meta(ge=1, le=64)] | None = None
    sync: bool = True
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    access_log: AccessLog = AccessLog.CHANGES
    slow_request_s: Annotated[float, Meta(gt=0, le=600)] = 2.0
    max_body_bytes: Annotated[int, Meta(ge=1_000, le=100_000_000)] = 1_000_000
    body_timeout_s: Seconds = 15
    max_in_flight: Count = 2_000
    max_waiting: Count = 2_000
    step_share: Share = 0.05
    hold_share: Share = 0.2
    live_share: Share = 0.25
    bulk_share: Share = 0.1
    client_share: Share = 0.8
    shed_loop_delay_s: SecondsOrZero = 0.2
    shed_hold_delay_s: SecondsOrZero = 0.5
    shed_after_s: Seconds = 0.5
    hold_queue: Count = 5_000
    hold_deadline_s: Seconds = 5
    client_rate_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    client_burst: Count = 200
    identity_rate_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    identity_burst: Count = 20
    key_cache_s: SecondsOrZero = 10
    drain_s: SecondsOrZero = 20
    backlog: Annotated[int, Meta(ge=1, le=65_535)] = 4_096
    keepalive_s: Seconds = 30
    head_timeout_s: Seconds = 10
    max_connections: Count = 20_000
    snapshot_mb: Annotated[int, Meta(ge=1, le=100_000)] = 64
    public_url: Text | None = None
    webhook_networks: tuple[Text, ...] = ()


class StoreSettings(_Table, frozen=True, kw_only=True):
    """`[store]`: the databases."""

    url: Text = "sqlite:///hisbridge.db"
    messages_url: Text = "sqlite:///hisbridge-messages.db"
    password_file: Text | None = None
    connections: Annotated[int, Meta(ge=2, le=1_000)] = 6
    # Not below 7: a message that comes again within a week is known by the one that is kept.
    keep_messages_days: Annotated[int, Meta(ge=7, le=36_500)] = 180
    keep_messages_mb: Annotated[int, Meta(ge=0, le=100_000_000)] = 10_000
    keep_exchanges: bool = True
    # Logs are kept for six months at the least (Cybersecurity Law, article 21).
    keep_report_reads_days: Annotated[int, Meta(ge=184, le=36_500)] = 365


class Secrets(_Table, frozen=True, kw_only=True):
    """`[secrets]`: where the keys are. The environment wins over the files."""

    data_key_file: Text | None = None
    digest_key_file: Text | None = None


class Tracing(_Table, frozen=True, kw_only=True):
    """`[tracing]`: where the spans of traces go, if anywhere."""

    endpoint: Text | None = None
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01
    service_name: Text = "hisbridge"
    headers_file: Text | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5


class Campus(_Table, frozen=True, kw_only=True):
    """One site of a hospital."""

    id: Text
    name: Text
    address: str | None = None
    phone: Text | None = None
    city: Text | None = None
    state: Text | None = None
    postal_code: Text | None = None


class Hospital(_Table, frozen=True, kw_only=True):
    """`[hospital.<id>]`: one hospital, its booking rules and its connectors. `id` is the table's name, not a setting."""

    id: str = ""
    name: Text
    campuses: tuple[Campus, ...] = ()
    time_zone: Text = "Asia/Shanghai"
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "CNY"
    mode: Mode = Mode.OBSERVE
    reserve_by: ReserveBy = ReserveBy.LOCK
    pay_window_s: Seconds = 900
    lock_wait_s: Seconds = 60
    his_lock_s: Seconds | None = None
    his_cache_s: SecondsOrZero = 0
    his_settle_s: SecondsOrZero = 30
    horizon_days: Annotated[int, Meta(ge=1, le=90)] = 7
    sync_every_s: Seconds = 60
    his_concurrency: Annotated[int, Meta(ge=1, le=256)] = 4
    his_concurrency_floor: Annotated[int, Meta(ge=1, le=256)] = 1
    his_queue: Count = 200
    his_queue_deadline_s: Seconds = 20
    stop_cancels_at_his: bool = True
    moved_without_place: MovedWithoutPlace = MovedWithoutPlace.ATTENTION
    channel_quota: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    clock_warn_s: Seconds = 5
    presettlement_valid_s: Seconds = 1800
    portal_refunds: bool = False
    publish_slots: Annotated[str, Meta(pattern="^(off|key|public)$")] = "key"
    release: ReleaseRule = ReleaseRule()
    rules: BookingRules = NO_RULES
    waiting_room: WaitingRoomRule = WaitingRoomRule()
    patients: PatientRule = PatientRule()
    reports: ReportRule = ReportRule()
    visits: VisitRule = VisitRule()
    reconcile_at: Annotated[str, Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "11:00"
    merchant_filter: MerchantFilter = MerchantFilter()
    connector: dict[str, dict[str, Any]] = {}
    route: dict[str, str] = {}

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


class Settings(_Table, frozen=True, kw_only=True):
    """The whole file. `hospital` maps ids to hospitals; `where` is the file, for the errors of later checks."""

    service: Service = Service()
    store: StoreSettings = StoreSettings()
    secrets: Secrets = Secrets()
    tracing: Tracing = Tracing()
    profiles_dir: Text | None = None
    hospital: dict[str, Hospital] = {}
    where: Where = Where(Path("settings"))

    @property
    def hospitals(self) -> dict[str, Hospital]:
        return self.hospital

    def named(self, hospital_id: str) -> Hospital:
        """The hospital that a person has named. Raises SettingsError with those that there are."""
        if hospital_id not in self.hospital:
            has = ", ".join(sorted(self.hospital)) or "none"
            raise SettingsError(f"there is no hospital {hospital_id} in {self.where.file}; it has {has}")
        return self.hospital[hospital_id]


class _File(_Table, frozen=True, kw_only=True):
    """The file as written, hospitals still raw: each is converted under its own path."""

    service: Service = Service()
    store: StoreSettings = StoreSettings()
    secrets: Secrets = Secrets()
    tracing: Tracing = Tracing()
    profiles_dir: Text | None = None
    hospital: dict[str, dict[str, Any]] = {}


def load_settings(file: Path | str, *, verbs: Collection[str] | None = None) -> Settings:
    """Read, check and return the settings. `verbs` are the port's verbs, to check `route` with (None: not checked).

    Relative file names in it are relative to the file's own folder. Raises SettingsError with everything found wrong.
    """
    return settings_of_text(read_settings_text(file), file, verbs=verbs)


def read_settings_text(file: Path | str) -> str:
    """The contents of the settings file. Raises SettingsError."""
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}. --config names the settings file") from error
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_FILE_BYTES} bytes, this is not a settings file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def settings_of_text(text: str, file: Path | str, *, verbs: Collection[str] | None = None) -> Settings:
    """The settings that a file with these contents gives. Raises SettingsError."""
    path = Path(file)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_not_toml(path, str(error))) from None
    return settings_from(raw, Where(path, text), verbs=verbs)


def _not_toml(path: Path, told: str) -> str:
    """Where the parser stopped, as all our errors say it. What stands there is not shown."""
    said, _, place = told.partition(" (at line ")
    line, _, column = place.rstrip(")").partition(", column ")
    at = f":{line}" if line.isdigit() else ""
    where = f" at column {column}" if column.isdigit() else ""
    return f"{path}{at}: not TOML{where}: {said}. Texts stand in double quotes, and a name once in its table"


def settings_from(raw: dict[str, Any], where: Where, *, verbs: Collection[str] | None = None) -> Settings:
    """The settings of an already parsed file."""
    problems: list[str] = []
    hospitals: dict[str, Hospital] = {}
    tables = raw.get("hospital", {})
    for hospital_id, table in tables.items() if isinstance(tables, dict) else ():
        place = where.at("hospital", hospital_id)
        if not isinstance(table, dict):
            problems.append(f"{place}: expected a table")
            continue
        try:
            hospitals[hospital_id] = _hospital(hospital_id, table, place)
        except SettingsError as error:
            problems.extend(error.problems)
            continue
        problems.extend(_hospital_problems(hospitals[hospital_id], place, verbs))
    try:
        file = convert_options(raw, _File, where)
    except SettingsError as error:
        raise SettingsError(*error.problems, *problems) from None
    problems.extend(_file_problems(file, where))
    if problems:
        raise SettingsError(*problems)
    folder = where.file.parent
    return Settings(
        service=file.service,
        store=msgspec.structs.replace(
            file.store,
            url=_database_beside(folder, file.store.url),
            messages_url=_database_beside(folder, file.store.messages_url),
            password_file=_beside(folder, file.store.password_file),
        ),
        secrets=Secrets(
            data_key_file=_beside(folder, file.secrets.data_key_file),
            digest_key_file=_beside(folder, file.secrets.digest_key_file),
        ),
        tracing=msgspec.structs.replace(file.tracing, headers_file=_beside(folder, file.tracing.headers_file)),
        profiles_dir=_beside(folder, file.profiles_dir),
        hospital={h.id: _with_files_beside(folder, h) for h in hospitals.values()},
        where=where,
    )


def parse_listen(text: str) -> Listen:
    """`host:port` or `[ipv6]:port`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError("expected host:port, for example 127.0.0.1:8080")
    return Listen(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - ":8080" asks for every interface


def _hospital(hospital_id: str, table: dict[str, Any], where: Where) -> Hospital:
    if "id" in table:
        raise SettingsError(f"{where.at('id')}: the id is the table's name, [hospital.{hospital_id}]")
    return msgspec.structs.replace(convert_options(table, Hospital, where), id=hospital_id)


def _hospital_problems(hospital: Hospital, where: Where, verbs: Collection[str] | None) -> Iterator[str]:
    if not _HOSPITAL_ID.fullmatch(hospital.id):
        yield f"{where}: a hospital's id has 1 to 40 of a-z, 0-9 and -, and begins with a letter or a digit"
    try:
        ZoneInfo(hospital.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        yield f"{where.at('time_zone')}: expected an IANA time zone, for example Asia/Shanghai"
    if hospital.his_concurrency_floor > hospital.his_concurrency:
        yield f"{where.at('his_concurrency_floor')}: expected at most his_concurrency ({hospital.his_concurrency})"
    for key, problem in rule_problems(hospital.release, hospital.horizon_days):
        yield f"{where.at('release', key)}: {problem}"
    for path, problem in booking_rule_problems(hospital.rules):
        yield f"{where.at('rules', *path)}: {problem}"
    for key, problem in room_problems(hospital.waiting_room, hospital.release):
        yield f"{where.at('waiting_room', key)}: {problem}"
    for key, problem in filter_problems(hospital.merchant_filter):
        yield f"{where.at('merchant_filter', key)}: {problem}"
    for problem in link_problems(hospital.reports.links):
        yield f"{where.at('reports', 'links')}: {problem}"
    if not hospital.connector:
        yield f"{where}: at least one [hospital.{hospital.id}.connector.<name>] is required"
    for name, table in hospital.connector.items():
        place = where.at("connector", name)
        if not _CONNECTOR_NAME.fullmatch(name):
            yield f"{place}: a connector's name has 1 to 40 of a-z, 0-9, - and _"
        if not isinstance(table.get("protocol"), str):
            yield f"{place.at('protocol')}: this setting is required (hl7v2, fhir or soap)"
    for verb, name in hospital.route.items():
        place = where.at("route", verb)
        if verbs is not None and verb not in verbs:
            yield f"{place}: there is no such verb; known: {', '.join(sorted(verbs))}"
        if name not in hospital.connector:
            yield f"{place}: expected the name of one of this hospital's connectors: {', '.join(hospital.connector)}"
    if len(hospital.connector) > 1 and not hospital.route:
        yield f"{where.at('route')}: with several connectors, say which verb goes to which"


def _file_problems(file: _File, where: Where) -> Iterator[str]:
    for key in ("listen", "admin_listen", "internal_listen"):
        try:
            listen = parse_listen(getattr(file.service, key))
        except ValueError as error:
            yield f"{where.at('service', key)}: {error}"
        else:
            if key == "internal_listen" and listen.host in _EVERYWHERE:
                yield f"{where.at('service', key)}: expected an address of this machine, since others are told it"
    if file.service.listen == file.service.admin_listen and not file.service.listen.endswith(":0"):
        yield f"{where.at('service', 'admin_listen')}: expected another port than listen: metrics have a listener of their own"
    if file.service.step_share + file.service.hold_share > 1:
        yield f"{where.at('service', 'hold_share')}: expected at most 1 together with step_share"
    if file.store.url.startswith("sqlite"):
        why = "a SQLite file has one writer, so that one process does everything; PostgreSQL shares the work"
        if (file.service.workers or 1) > 1:
            yield f"{where.at('service', 'workers')}: {why}"
        if not file.service.sync:
            yield f"{where.at('service', 'sync')}: {why}"
    for key in ("url", "messages_url"):
        place = where.at("store", key)
        scheme, found, rest = getattr(file.store, key).partition("://")
        if not found or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            yield f"{place}: expected sqlite:///file or postgresql://user@host/database"
        elif ":" in rest.partition("@")[0] and "@" in rest:
            yield f"{place}: no password here; put it into store.password_file or HISBRIDGE_STORE_PASSWORD"
    if file.service.public_url is not None and not _PUBLIC_URL.fullmatch(file.service.public_url):
        yield f"{where.at('service', 'public_url')}: expected http(s)://host[/path], for example https://booking.example"
    try:
        networks_of(file.service.webhook_networks)
    except ValueError:
        yield f"{where.at('service', 'webhook_networks')}: expected networks, for example 10.2.0.0/16"
    if file.tracing.endpoint is not None and not _WEB_ADDRESS.fullmatch(file.tracing.endpoint):
        yield f"{where.at('tracing', 'endpoint')}: expected a whole URL, for example http://127.0.0.1:4318/v1/traces"
    if file.store.url == file.store.messages_url:
        yield f"{where.at('store', 'messages_url')}: expected another database than store.url"


def _beside(folder: Path, name: str | None) -> str | None:
    return None if name is None else str(folder / name)


def _with_files_beside(folder: Path, hospital: Hospital) -> Hospital:
    """Connectors name files as `..._file`, in `..._files`, and a WSDL that is no address."""

    def placed(key: str, value: Any) -> Any:
        if key.endswith("_files") and isinstance(value, dict):
            return {name: _beside(folder, one) if isinstance(one, str) else one for name, one in value.items()}
        is_file = key.endswith("_file") or (key == "wsdl" and "://" not in str(value))
        return _beside(folder, value) if is_file and isinstance(value, str) else value

    tables = {
        name: {key: placed(key, value) for key, value in table.items()} for name, table in hospital.connector.items()
    }
    return msgspec.structs.replace(hospital, connector=tables)


def _database_beside(folder: Path, url: str) -> str:
    """A SQLite file lies beside the settings file too, wherever the program was started from."""
    scheme, _, name = url.partition(":///")
    if not scheme.startswith("sqlite") or not name:
        return url
    return f"{scheme}:///{(folder / name).as_posix()}"
