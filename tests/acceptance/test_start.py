"""Starting the service: what is wrong is said in one line that a person can act on, and nothing half-started stays."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation, lay_out, postgres_store, run_process, until
from tests.conftest import ROOT
from tests.postgres import PostgresServer
from tests.scheduler_sync.test_certificates import make_certificate


async def refused_start(config: Path) -> str:
    """What `python -m service` prints when it does not start. Its exit code must be 2, without a traceback."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = said.decode()
    assert process.returncode == 2, text
    assert "Traceback" not in text
    return text


def change(site: Installation, old: str, new: str) -> None:
    text = site.config.read_text(encoding="utf-8")
    assert old in text
    site.config.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ("drain_s = 5", "drain_sec = 5", "service.drain_sec", "did you mean 'drain_s'"),
        ("drain_s = 5", 'drain_s = "five"', "service.drain_s", "expected"),
        ("drain_s = 5", "drain_s = -1", "service.drain_s", "expected"),
        ('mode = "live"', 'mode = "alive"', "hospital.hl7-demo.mode", "one of observe, live, paused"),
        ("connections = 2", 'ack = "never"', "hospital.hl7-demo.connector.main.ack", "one of standard, always"),
        ('reserve_by = "lock"', "reserve_by = 1", "hospital.hl7-demo.reserve_by", "expected"),
        ("his_settle_s = 2", "his_settle = 2", "hospital.hl7-demo.his_settle", "did you mean 'his_settle_s'"),
        ('protocol = "hl7v2"', 'protocol = "hl7"', "hospital.hl7-demo.connector.main.protocol", "hl7v2, fhir, soap"),
        ('host = "127.0.0.1"', 'hots = "127.0.0.1"', "hospital.hl7-demo.connector.main.hots", "host"),
        ('fetch_reports = "lis"', 'fetch_reports = "lab"', "hospital.soap-demo.route.fetch_reports", "main, lis"),
        ('listen = "127.0.0.1:0"', 'listen = "here"', "service.listen", "host:port"),
        ("[service]", "[servce]", "servce", "service"),
    ],
)
async def test_start_is_refused_with_file_key_and_expectation_when_a_setting_is_wrong(
    tmp_path: Path, old: str, new: str, key: str, expected: str
) -> None:
    async with lay_out(tmp_path) as site:
        change(site, old, new)
        said = await refused_start(site.config)
    line = next(line for line in said.splitlines() if f"{key}:" in line)
    assert re.match(rf"{re.escape(str(site.config))}:\d+: ", line), line
    assert expected in line


