"""The settings file: defaults, and errors that say file, line, key and what was expected."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import connectors.fhir
import connectors.hl7v2
import connectors.soap
from booking.conversion import SettingsError, Where, convert_options
from booking.merchant_filter import MerchantFilter
from booking.patient_rules import PatientRule
from booking.release import ReleaseRule
from booking.report_rules import ReportRule
from booking.rules.settings import BookingRules
from booking.secrets import new_data_key, new_digest_key, read_keys, read_store_password, read_tracing_headers
from booking.settings import (
    Campus,
    Hospital,
    Listen,
    Mode,
    ReserveBy,
    Secrets,
    Service,
    Settings,
    StoreSettings,
    Tracing,
    load_settings,
    parse_listen,
    read_settings_text,
    settings_of_text,
)
from booking.visit_rules import VisitRule
from booking.waiting_room.rules import WaitingRoomRule

EXAMPLE = Path(__file__).resolve().parents[2] / "hisbridge.example.toml"
LEAST = """\
[hospital.h1]
name = "第一医院"

[hospital.h1.connector.his]
protocol = "soap"
profile = "dhc"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "hisbridge.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems_of(folder: Path, text: str, **options: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(folder, text), **options)
    return [problem.replace(str(folder) + "/", "") for problem in caught.value.problems]


def test_hospital_begins_read_only_when_little_is_said(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, LEAST))
    hospital = settings.hospitals["h1"]
    assert (hospital.id, hospital.name, hospital.mode, hospital.reserve_by) == (
        "h1",
        "第一医院",
        Mode.OBSERVE,
        ReserveBy.LOCK,
    )
    assert (hospital.pay_window_s, hospital.lock_wait_s, hospital.his_settle_s) == (900, 60, 30)
    assert hospital.connector == {"his": {"protocol": "soap", "profile": "dhc"}}
    assert hospital.zone.key == "Asia/Shanghai"


def test_every_setting_of_the_store_is_heeded(tmp_path: Path) -> None:
    said = {
        "url": "sqlite:////data/a.db", "messages_url": "sqlite:////data/m.db", "password_file": "/run/p", "connections": 9,
        "keep_messages_days": 11, "keep_messages_mb": 12, "keep_exchanges": False, "keep_report_reads_days": 200,
    }  # fmt: skip
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in said.items())
    store = load_settings(write(tmp_path, f"[store]\n{lines}\n{LEAST}")).store
    assert msgspec.structs.asdict(store) == said
    assert all(getattr(StoreSettings(), name) != value for name, value in said.items())


def test_files_of_connectors_are_beside_the_file_when_relative(tmp_path: Path) -> None:
    """Wherever the program is started from: a hospital whose certificate is not found is not started."""
    lines = 'ca_file = "his.pem"\ntoken_file = "/etc/token"\nwsdl = "his.wsdl"\nendpoint = "http://his.example/ws"\n'
    addressed = '[hospital.h1.connector.b]\nprotocol = "soap"\nwsdl = "http://his.example/ws?wsdl"\n'
    addressed += '[hospital.h1.route]\nping = "b"\n'
    connector = load_settings(write(tmp_path, LEAST + lines + addressed)).hospitals["h1"].connector
    assert connector["his"] == {
        "protocol": "soap",
        "profile": "dhc",
        "ca_file": str(tmp_path / "his.pem"),
        "token_file": "/etc/token",
        "wsdl": str(tmp_path / "his.wsdl"),
        "endpoint": "http://his.example/ws",
    }
    assert connector["b"]["wsdl"] == "http://his.example/ws?wsdl"


