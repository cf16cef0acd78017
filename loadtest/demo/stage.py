"""The stage of the demonstration: simulators and the service as processes of their own, and their settings."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

READY_WITHIN_S = 30.0


class StageFailed(Exception):
    """Something of the stage did not come up; the text says what, and what it printed."""


@dataclass
class Simulator:
    """A simulated hospital that runs: where it listens, and where its switchboard is."""

    port: int
    control_port: int
    wsdl: str
    process: asyncio.subprocess.Process


@dataclass
class Stage:
    """All processes of the demonstration; `close` ends them in reverse order."""

    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    simulators: dict[str, Simulator] = field(default_factory=dict)

    async def simulator(self, hospital_id: str, module: str, *arguments: str) -> Simulator:
        """Start `python -m loadtest.simulators.<module>` and wait for its ready line."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"loadtest.simulators.{module}",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--control-port",
            "0",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.processes.append(process)
        line = await _first_line(process, f"the simulator of {hospital_id}")
        ready = json.loads(line)
        self.simulators[hospital_id] = Simulator(ready["port"], ready["control_port"], ready.get("wsdl", ""), process)
        return self.simulators[hospital_id]

    async def service(self, config: Path, log: Path) -> asyncio.subprocess.Process:
        """Start the service; its log goes to a file."""
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", "--config", str(config), stdout=stream, stderr=stream
            )
        self.processes.append(process)
        return process

    async def close(self) -> None:
        """End every process: ask, then insist."""
        for process in reversed(self.processes):
            if process.returncode is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def write_settings(folder: Path, **facts: object) -> Path:
    """The settings file of the demonstration, with the profile of its SOAP hospital beside it."""
    profile = folder / "profiles" / "dhc_site"
    profile.mkdir(parents=True)
    (profile / "profile.yaml").write_text(SITE_PROFILE, encoding="utf-8")
    config = folder / "hisbridge.toml"
    config.write_text(CONFIG.format(folder=folder.as_posix(), **facts), encoding="utf-8")
    return config


async def _first_line(process: asyncio.subprocess.Process, what: str) -> str:
    if process.stdout is None or process.stderr is None:
        raise StageFailed(f"{what} was started without pipes")
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise StageFailed(f"{what} was not ready within {READY_WITHIN_S:g} s") from None
    if not line:
        said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
        raise StageFailed(f"{what} ended at once: {said[-1] if said else 'no reason given'}")
    return line.decode()


SITE_PROFILE = """\
name: dhc_site
version: 1
protocol: soap
extends: dhc@1
verbs:
  presettle_bill:
    reply:
      fields:
        amount_fen: {from: [SelfPaySum, OrderSum], via: yuan_to_fen, default: null}
        fund_fen: {from: FundSum, via: yuan_to_fen, default: null}
        account_fen: {from: AccountSum, via: yuan_to_fen, default: null}
"""
"""A profile as a site writes it: this HIS tells what the insurance (医保) pays, which the vendor's document does not have."""

CONFIG = """\
profiles_dir = "profiles"

[service]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin_port}"
drain_s = 5

[store]
url = "sqlite:///{folder}/hisbridge.db"
messages_url = "sqlite:///{folder}/messages.db"

[secrets]
data_key_file = "data.key"
digest_key_file = "digest.key"

[hospital.hl7-demo]
name = "HL7 v2 演示医院"
mode = "live"
reserve_by = "lock"
his_settle_s = 3
sync_every_s = 1
rules = {{waitlist = {{accept_s = 600}}}}
[hospital.hl7-demo.connector.main]
protocol = "hl7v2"
profile = "hl7v2_demo@1"
host = "127.0.0.1"
port = {hl7_port}
listen_host = "127.0.0.1"
listen_port = {hl7_listen}

[hospital.fhir-demo]
name = "FHIR 演示医院"
mode = "live"
reserve_by = "book"
his_settle_s = 3
sync_every_s = 1
rules = {{waitlist = {{accept_s = 600}}}}
[hospital.fhir-demo.connector.main]
protocol = "fhir"
profile = "fhir_demo@1"
base_url = "http://127.0.0.1:{fhir_port}/fhir"
changes_every_s = 1

[hospital.soap-demo]
name = "SOAP 演示医院"
mode = "live"
reserve_by = "lock"
his_lock_s = 600
his_settle_s = 3
sync_every_s = 1
rules = {{waitlist = {{accept_s = 600}}}}
[hospital.soap-demo.connector.main]
protocol = "soap"
profile = "dhc_site"
wsdl = "{soap_wsdl}"
[hospital.soap-demo.connector.lis]
protocol = "hl7v2"
profile = "hl7v2@1"
listen_host = "127.0.0.1"
listen_port = {lis_listen}
[hospital.soap-demo.route]
fetch_reports = "lis"
fetch_report = "lis"
"""