async def run_command(config: Path, *words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *words, "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    "words", [("keys", "add", "city-portal"), ("keys", "list"), ("messages", "list", "hl7-demo")], ids=" ".join
)
async def test_command_names_what_comes_first_when_the_databases_were_never_made(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    async with lay_out(tmp_path) as site:
        for name in ("hisbridge.db", "messages.db"):
            change(site, name, f"never-{name}")
        code, said = await run_command(site.config, *words)
    assert code == 2
    assert "run `hisbridge migrate` first" in " ".join(said.split())
    assert "Traceback" not in said


async def test_check_says_so_when_no_connector_offers_the_verb_by_which_seats_are_taken(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        code, said = await run_command(site.config, "check")
        assert (code, "nothing can be booked" in said) == (0, False)
        change(site, 'profile = "hl7v2_demo@1"', 'profile = "hl7v2@1"')  # it books, and locks nothing
        code, said = await run_command(site.config, "check")
    assert code == 0  # for a hospital that is observed it is well
    assert "hl7-demo: no connector offers lock_slot, by which reserve_by lock takes a seat" in said.replace("\n", " ")


async def test_check_names_the_connector_when_its_listener_has_no_usable_certificate(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, dt.datetime(2041, 5, 6, tzinfo=dt.UTC))
    other, _ = make_certificate(tmp_path, dt.datetime(2041, 5, 6, tzinfo=dt.UTC), "other")
    async with lay_out(tmp_path) as site:
        for shown, code_expected in ((other, 2), (certificate, 0)):
            files = f'tls_cert_file = "{shown}"\ntls_key_file = "{key}"'
            change(site, "connections = 2", f"connections = 2\n{files}")
            code, said = await run_command(site.config, "check")
            assert code == code_expected, said
            if code:
                assert f"hospital.hl7-demo.connector.main: certificate {shown}" in said.replace("\n", "")
                assert "Traceback" not in said
            change(site, files, "")


async def test_start_names_every_fault_at_once_when_there_are_several(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        change(site, "drain_s = 5", "drain_s = true")
        change(site, 'mode = "live"', 'mode = "dead"')
        said = await refused_start(site.config)
    assert "service.drain_s:" in said
    assert "hospital.hl7-demo.mode:" in said


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "data.key").unlink(), "data.key"),
        (lambda folder: (folder / "digest.key").unlink(), "digest.key"),
        (lambda folder: (folder / "data.key").write_text("k1:c2hvcnQ=\n"), "base64 of 32 bytes"),
        (lambda folder: (folder / "digest.key").write_text("c2hvcnQ=\n"), "base64 of at least 32 bytes"),
    ],
    ids=["no data key", "no digest key", "short data key", "short digest key"],
)
async def test_start_is_refused_when_a_secret_is_missing_or_malformed(
    tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    async with lay_out(tmp_path) as site:
        spoil(site.folder)
        said = await refused_start(site.config)
    assert expected in said
    assert "c2hvcnQ" not in said  # a key is never shown, not even a bad one


async def test_start_is_refused_when_the_settings_file_is_absent(tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in await refused_start(tmp_path / "none.toml")


async def test_start_is_refused_when_the_profile_is_unknown(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        change(site, 'profile = "dhc@1"', 'profile = "dhc@9"')
        line = next(n for n, text in enumerate(site.config.read_text().splitlines(), 1) if "dhc@9" in text)
        said = " ".join((await refused_start(site.config)).split())
        assert f"hisbridge.toml:{line}: hospital.soap-demo.connector.main.profile: " in said
        assert "version 9 was asked for, and this is version 1" in said
        change(site, 'profile = "dhc@9"', 'profile = "dch"')
        assert "did you mean 'dhc'?" in " ".join((await refused_start(site.config)).split())


@pytest.mark.parametrize(
    ("setting", "named"),
    [("listen", "service.listen"), ("admin_listen", "service.admin_listen"), ("listen_port", "hl7-demo")],
)
async def test_start_is_refused_with_the_setting_when_a_port_is_taken(tmp_path: Path, setting: str, named: str) -> None:
    async with lay_out(tmp_path) as site:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            if setting == "listen_port":
                listening = re.search(r"listen_port = \d+", site.config.read_text(encoding="utf-8"))
                assert listening is not None
                change(site, listening[0], f"listen_port = {port}")
            else:
                change(site, f'\n{setting} = "127.0.0.1:0"', f'\n{setting} = "127.0.0.1:{port}"')
            said = await refused_start(site.config)
    reason = next(line for line in said.splitlines() if "cannot listen" in line)
    assert named in reason


async def test_reason_names_connector_and_file_when_a_certificate_is_not_there(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        listening = re.search(r"listen_port = \d+", site.config.read_text(encoding="utf-8"))
        assert listening is not None
        change(site, listening[0], f'{listening[0]}\ntls_cert_file = "/nowhere/mllp.pem"')
        said = await refused_start(site.config)
    reason = next(line for line in said.splitlines() if "cannot listen" in line)
    assert "connector" in reason
    assert "/nowhere/mllp.pem" in reason
    assert "Traceback" not in said


@pytest.mark.parametrize("database", ["hisbridge.db", "messages.db"])
async def test_start_is_refused_when_the_schema_is_of_a_newer_program(tmp_path: Path, database: str) -> None:
    async with lay_out(tmp_path) as site:
        connection = sqlite3.connect(tmp_path / database)
        try:
            table = connection.execute("select name from sqlite_master where name like '%version%'").fetchone()[0]
            connection.execute(f"update {table} set version_num = '9999_of_tomorrow'")
            connection.commit()
        finally:
            connection.close()
        said = await refused_start(site.config)
    assert "9999_of_tomorrow" in said
    assert "newer" in said


async def test_service_is_alive_and_ready_when_started(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site, run_process(site) as process:
        assert site.session is not None
        async with site.session.get(f"{site.admin_url}/healthz") as alive:
            assert (alive.status, await alive.json()) == (200, {"alive": True})
        async with site.session.get(f"{site.admin_url}/readyz") as ready:
            assert ready.status == 200
            assert await ready.json() == {"ready": True, "draining": False, "reasons": {}}
        async with site.session.get(f"{site.base_url}/metrics") as hidden:
            assert hidden.status == 404  # the admin pages are not on the portals' port
        process.terminate()
        assert await process.exit_code() == 0


async def test_service_is_not_ready_and_says_so_when_its_store_is_gone(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with (
        postgres_store(postgres_server) as store,
        lay_out(tmp_path, store=store, service_table={"workers": 1}) as site,
        run_process(site) as process,
    ):
        assert site.session is not None
        await site.open_slots("soap-demo")
        postgres_server.drop_database(store["url"].rpartition("/")[2])
        async with site.session.get(f"{site.admin_url}/readyz") as ready:
            assert ready.status == 503
            told = await ready.json()
        assert told["ready"] is False
        assert sorted(told["reasons"]) == ["api-1", "sync-0"]
        assert all("store: " in reason for reason in told["reasons"].values())
        async with site.session.get(f"{site.admin_url}/healthz") as alive:
            assert alive.status == 200
        # A list that is ready-made is shown for up to 200 ms more.
        answer = await until(
            lambda: site.portal().call("GET", "/v1/hospitals/soap-demo/slots"),
            lambda seen: seen.status != 200,
            what="503",
        )
        assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "store_unavailable", "2")
        process.terminate()
        assert await process.exit_code() == 0


async def test_python_service_py_is_the_same_program_when_started_as_a_script(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        change(site, "drain_s = 5", "drain_s = true")
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(ROOT / "service.py"), "--config", str(site.config), stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        assert process.returncode == 2
        assert b"service.drain_s" in said
