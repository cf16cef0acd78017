"""`hisbridge messages` as hospital IT uses it: a process of its own, beside the running service and without it."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest.ports import free_port
from loadtest.simulators.mllp import END, START, read_frame
from tests.acceptance.installation import (
    Installation,
    add_keys,
    postgres_store,
    run_process,
    to_toml,
    until,
    write_secrets,
)
from tests.patient_texts import assert_absent
from tests.postgres import PostgresServer

HOSPITAL = "first"
FAMILY, GIVEN, MRN, ID_NUMBER, PHONE = "欧阳", "静怡", "MRN4711X", "440101199001011234", "13812345678"
SECRETS = [FAMILY, GIVEN, MRN, ID_NUMBER, PHONE]
ORDER = "17950000001234567890"
SITE_PROFILE = """\
name: site
version: 1
protocol: hl7v2
extends: hl7v2@1
tables:
  appointment_status: {Fest: registered}
"""


def siu(control_id: str, status: str = "Booked", order: str = ORDER) -> bytes:
    """An appointment of the patient; the shipped profile has no word `Fest`."""
    return "\r".join(
        (
            f"MSH|^~\\&|HIS|H1|HISBRIDGE||20261130070000+0800||SIU^S12^SIU_S12|{control_id}|P|2.5.1||||||UNICODE UTF-8",
            f"SCH|{order}|F-{control_id}||||ROUTINE|||15|min|^^15^20301201083000^20301201084500||||||||||||||{status}",
            f"PID|1||{MRN}^^^H1^MR~{ID_NUMBER}^^^^NI||{FAMILY}^{GIVEN}||19900101|F|||||{PHONE}",
            "RGS|1|A",
            "AIS|1|A|203^X|20301201083000|||15|min||Booked",
            "",
        )
    ).encode()


class Site:
    """One hospital that only sends, its settings, and the commands of its IT."""

    def __init__(self, folder: Path, store: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.store = store
        self.installation = Installation(folder, folder / "hisbridge.toml", {})
        self.said = b""

    def write_settings(self, profile: str = "hl7v2@1", **service: Any) -> None:
        connector = {
            "protocol": "hl7v2",
            "profile": profile,
            "listen_host": "127.0.0.1",
            "listen_port": self.port,
        }
        listen = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "workers": 1}
        settings = {
            "profiles_dir": "profiles",
            "service": listen | service,
            "store": self.store,
            "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
            "hospital": {HOSPITAL: {"name": "市第一医院", "mode": "live", "connector": {"main": connector}}},
        }
        self.installation.config.write_text(to_toml(settings), encoding="utf-8")

    async def send(self, *bodies: bytes) -> list[str]:
        """MSA-1 of each answer."""
        reader, writer = await self._connect()
        codes = []
        try:
            for body in bodies:
                writer.write(START + body + END)
                answer = await asyncio.wait_for(read_frame(reader), 20)
                assert answer is not None
                codes.append(answer.decode().split("\rMSA|")[1][:2])
        finally:
            writer.close()
            await writer.wait_closed()
        return codes

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Of several processes the one that works the hospital listens a little after the others are ready."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.1)

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", "messages", words[0], HOSPITAL, *words[1:],
            "--config", str(self.installation.config),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def run(self, *words: str, code: int = 0, secret: bool = False) -> str:
        """What one command prints. Everything that is not asked for unmasked is kept, to be searched."""
        process = await self.start(*words)
        said, _ = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode == code, said.decode()
        if not secret:
            self.said += said
        return said.decode()

    async def found(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self.run("list", "--json", *words)).splitlines()]

    async def states(self) -> dict[str, str]:
        """The state of each stored message by its control id."""
        return {one["control_id"]: one["state"] for one in await self.found("--direction", "in")}


@pytest.fixture(params=["sqlite", "postgresql"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    async with _site(request, tmp_path) as it:
        it.write_settings()
        write_secrets(tmp_path)
        (tmp_path / "profiles" / "site").mkdir(parents=True)
        (tmp_path / "profiles" / "site" / "profile.yaml").write_text(SITE_PROFILE, encoding="utf-8")
        await add_keys(it.installation.config)
        yield it
        assert_absent(it.said, SECRETS, "what the commands printed")


@asynccontextmanager
async def _site(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Site]:
    if request.param == "sqlite":
        base = f"sqlite:///{folder.as_posix()}"
        yield Site(folder, {"url": f"{base}/hisbridge.db", "messages_url": f"{base}/messages.db"})
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    async with postgres_store(server) as store:
        yield Site(folder, store)


async def all_noted(site: Site) -> None:
    """The record is written a moment behind the messages."""

    async def look() -> list[dict[str, Any]]:
        return await site.found()

    await until(look, lambda found: len(found) == 4 and found[-1]["answer"] == "AA", what="the record")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
async def test_messages_are_found_shown_and_exported_masked_when_a_service_runs(site: Site) -> None:
    async with run_process(site.installation):
        assert await site.send(siu("GOOD"), siu("BAD", "Fest"), siu("GOOD")) == ["AA", "AA", "AA"]
        assert await site.send(siu("OTHER", order="1").replace(b"SIU^S12^SIU_S12", b"BAR^P01")) == ["AR"]
        await all_noted(site)

        found = await site.found()
        assert [(one["control_id"], one["state"], one["answer"]) for one in found] == [
            ("OTHER", "refused", "AR"), ("GOOD", "duplicate", "AA"), ("BAD", "quarantined", "AA"), ("GOOD", "applied", "AA"),
        ]  # fmt: skip
        bad, good = found[2], found[3]
        assert good["order_no"] == ORDER
        for asked, ids in (
            (("--state", "quarantined", "--text", "appointment_status"), {bad["id"]}),
            (("--booking", ORDER, "--patient", MRN), {bad["id"], good["id"]}),
            (("--booking", "F-GOOD", "--control-id", "GOOD"), {good["id"]}),
            (("--patient", "NOBODY"), set()),
            (("--since", "1h", "--type", "SIU", "--limit", "1"), {found[1]["id"]}),
        ):
            assert {one["id"] for one in await site.found(*asked)} == ids, asked
        rows = (await site.run("list", "--until", "0m")).splitlines()
        assert [row.split()[0] for row in rows] == ["id", *(one["id"] for one in found)]
        assert "expected 2026-11-30" in await site.run("list", "--since", "gestern", code=2)

        shown = await site.run("show", bad["id"])
        assert f"PID-5   {'name':<24}<1-4>^<1-4>" in shown
        assert "SCH-25  status                  <1-4>" in shown  # `Fest` is no word of table 0278
        assert f"SCH-1   {'placer' + chr(39) + 's id (ours)':<24}{ORDER}" in shown
        assert "messages replay" in shown

        refused = await site.run("show", bad["id"], "--unmasked", code=2)
        assert "--reason" in refused
        told = await site.run("show", bad["id"], "--unmasked", "--reason", "complaint of 30 November", secret=True)
        assert f"{FAMILY}^{GIVEN}" in told
        audit = await site.run("audit")
        assert audit.count("show_message") == 1
        assert f"{bad['id']}  complaint of 30 November" in audit
        (row,) = [json.loads(line) for line in (await site.run("audit", "--json")).splitlines()]
        assert (row["number"], row["action"], row["subject"]) == (1, "show_message", bad["id"])
        assert row["reason"] == "complaint of 30 November"
        assert row["at"].startswith(audit.split("  ")[1].replace(" ", "T")[:19])

        folder, lines = site.folder / "out", site.folder / "out.ndjson"
        await site.run("export", str(folder))
        files = {path.name: path for path in folder.iterdir()}
        assert files.keys() >= {f"{one['id']}.hl7" for one in found} | {f"{found[0]['id']}.answer.hl7"}
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files.values())
        await site.run("export", str(lines), "--state", "quarantined")
        assert json.loads(lines.read_text())["reason"] == bad["reason"]
        for path in (*files.values(), lines):
            assert_absent(path.read_bytes(), SECRETS, path.name)
        assert "exists" in await site.run("export", str(lines), code=2)
        exact = site.folder / "exact"
        await site.run("export", str(exact), "--unmasked", "--reason", "for the vendor", "--control-id", "BAD")
        assert (exact / f"{bad['id']}.hl7").read_bytes() == siu("BAD", "Fest")
        assert "export_messages" in await site.run("audit")


@pytest.mark.timeout(600)
async def test_message_is_applied_by_the_running_service_when_it_is_replayed_after_a_correction(site: Site) -> None:
    async with run_process(site.installation):
        await site.send(siu("BAD", "Fest"))
        (bad,) = await site.found("--state", "quarantined")
        still = await site.run("replay", bad["id"], code=1)
        assert f"{bad['id']}: it still cannot be mapped" in still
        site.write_settings("site@1")  # the service has not read it
        assert "it can be applied: registration_changed" in await site.run("replay", "--dry-run")
        assert await site.states() == {"BAD": "quarantined"}
        assert f"{bad['id']}: applied" in await site.run("replay", bad["id"], "--wait-s", "60")
        assert await site.states() == {"BAD": "applied"}
        assert "it was applied; --again" in await site.run("replay", bad["id"], code=1)
        await site.run("replay", bad["id"], "--again", code=2)
        once_more = await site.run("replay", bad["id"], "--again", "--reason", "lost", "--wait-s", "60")
        assert f"{bad['id']} (as " in once_more
        assert once_more.rstrip().endswith("applied")
        actions = [line.split("  ")[3] for line in (await site.run("audit")).splitlines()]
        assert actions.count("replay_again") == 1


@pytest.mark.timeout(600)
async def test_messages_are_applied_at_the_next_start_when_the_commands_and_the_service_were_killed(site: Site) -> None:
    async with run_process(site.installation) as process:
        await site.send(*(siu(f"BAD{n}", "Fest", order=f"{17950000000000000000 + n}") for n in range(6)))
        await process.kill()
    site.write_settings("site@1")
    killed = await site.start("replay", "--all", "--wait-s", "60")
    assert killed.stdout is not None

    async def queued() -> dict[str, str]:
        return await site.states()

    await until(queued, lambda states: "received" in states.values(), what="the first of them")
    killed.kill()
    await killed.communicate()
    states = await site.states()
    assert set(states.values()) <= {"received", "quarantined"}
    left = await site.run("replay", "--all", "--wait-s", "0")
    assert "applied" not in left.replace("not applied yet", "").replace("be applied already", "")
    assert set((await site.states()).values()) == {"received"}
    async with run_process(site.installation) as process:
        await process.kill()  # in the middle of whatever it had begun
    async with run_process(site.installation):
        applied = await until(queued, lambda found: set(found.values()) == {"applied"}, what="all of them")
    assert len(applied) == 6
    assert len(await site.found("--patient", MRN, "--state", "applied")) == 6