def test_file_names_are_beside_the_file_when_relative(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, 'profiles_dir = "p"\n[secrets]\ndata_key_file = "/run/k"\n' + LEAST))
    assert settings.profiles_dir == str(tmp_path / "p")
    assert settings.secrets.data_key_file == "/run/k"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[service]\nlisten_on = "x"\n',
            "hisbridge.toml:2: service.listen_on: there is no such setting; did you mean 'listen'?",
        ),
        ("[servce]\n", "hisbridge.toml:1: servce: there is no such setting; did you mean 'service'?"),
        (
            "[service]\nlisten = 8080\n",
            "hisbridge.toml:2: service.listen: expected a text in quotes, got a whole number",
        ),
        (
            '[service]\nlisten = "8080"\n',
            "hisbridge.toml:2: service.listen: expected host:port, for example 127.0.0.1:8080",
        ),
        (
            '[service]\npublic_url = "https://me:secret@h?x"\n',
            "hisbridge.toml:2: service.public_url: expected http(s)://host[/path], for example https://booking.example",
        ),
        (
            '[service]\nwebhook_networks = ["10.2.0.1/16"]\n',
            "hisbridge.toml:2: service.webhook_networks: expected networks, for example 10.2.0.0/16",
        ),
        ("[service]\n\nmax_in_flight = 0\n", "hisbridge.toml:3: service.max_in_flight: expected a whole number >= 1"),
        ('[service]\naccess_log = "some"\n', "service.access_log: expected one of all, changes, errors"),
        (
            '[store]\nurl = "mysql://x"\n',
            "hisbridge.toml:2: store.url: expected sqlite:///file or postgresql://user@host/database",
        ),
        ('[store]\nurl = "postgresql://u:secret@h/d"\n', "hisbridge.toml:2: store.url: no password here"),
        (
            '[tracing]\nendpoint = "127.0.0.1:4318"\n',
            "hisbridge.toml:2: tracing.endpoint: expected a whole URL, for example http://127.0.0.1:4318/v1/traces",
        ),
        (
            '[tracing]\nendpoint = "http://me:secret@h/v1/traces"\n',
            "hisbridge.toml:2: tracing.endpoint: expected a whole URL",
        ),
        ("[tracing]\nsample_ratio = 1.5\n", "hisbridge.toml:2: tracing.sample_ratio: expected a number <= 1"),
        (
            LEAST + '[hospital.h1.route]\nbook = "hsi"\n',
            "hospital.h1.route.book: expected the name of one of this hospital's",
        ),
        (
            LEAST + '[hospital.h1.route]\nbok = "his"\n',
            "hospital.h1.route.bok: there is no such verb; known: book, ping",
        ),
        (LEAST.replace('name = "第一医院"', ""), "hospital.h1.name: this setting is required"),
        (LEAST.replace('name = "第一医院"', 'name="x"\nhorizon_day = 3'), "did you mean 'horizon_days'?"),
        (
            LEAST.replace('name = "第一医院"', 'name="x"\nhorizon_days = "3"'),
            "hospital.h1.horizon_days: expected a whole number",
        ),
        (
            LEAST.replace('name = "第一医院"', 'name="x"\ntime_zone = "Mars/X"'),
            "hospital.h1.time_zone: expected an IANA",
        ),
        (
            LEAST.replace('name = "第一医院"', 'name="x"\nhis_concurrency_floor = 5'),
            "hospital.h1.his_concurrency_floor: expected at most his_concurrency (4)",
        ),
        (
            LEAST + '[hospital.h1.release]\ntime = "7:00"\n',
            "hospital.h1.release.time: expected a time of day, HH:MM",
        ),
        (
            LEAST + '[hospital.h1.release]\nclosed = ["22:00-06:30", "22:00"]\n',
            "hospital.h1.release.closed: expected spans of the day, HH:MM-HH:MM",
        ),
        (
            LEAST + '[hospital.h1.release]\ntime = "07:00"\ndays_ahead = 8\n',
            "hospital.h1.release.days_ahead: expected at most horizon_days (7)",
        ),
        (
            LEAST + '[hospital.h1.release]\nclosed = ["06:00-18:00", "18:00-06:00"]\n',
            "hospital.h1.release.closed: expected a time of day at which holds are taken",
        ),
        (
            LEAST + '[[hospital.h1.rules.limits]]\nper = "patient"\nwithin = "day"\nmost = 1\nin_dept = true\n',
            "hisbridge.toml:11: hospital.h1.rules.limits.0.in_dept: there is no such setting; did you mean 'in_department'?",
        ),
        (
            LEAST + '[[hospital.h1.rules.limits]]\nper = "family"\nwithin = "day"\nmost = 1\n',
            "hospital.h1.rules.limits.0.per: expected one of patient, user, phone",
        ),
        (
            LEAST
            + '[hospital.h1.rules]\nlimits = [{per = "patient", within = "day", most = 1, counts = "patients"}]\n',
            "hisbridge.toml:8: hospital.h1.rules.limits.0.counts: expected bookings: a patient is always one patient",
        ),
        (
            LEAST
            + '[[hospital.h1.rules.blocks]]\nafter = "no_shows"\ncount = 3\nwithin = "a month"\nlasts = "1 month"\n',
            'hospital.h1.rules.blocks.0.within: expected a text in quotes as "30 days" or "3 months"',
        ),
        (
            LEAST
            + '[[hospital.h1.rules.blocks]]\nafter = "no_shows"\ncount = 3\nwithin = "9 months"\nlasts = "900 days"\n',
            "hospital.h1.rules.blocks.0.lasts: expected at most 800 days together with within",
        ),
        (
            LEAST + '[[hospital.h1.rules.eligibility]]\ndepartments = ["1"]\n',
            "hospital.h1.rules.eligibility.0: expected sex, min_age or max_age: as it is, it says nothing",
        ),
        (
            LEAST + "[[hospital.h1.rules.eligibility]]\nmin_age = 14\nmax_age = 13\n",
            "hospital.h1.rules.eligibility.0.min_age: expected at most max_age (13): nobody could book",
        ),
        (
            LEAST + "[hospital.h1.rules.returned_seats]\nleast_s = 7200\nmost_s = 3600\n",
            "hisbridge.toml:8: hospital.h1.rules.returned_seats.least_s: expected at most most_s (3600)",
        ),
        (
            LEAST + '[[hospital.h1.rules.cancel_cutoffs]]\nat = "12:00"\nbefore_s = 60\n',
            "hisbridge.toml:7: hospital.h1.rules.cancel_cutoffs.0: expected before_s or at, one of the two",
        ),
        (
            LEAST + "[[hospital.h1.rules.cancel_cutoffs]]\nbefore_s = 60\ndays_before = 1\n",
            "hospital.h1.rules.cancel_cutoffs.0.days_before: expected it together with at only",
        ),
        (
            LEAST + '[[hospital.h1.rules.cancel_cutoffs]]\nat = "7:00"\n',
            'hospital.h1.rules.cancel_cutoffs.0.at: expected a text in quotes with a time of day, as "07:00"',
        ),
        (
            LEAST + '[hospital.h1.reports]\nrelease = "doctor"\n',
            "hospital.h1.reports.release: expected one of any, reviewed",
        ),
        (LEAST.replace('name = "第一医院"', 'name="x"\nid = "y"'), "the id is the table's name, [hospital.h1]"),
        (LEAST.replace("h1", "H_1"), "a hospital's id has 1 to 40 of a-z, 0-9 and -"),
        (LEAST.replace('protocol = "soap"\n', ""), "hospital.h1.connector.his.protocol: this setting is required"),
        ('[hospital.h1]\nname = "x"\n', "hisbridge.toml:1: hospital.h1: at least one [hospital.h1.connector.<name>]"),
        ("hospital = 3\n", "hisbridge.toml:1: hospital: expected a table, got a whole number"),
        ("[service\n", "hisbridge.toml:1: not TOML at column 9: "),
        (
            "[service]\nlisten = 第一\n",
            "hisbridge.toml:2: not TOML at column 10: Invalid value. Texts stand in double quotes",
        ),
        (
            '[service]\nlisten = "127.0.0.1:8080"\nadmin_listen = "127.0.0.1:8080"\n',
            "hisbridge.toml:3: service.admin_listen: expected another port than listen",
        ),
    ],
)
def test_start_is_refused_with_place_and_reason_when_a_setting_is_wrong(
    tmp_path: Path, text: str, problem: str
) -> None:
    found = problems_of(tmp_path, text, verbs={"book", "ping"})
    assert any(problem in line for line in found), found


