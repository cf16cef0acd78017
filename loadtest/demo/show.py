"""The demonstration on screen: one live table, a row per hospital, a column per step."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from loadtest.demo.client import StepFailed
from loadtest.demo.stage import Stage, StageFailed, write_settings
from loadtest.demo.walk import STEPS, Walk
from loadtest.ports import free_port, is_taken

HOSPITALS = ("hl7-demo", "fhir-demo", "soap-demo")
PROTOCOLS = {"hl7-demo": "HL7 v2", "fhir-demo": "FHIR R4", "soap-demo": "SOAP (DHC)"}
KEY = "demo-portal-key"
READY_WITHIN_S = 30.0

Prepare = Callable[[Path], Awaitable[None]]
"""Makes the secrets and the API key of an installation whose settings file is given."""


class Board:
    """What the table shows: a row for each step, a column for each hospital."""

    def __init__(self) -> None:
        self._cells: dict[str, list[str]] = {h: [] for h in HOSPITALS}
        self._failed: dict[str, str] = {}

    def note(self, hospital_id: str, text: str) -> None:
        self._cells[hospital_id].append(text)

    def fail(self, hospital_id: str, text: str) -> None:
        self._failed[hospital_id] = text

    @property
    def failures(self) -> list[str]:
        return [f"{hospital}: {STEPS[len(self._cells[hospital])]}: {text}" for hospital, text in self._failed.items()]

    def __rich__(self) -> Table:
        table = Table(
            title="hisbridge: one booking API, three hospitals",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("step", style="bold", no_wrap=True)
        for hospital_id in HOSPITALS:
            table.add_column(f"{hospital_id}\n[dim]{PROTOCOLS[hospital_id]}[/]")
        for number, step in enumerate(STEPS):
            table.add_row(step, *(self._cell(hospital_id, number) for hospital_id in HOSPITALS))
        return table

    def _cell(self, hospital_id: str, step: int) -> str:
        cells = self._cells[hospital_id]
        if step < len(cells):
            return f"[green]✓[/] {escape(cells[step])}"
        if step > len(cells):
            return ""
        return "[red]✗[/]" if hospital_id in self._failed else "[yellow]…[/]"


async def run_demo(*, port: int, admin_port: int, once: bool, prepare: Prepare, console: Console) -> int:
    """Set the stage, walk, and keep serving until interrupted (or not, with `once`). Returns the exit code."""
    for name, number in (("--port", port), ("--admin-port", admin_port)):
        if number and is_taken("127.0.0.1", number):
            console.print(f"[red]Port {number} is taken by another program.[/] Choose another one with {name}.")
            return 2
    stage = Stage()
    _end_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="hisbridge-demo-", ignore_cleanup_errors=True) as folder:
            return await _in_folder(
                stage, Path(folder), port or free_port(), admin_port or free_port(), once, prepare, console
            )
    except StageFailed as e:
        console.print(f"[red]{e}[/]")
        return 2
    finally:
        await stage.close()


def _end_on_sigterm() -> None:
    """SIGTERM ends the demonstration like Ctrl-C: the processes of the stage are its own to end."""
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on the loop
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _in_folder(
    stage: Stage, folder: Path, port: int, admin_port: int, once: bool, prepare: Prepare, console: Console
) -> int:
    config, log = await _set_stage(stage, folder, port, admin_port, prepare)
    base_url = f"http://127.0.0.1:{port}"
    service = await stage.service(config, log)
    began = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        await _until_ready(session, f"http://127.0.0.1:{admin_port}/readyz", service, log)
        board = Board()
        with Live(board, console=console, refresh_per_second=8):
            await asyncio.gather(*(_walk(session, base_url, stage, h, board) for h in HOSPITALS))
    took_s = time.monotonic() - began
    console.print()
    if board.failures:
        for text in board.failures:
            console.print(f"[red]failed[/] {text}")
        console.print("The service's last words:")
        console.print(_last_words(log, 15), markup=False, highlight=False)
        return 1
    console.print(f"The walk took {took_s:.1f} s.")
    _tell(console, base_url, admin_port, stage)
    if not once:
        _tell_operator(console, config)
        console.print("\nServing until Ctrl-C.")
        if await service.wait() != 0:
            raise StageFailed("the service ended by itself")
    return 0


async def _set_stage(stage: Stage, folder: Path, port: int, admin_port: int, prepare: Prepare) -> tuple[Path, Path]:
    hl7_listen, lis_listen = free_port(), free_port()
    hl7, fhir, soap = await asyncio.gather(
        stage.simulator("hl7-demo", "hl7", "--push-host", "127.0.0.1", "--push-port", str(hl7_listen)),
        stage.simulator("fhir-demo", "fhir"),
        stage.simulator("soap-demo", "soap", "--push-host", "127.0.0.1", "--push-port", str(lis_listen)),
    )
    config = write_settings(
        folder,
        port=port,
        admin_port=admin_port,
        hl7_port=hl7.port,
        hl7_listen=hl7_listen,
        fhir_port=fhir.port,
        soap_wsdl=soap.wsdl,
        lis_listen=lis_listen,
    )
    await prepare(config)
    return config, folder / "service.log"


async def _until_ready(
    session: aiohttp.ClientSession, url: str, service: asyncio.subprocess.Process, log: Path
) -> None:
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends:
        if service.returncode is not None:
            raise StageFailed(f"the service did not start: {_last_words(log, 1) or 'no reason given'}")
        try:
            async with session.get(url) as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)
    raise StageFailed(f"the service was not ready within {READY_WITHIN_S:g} s")


def _last_words(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-lines:])


async def _walk(session: aiohttp.ClientSession, base_url: str, stage: Stage, hospital_id: str, board: Board) -> None:
    control = f"http://127.0.0.1:{stage.simulators[hospital_id].control_port}"
    try:
        async for text in Walk(session, base_url, KEY, hospital_id, control).run():
            board.note(hospital_id, text)
    except (StepFailed, aiohttp.ClientError, TimeoutError, LookupError) as e:
        board.fail(hospital_id, f"{e}" or type(e).__name__)


def _tell(console: Console, base_url: str, admin_port: int, stage: Stage) -> None:
    switchboards = "  ".join(f"{h} http://127.0.0.1:{stage.simulators[h].control_port}/state" for h in HOSPITALS)
    header = f'-H "Authorization: Bearer {KEY}"'
    console.print(
        f"\nAPI          {base_url}/v1/hospitals   reference: {base_url}/docs   errors: {base_url}/docs/errors\n"
        f"Metrics      http://127.0.0.1:{admin_port}/metrics   readiness: http://127.0.0.1:{admin_port}/readyz\n"
        f"Simulators   {switchboards}\n"
        f"API key      {KEY}\n\nTry:\n"
        f"  curl {header} {base_url}/v1/hospitals\n"
        f'  curl {header} "{base_url}/v1/hospitals/soap-demo/slots?limit=3"\n'
        f'  curl {header} "{base_url}/v1/events?after=0&limit=5"',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _tell_operator(console: Console, config: Path) -> None:
    """What can be done beside the service while it runs."""
    today = dt.datetime.now(dt.timezone(dt.timedelta(hours=8))).date()  # the hospitals' day: they are in China
    program = Path(sys.executable).with_name("hisbridge")
    console.print(
        f"  {program} reconcile {today} --config {config}\n"
        f"  {program} ledger soap-demo --config {config}\n"
        f"\nThe log is {config.with_name('service.log')}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