def test_every_problem_is_told_when_there_are_several(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "[service]\nx = 1\ny = 2\n" + LEAST.replace("h1", "h2").replace("name", "nam"))
    assert len(found) == 3


def test_value_is_not_shown_when_a_setting_is_wrong(tmp_path: Path) -> None:
    found = problems_of(tmp_path, '[store]\nurl = "postgresql://u:topsecret@h/d"\nmessages_url = "topsecret"\n')
    assert "topsecret" not in " ".join(found)


def test_file_is_refused_when_absent_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: No such file or directory\. --config names"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "gbk.toml").write_bytes('[hospital.h1]\nname = "第一医院"'.encode("gbk"))
    with pytest.raises(SettingsError, match=r"not UTF-8 \(byte 22\)"):
        load_settings(tmp_path / "gbk.toml")


def test_options_of_a_connector_are_checked_when_converted(tmp_path: Path) -> None:
    class Options(msgspec.Struct, forbid_unknown_fields=True):
        protocol: str
        port: int = 2575

    where = Where(tmp_path / "x.toml", LEAST).at("hospital", "h1", "connector", "his")
    assert convert_options({"protocol": "hl7v2"}, Options, where).port == 2575
    with pytest.raises(SettingsError, match=r"x\.toml:4: hospital\.h1\.connector\.his\.prot: .* did you mean 'port'"):
        convert_options({"protocol": "hl7v2", "prot": 1}, Options, where)


@pytest.mark.parametrize(
    ("text", "listen"),
    [("127.0.0.1:8080", Listen("127.0.0.1", 8080)), ("[::1]:0", Listen("::1", 0)), (":80", Listen("0.0.0.0", 80))],
)
def test_address_is_read_when_well_formed(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen


# --- the example --------------------------------------------------------------------------------------------------


def uncommented() -> dict[str, Any]:
    """The example with every commented setting switched on."""
    text = EXAMPLE.read_text(encoding="utf-8")
    return tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))


def test_example_loads_as_it_is() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.service == Service()
    assert settings.hospitals["first-hospital"].mode is Mode.OBSERVE


def test_example_shows_every_setting_when_uncommented() -> None:
    raw = uncommented()
    hospital = raw["hospital"]["first-hospital"]
    common = {"timeout_s": {}, "max_message_bytes": 0}  # shown once, with the first connector
    shown: dict[type[msgspec.Struct], dict[str, Any]] = {
        Service: raw["service"],
        StoreSettings: raw["store"],
        Secrets: raw["secrets"],
        Tracing: raw["tracing"],
        Hospital: {**hospital, "id": None},
        ReleaseRule: hospital["release"],
        BookingRules: hospital["rules"],
        WaitingRoomRule: hospital["waiting_room"],
        PatientRule: hospital["patients"],
        ReportRule: hospital["reports"],
        VisitRule: hospital["visits"],
        MerchantFilter: hospital["merchant_filter"],
        Campus: hospital["campuses"][0],
        Settings: {**raw, "where": None},
        connectors.soap.Options: {**hospital["connector"]["his"]},
        connectors.hl7v2.Options: {**common, **hospital["connector"]["lab"]},
        connectors.fhir.Options: {**common, **hospital["connector"]["fhir"]},
    }
    for struct, table in shown.items():
        assert set(table) == {field.encode_name for field in msgspec.structs.fields(struct)}, struct


def test_example_tells_the_true_defaults_when_compared() -> None:
    raw = uncommented()
    tables: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
        (Service, raw["service"]),
        (StoreSettings, raw["store"]),
        (Tracing, raw["tracing"]),
        (Hospital, raw["hospital"]["first-hospital"]),
        (ReleaseRule, raw["hospital"]["first-hospital"]["release"]),
        (BookingRules, raw["hospital"]["first-hospital"]["rules"]),
        (WaitingRoomRule, raw["hospital"]["first-hospital"]["waiting_room"]),
        (PatientRule, raw["hospital"]["first-hospital"]["patients"]),
        (ReportRule, raw["hospital"]["first-hospital"]["reports"]),
        (VisitRule, raw["hospital"]["first-hospital"]["visits"]),
        (MerchantFilter, raw["hospital"]["first-hospital"]["merchant_filter"]),
    ]
    without = (
        "id", "campuses", "connector", "route", "password_file", "his_lock_s", "channel_quota", "workers", "release", "time",
        "closed", "endpoint", "headers_file", "waiting_room", "opens_before_s", "public_url", "webhook_networks",
        "patients", "per_user", "reports", "visits", "no_show_after_h", "rules", "limits", "blocks", "eligibility",
        "cancel_cutoffs", "pay_windows", "channel_quotas", "returned_seats", "waitlist",
        "merchant_filter", "order_no",
    )  # fmt: skip
    for struct, table in tables:
        for field in msgspec.structs.fields(struct):
            if field.name in without:
                continue  # required, structured, or without a default
            if field.default is not msgspec.NODEFAULT:
                default = list(field.default) if isinstance(field.default, tuple) else field.default
                assert table[field.name] == default, field.name


def test_example_explains_every_setting_in_its_line() -> None:
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if re.match(r"^(# )?[a-z_]+ = ", line) and "fetch_reports" not in line:
            assert re.search(r"\S\s+# \S", line), line


# --- secrets ------------------------------------------------------------------------------------------------------


def test_keys_are_read_when_in_files_or_environment(tmp_path: Path) -> None:
    old, new, digest = new_data_key("2025"), new_data_key("2026"), new_digest_key()
    (tmp_path / "data").write_text(f"{new}\n{old}\n")
    (tmp_path / "digest").write_text(f"{digest}\n")
    settings = Settings(secrets=Secrets(data_key_file=str(tmp_path / "data"), digest_key_file=str(tmp_path / "digest")))
    keys = read_keys(settings, environ={})
    assert list(keys.data_keys) == ["2026", "2025"]
    assert {len(key) for key in keys.data_keys.values()} == {32}
    from_environment = read_keys(
        Settings(), environ={"HISBRIDGE_DATA_KEY": f"{new},{old}", "HISBRIDGE_DIGEST_KEY": digest}
    )
    assert from_environment.data_keys == keys.data_keys
    assert from_environment.digest_key == keys.digest_key
    assert new.split(":")[1] not in repr(keys)


@pytest.mark.parametrize("data", ["", "k1", "k1:AAAA", "AAAA", "k1:not base64!", ":" + "A" * 43 + "="])
def test_data_key_is_refused_without_being_shown_when_malformed(data: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_keys(Settings(), environ={"HISBRIDGE_DATA_KEY": data, "HISBRIDGE_DIGEST_KEY": new_digest_key()})
    assert "AAAA" not in str(caught.value)


def test_start_is_refused_when_there_are_no_keys() -> None:
    with pytest.raises(SettingsError, match=r"secrets\.data_key_file"):
        read_keys(Settings(), environ={})


def test_store_password_is_the_line_of_its_file_when_set(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    settings = Settings(store=StoreSettings(password_file=str(tmp_path / "password")))
    assert read_store_password(settings, environ={}) == "s3cret"
    assert read_store_password(settings, environ={"HISBRIDGE_STORE_PASSWORD": "other"}) == "other"
    assert read_store_password(Settings(), environ={}) is None


def test_headers_of_traces_are_the_lines_of_their_file_when_set(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Bearer a:b\n\nX-Tenant:hospitals \n")
    settings = Settings(tracing=Tracing(headers_file=str(tmp_path / "headers")))
    assert read_tracing_headers(settings, environ={}) == {"Authorization": "Bearer a:b", "X-Tenant": "hospitals"}
    assert read_tracing_headers(settings, environ={"HISBRIDGE_TRACING_HEADERS": "A: b"}) == {"A": "b"}
    assert read_tracing_headers(Settings(), environ={}) == {}


@pytest.mark.parametrize("line", ["sesame", "Author ization: sesame", "A: se\x01same", "A: sésame", ": sesame"])
def test_headers_of_traces_are_refused_without_being_shown_when_malformed(line: str) -> None:
    with pytest.raises(SettingsError, match="expected lines of `Name: value`") as refused:
        read_tracing_headers(Settings(), environ={"HISBRIDGE_TRACING_HEADERS": line})
    assert "same" not in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "key", "expected"),
    [
        ("workers = 2", "service.workers", "one writer"),
        ("sync = false", "service.sync", "one writer"),
        ("workers = 0", "service.workers", "expected"),
        ('internal_listen = "0.0.0.0:9000"', "service.internal_listen", "address of this machine"),
        ('internal_listen = ":9000"', "service.internal_listen", "address of this machine"),
        ('internal_listen = "here"', "service.internal_listen", "host:port"),
    ],
)
def test_processes_are_refused_when_the_engine_or_the_address_cannot_carry_them(
    tmp_path: Path, lines: str, key: str, expected: str
) -> None:
    [problem] = problems_of(tmp_path, f"[service]\n{lines}\n{LEAST}")
    assert f"{key}:" in problem
    assert expected in problem


def test_workers_may_be_many_when_the_store_is_postgresql(tmp_path: Path) -> None:
    store = '[store]\nurl = "postgresql://u@h/d"\nmessages_url = "postgresql://u@h/m"\n'
    settings = load_settings(write(tmp_path, f"[service]\nworkers = 8\nsync = false\n{store}{LEAST}"))
    assert (settings.service.workers, settings.service.sync) == (8, False)


def test_settings_are_the_same_when_they_come_as_text(tmp_path: Path) -> None:
    file = write(tmp_path, LEAST)
    assert settings_of_text(read_settings_text(file), file) == load_settings(file)
