"""A whole installation for acceptance tests: three simulated hospitals, real settings and secrets, and the service itself.

    async with run_installation(folder) as site:            # the service in this process
        booking = await site.book("soap-demo")
    async with lay_out(folder) as site:                     # only hospitals, settings and keys; then, as often as needed:
        async with run_service(site): ...                   # the service in this process, or
        async with run_process(site) as process: ...        # `python -m service` as a process of its own

Everything is looked at as a portal, an operator or the hospital would see it: over HTTP.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import math
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

import service
from booking.api.auth import SCOPES
from booking.keys import SCOPE, add_key
from booking.secrets import new_data_key, new_digest_key
from connectors.port import Verb
from loadtest.ports import free_port
from loadtest.simulators import fhir, hl7, soap
from loadtest.simulators.hospital import Hospital
from tests.postgres import PostgresServer

T = TypeVar("T")

HOSPITALS = ("hl7-demo", "fhir-demo", "soap-demo")
LOCK_OP = {"hl7-demo": "lock_slot", "fhir-demo": "book", "soap-demo": "lock_slot"}
"""What the switchboard calls the message that takes a seat."""

KEY = "acceptance-portal-key"
OTHER_KEY = "another-portal-key"
NO_SCOPE_KEY = "slots-only-key"
ONE_HOSPITAL_KEY = "soap-only-key"
PATIENCE_S = 30.0
TRIES = 8  # of a request that a busy service tells to come again
START_PATIENCE_S = 120.0  # several processes that start on a busy machine
POLL_S = 0.05
LOG_SHOWN = 50_000  # characters of a process's log that a failing test shows

# Quick, so that tests are: a call is given up after 1.5 s, a hospital's silence is believed after 2 s.
QUICK: Mapping[str, Any] = {
    "mode": "live",
    "his_settle_s": 2,
    "sync_every_s": 1,
    "lock_wait_s": 30,
    "his_queue_deadline_s": 5,
    "horizon_days": 3,
}
CALL_TIMEOUT_S = 1.5
_SLOW_READS = ("fetch_schedules", "fetch_slots", "fetch_stops", "fetch_departments", "fetch_practitioners")
_TIMEOUTS_S = {verb.value: 5.0 if verb.value in _SLOW_READS else CALL_TIMEOUT_S for verb in Verb}

Simulator = hl7.HL7Simulator | fhir.FhirSimulator | soap.SoapSimulator


async def until(
    look: Callable[[], Awaitable[T]], done: Callable[[T], bool], *, what: str, within_s: float = PATIENCE_S
) -> T:
    """Look until `done`; fails with what was seen last. The bound only ends a test that would never end."""
    ends = time.monotonic() + within_s
    while True:
        seen = await look()
        if done(seen):
            return seen
        assert time.monotonic() < ends, f"{what}: not within {within_s:g} s; last seen: {seen!r}"
        await asyncio.sleep(POLL_S)


# --- people who do not exist ---------------------------------------------------------------------------------------

_NUMBERS = itertools.count(1)
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰涛明超霞平刚桂"


def made_up_person(number: int | None = None) -> dict[str, Any]:
    """A patient for POST .../patients with an identity card number of its own whose check character is right (GB 11643)."""
    n = next(_NUMBERS) if number is None else number
    body = f"110101{dt.date(1950, 1, 1) + dt.timedelta(days=n):%Y%m%d}{n % 999 + 1:03d}"
    weighed = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(body))
    return {
        "user_ref": f"user-{n}",
        "name": "张" + _GIVEN[n % 20] + _GIVEN[n // 20 % 20],
        "id_type": "id_card",
        "id_number": body + "10X98765432"[weighed % 11],
        "phone": f"138{n:08d}",
    }


def money(amount_fen: int, trade_no: str | None = None) -> dict[str, Any]:
    """The body of a payment report."""
    return {
        "channel": "test-pay",
        "trade_no": trade_no or uuid.uuid4().hex,
        "amount_fen": amount_fen,
        "paid_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


# --- a portal ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def body(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.data)
        return decoded

    @property
    def code(self) -> str:
        return str(self.body["code"])


class Portal:
    """Calls the API with one key. `call` returns whatever came; `get` and `post` demand success.

    Those come again when they are told to, as any client should: a machine may be busy with what is beside.
    """

    def __init__(self, session: aiohttp.ClientSession, key: str | None = KEY) -> None:
        self._session = session
        self._key = key

    async def call(
        self,
        method: str,
        path: str | URL,
        body: Any = None,
        *,
        data: Any = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """`body` is sent as JSON, `data` as it is; `key` is the Idempotency-Key."""
        sent = dict(headers or {})
        if self._key is not None:
            sent.setdefault("Authorization", f"Bearer {self._key}")
        if key is not None:
            sent["Idempotency-Key"] = key
        if body is not None:
            data = json.dumps(body, ensure_ascii=False).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self._session.request(method, path, data=data, headers=sent, params=query) as response:
            return Answer(response.status, response.headers, await response.read())

    async def _heeding(self, method: str, path: str, body: Any = None, **how: Any) -> Answer:
        for _ in range(TRIES):
            answer = await self.call(method, path, body, **how)
            if answer.status != 503 or "Retry-After" not in answer.headers:
                break
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        return answer

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = await self._heeding("GET", path, **query)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.data!r}"
        return answer.body

    async def post(self, path: str, body: Any, *, key: str | None = None) -> dict[str, Any]:
        answer = await self._heeding("POST", path, body, key=key or uuid.uuid4().hex)
        assert answer.status in (200, 201, 202), f"POST {path}: {answer.status} {answer.data!r}"
        return answer.body


# --- the hospitals -------------------------------------------------------------------------------------------------


@dataclass
class Clinic:
    """A simulated hospital with its switchboard; `close` and `reopen` take its system off the network and back."""

    id: str
    simulator: Simulator
    push_port: int = 0
    open: bool = True

    async def fault(self, op: str, mode: str, **options: Any) -> None:
        """From now on `op` fails; see loadtest.simulators.control."""
        await self._switch("POST", "/faults", {"op": op, "mode": mode, **options})

    async def heal(self) -> None:
        """Everything works again."""
        await self._switch("DELETE", "/faults", None)

    async def do(self, path: str, body: dict[str, Any]) -> None:
        """What a person at the hospital would do: /bill, /report, /stop."""
        await self._switch("POST", path, body)

    async def state(self) -> dict[str, Any]:
        """What the hospital has: visits, charges, people, calls by operation."""
        return await self._switch("GET", "/state", None)

    async def mrn_of(self, person: dict[str, Any]) -> str:
        """The number that the HIS knows them by; others may have come in the meantime."""
        [mrn] = [p["mrn"] for p in (await self.state())["people"] if p["name"] == person["name"]]
        return str(mrn)

    async def visits(self, order_no: str) -> list[dict[str, Any]]:
        """Every visit that the hospital has under one order number of ours, with `state`."""
        return [visit for visit in (await self.state())["visits"] if visit["key"] == order_no]

    async def calls(self, op: str) -> int:
        """How often `op` was asked for."""
        return int((await self.state())["calls"].get(op, 0))

    async def close(self) -> None:
        """Refuse connections: nothing listens any more. What the hospital knows stays."""
        if self.open:
            self.open = False
            await self.simulator.close()

    async def reopen(self) -> None:
        """Listen again where it listened before."""
        port, control_port = self.simulator.port, self.simulator.control_port
        if isinstance(self.simulator, soap.SoapSimulator):
            await self.simulator.start("127.0.0.1", port, control_port)
        else:
            await self.simulator.open("127.0.0.1", port, control_port)
        if isinstance(self.simulator, hl7.HL7Simulator):
            self.simulator.pusher.connect("127.0.0.1", self.push_port)
        self.open = True

    async def _switch(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.simulator.control_port}") as session,
            session.request(method, path, json=body) as response,
        ):
            assert response.status == 200, f"{method} {path}: {response.status}"
            answer: dict[str, Any] = await response.json()
            return answer


# --- the installation ----------------------------------------------------------------------------------------------


@dataclass
class Installation:
    """Hospitals, settings, keys, and once the service runs, where it answers."""

    folder: Path
    config: Path
    clinics: dict[str, Clinic]
    base_url: str = ""
    admin_url: str = ""
    session: aiohttp.ClientSession | None = None
    portals: dict[str | None, Portal] = field(default_factory=dict)

    def portal(self, key: str | None = KEY) -> Portal:
        """A portal with this key; None sends none."""
        assert self.session is not None, "the service does not run"
        return self.portals.setdefault(key, Portal(self.session, key))

    async def metrics(self) -> str:
        """The text of /metrics; where a parent has children, theirs after its own."""
        targets = [self.admin_url, *(f"http://{address}" for address in (await self.children()).values())]
        return "".join([await self._scrape(target) for target in targets])

    async def children(self) -> dict[tuple[str, str], str]:
        """The addresses of the parent's children by role and worker, as Prometheus finds them; {} of a single process."""
        assert self.session is not None
        async with self.session.get(f"{self.admin_url}/sd") as response:
            listed = await response.json() if response.status == 200 else []
        return {(one["labels"]["role"], one["labels"]["worker"]): one["targets"][0] for one in listed}

    async def _scrape(self, target: str) -> str:
        assert self.session is not None
        async with self.session.get(f"{target}/metrics") as response:
            assert response.status == 200
            return await response.text()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of one metric that have these labels; 0 when there is none."""
        total = 0.0
        for line in (await self.metrics()).splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(value)
        return total

    # --- what a portal does for a patient -------------------------------------------------------------------------

    async def patient(self, hospital_id: str, person: dict[str, Any] | None = None, key: str = KEY) -> str:
        """A patient's id, once the hospital knows who it is."""
        portal, of = self.portal(key), f"/v1/hospitals/{hospital_id}/patients"
        made = await portal.post(of, person or made_up_person())
        linked = await until(
            lambda: portal.get(f"{of}/{made['id']}"), lambda p: p["his_state"] != "pending", what="the patient's record"
        )
        assert linked["his_state"] == "linked", linked
        return str(made["id"])

    async def fetched(self, hospital_id: str) -> None:
        """Wait until the first sync has brought everything: until then each part of it changes the lists."""
        await until(
            lambda: self.metric("hisbridge_sync_age_seconds", hospital=hospital_id, kind="schedules"),
            lambda age_s: 0 < age_s < math.inf,
            what="the whole first sync",
        )

    async def open_slots(self, hospital_id: str) -> list[dict[str, Any]]:
        """What can be booked, once the first sync has brought it."""

        async def look() -> list[dict[str, Any]]:
            items = (await self.portal().get(f"/v1/hospitals/{hospital_id}/slots"))["items"]
            return [slot for slot in items if slot["status"] == "open"]

        return await until(look, lambda found: len(found) > 0, what="open slots")

    async def hold(self, hospital_id: str, *, patient_id: str | None = None) -> dict[str, Any]:
        """A fresh hold by a new patient (or the given one) on the slot with the most seats left."""
        patient_id = patient_id or await self.patient(hospital_id)
        slot = max(await self.open_slots(hospital_id), key=lambda s: int(s["remaining"]))
        body = {"user_ref": "user", "slot_id": slot["id"], "patient_id": patient_id}
        return await self.portal().post(f"/v1/hospitals/{hospital_id}/bookings", body)

    async def booking(self, hospital_id: str, booking: Mapping[str, Any]) -> dict[str, Any]:
        """The booking as it is now."""
        return await self.portal().get(f"/v1/hospitals/{hospital_id}/bookings/{booking['id']}")

    async def becomes(
        self, hospital_id: str, booking: Mapping[str, Any], *, within_s: float = PATIENCE_S, **wanted: Any
    ) -> dict[str, Any]:
        """The booking, once every named field has the wanted value."""
        return await until(
            lambda: self.booking(hospital_id, booking),
            lambda seen: all(seen[name] == value for name, value in wanted.items()),
            what=f"{hospital_id}: a booking with {wanted}",
            within_s=within_s,
        )

    async def locked(self, hospital_id: str) -> dict[str, Any]:
        """A hold whose seat is ours at the hospital, and which waits for money."""
        return await self.becomes(hospital_id, await self.hold(hospital_id), his_state="locked", payable=True)

    async def pay(self, hospital_id: str, booking: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """Report money for a booking: its fee, unless `changes` say otherwise."""
        return await self.portal().post(
            f"/v1/hospitals/{hospital_id}/bookings/{booking['id']}/payments", money(booking["fee_fen"]) | changes
        )

    async def booked(self, hospital_id: str) -> dict[str, Any]:
        """A booking that is paid and registered."""
        booking = await self.locked(hospital_id)
        await self.pay(hospital_id, booking)
        return await self.becomes(hospital_id, booking, state="booked", his_state="registered")

    async def cancel(self, hospital_id: str, booking: Mapping[str, Any]) -> dict[str, Any]:
        """Ask to cancel."""
        of = f"/v1/hospitals/{hospital_id}/bookings/{booking['id']}/cancel"
        return await self.portal().post(of, {"reason": "plans changed"})

    async def walk(self, hospital_id: str) -> None:
        """Everything that a patient needs of a hospital that is well: departments, a booking, its cancellation."""
        departments = f"/v1/hospitals/{hospital_id}/departments"
        await until(lambda: self.portal().get(departments), lambda d: len(d["items"]) == 3, what="the departments")
        booking = await self.booked(hospital_id)
        await self.cancel(hospital_id, booking)
        await self.becomes(hospital_id, booking, state="cancelled", his_state="released", payment_state="refund_due")

    async def others_walk(self, hospital_id: str) -> None:
        """While `hospital_id` is unwell, the other two serve their patients."""
        await asyncio.gather(*(self.walk(other) for other in HOSPITALS if other != hospital_id))


@asynccontextmanager
async def lay_out(
    folder: Path,
    *,
    hospital: Mapping[str, Any] | None = None,
    service_table: Mapping[str, Any] | None = None,
    store: Mapping[str, str] | None = None,
    tracing: Mapping[str, Any] | None = None,
    connector: Mapping[str, Mapping[str, Any]] | None = None,
    profiles: Mapping[str, str] | None = None,
    days: int = 1,
    seats: int = 5,
) -> AsyncIterator[Installation]:
    """Start the hospitals and write settings, secrets, schema and API keys. The service does not run yet.

    `hospital` changes settings of all three (see QUICK), `service_table` those of the process, `store` the databases, `tracing`
    where traces go, `connector` options of the main connection of a hospital. `profiles`: the site's own, by name.
    """
    hl7_listen, lis_listen = free_port(), free_port()
    hl7_sim = await hl7.start(hospital=Hospital("H", days=days, seats=seats), push_port=hl7_listen)
    fhir_sim = await fhir.start(days=days, seats=seats)
    soap_sim = await soap.start(days=days, seats=seats, push=("127.0.0.1", lis_listen))
    clinics = {
        "hl7-demo": Clinic("hl7-demo", hl7_sim, push_port=hl7_listen),
        "fhir-demo": Clinic("fhir-demo", fhir_sim),
        "soap-demo": Clinic("soap-demo", soap_sim),
    }
    databases = store or {
        "url": f"sqlite:///{folder.as_posix()}/hisbridge.db",
        "messages_url": f"sqlite:///{folder.as_posix()}/messages.db",
    }
    connectors: dict[str, dict[str, dict[str, Any]]] = {
        "hl7-demo": {
            "main": {
                "protocol": "hl7v2", "profile": "hl7v2_demo@1", "host": "127.0.0.1", "port": hl7_sim.port,
                "connections": 2, "listen_host": "127.0.0.1", "listen_port": hl7_listen, "timeout_s": _TIMEOUTS_S,
            },
        },
        "fhir-demo": {
            "main": {
                "protocol": "fhir", "profile": "fhir_demo@1", "base_url": fhir_sim.base_url, "timeout_s": _TIMEOUTS_S,
            },
        },
        "soap-demo": {
            "main": {
                "protocol": "soap", "profile": "dhc@1", "wsdl": f"{soap_sim.url}?wsdl", "timeout_s": _TIMEOUTS_S,
            },
            "lis": {
                "protocol": "hl7v2", "profile": "hl7v2@1", "listen_host": "127.0.0.1", "listen_port": lis_listen,
            },
        },
    }  # fmt: skip
    for hospital_id, changes in (connector or {}).items():
        connectors[hospital_id]["main"] |= changes
    for name, text in (profiles or {}).items():
        (folder / "profiles" / name).mkdir(parents=True)
        (folder / "profiles" / name / "profile.yaml").write_text(text, encoding="utf-8")
    settings: dict[str, Any] = {
        **({"profiles_dir": "profiles"} if profiles else {}),
        "service": {
            "listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "drain_s": 5,
            "key_cache_s": 1,
            **(service_table or {}),
        },
        "store": dict(databases),
        "tracing": dict(tracing or {}),
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {
            hospital_id: {
                "name": f"{hospital_id} 医院",
                "reserve_by": "book" if hospital_id == "fhir-demo" else "lock",
                **QUICK,
                **(hospital or {}),
                "connector": connectors[hospital_id],
            }
            for hospital_id in HOSPITALS
        },
    }
    settings["hospital"]["soap-demo"]["route"] = {"fetch_reports": "lis", "fetch_report": "lis"}
    config = folder / "hisbridge.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    write_secrets(folder)
    try:
        await add_keys(config)
        yield Installation(folder, config, clinics)
    finally:
        for clinic in clinics.values():
            await clinic.close()


@asynccontextmanager
async def postgres_store(server: PostgresServer) -> AsyncIterator[dict[str, str]]:
    """The `store` of an installation on PostgreSQL: two empty databases, dropped afterwards."""
    names = server.create_database(), server.create_database()
    try:
        yield {"url": server.url(names[0]), "messages_url": server.url(names[1])}
    finally:
        for name in names:
            server.drop_database(name)


def write_secrets(folder: Path) -> None:
    """The two key files that the settings name."""
    (folder / "data.key").write_text(new_data_key() + "\n", encoding="ascii")
    (folder / "digest.key").write_text(new_digest_key() + "\n", encoding="ascii")


async def add_keys(config: Path) -> None:
    """Bring the databases to their schema, and make the API keys of this module."""
    settings = service.read_settings(config)
    await service.migrate_stores(settings)
    async with service.open_store(settings) as store, store.write(SCOPE) as tx:
        for key, client_id, scopes, hospitals in (
            (KEY, "portal", list(SCOPES), None),
            (OTHER_KEY, "other", list(SCOPES), None),
            (NO_SCOPE_KEY, "kiosk", ["booking"], None),
            (ONE_HOSPITAL_KEY, "single", list(SCOPES), ["soap-demo"]),
        ):
            await add_key(tx, key, client_id=client_id, name=client_id, scopes=scopes, hospitals=hospitals)


@asynccontextmanager
async def run_installation(folder: Path, **options: Any) -> AsyncIterator[Installation]:
    """`lay_out`, and the service in this process, ready to sell at all three hospitals."""
    async with lay_out(folder, **options) as site, run_service(site):
        yield site


@asynccontextmanager
async def run_service(site: Installation) -> AsyncIterator[service.Service]:
    """The service of this installation in this process."""
    running = service.Service(service.read_settings(site.config))
    await running.start()
    try:
        async with _connected(site, running.addresses["api"], running.addresses["admin"]):
            yield running
    finally:
        await running.stop()


@asynccontextmanager
async def _connected(site: Installation, api: tuple[str, int], admin: tuple[str, int]) -> AsyncIterator[None]:
    site.base_url = f"http://{api[0]}:{api[1]}"
    site.admin_url = f"http://{admin[0]}:{admin[1]}"
    site.portals = {}
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(site.base_url, timeout=timeout, connector=connector) as session:
        site.session = session
        try:
            yield
        finally:
            site.session = None


# --- the service as a process --------------------------------------------------------------------------------------


@dataclass
class ServiceProcess:
    """`python -m service`, its log, and ways to end it."""

    process: asyncio.subprocess.Process
    log: Path

    def events(self) -> list[dict[str, Any]]:
        """The log's lines so far, as far as they are whole."""
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                found.append(json.loads(line))
        return found

    async def event(self, name: str, *, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """The first event of this name, once it is logged. Fails when the process ends before."""

        async def look() -> dict[str, Any] | None:
            found = next((e for e in self.events() if e.get("event") == name), None)
            assert found is not None or self.process.returncode is None, self.log.read_text(errors="replace")
            return found

        found = await until(look, lambda e: e is not None, what=f"the log's {name}", within_s=within_s)
        assert found is not None
        return found

    def terminate(self) -> None:
        """SIGTERM: drain."""
        self.process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()

    async def exit_code(self) -> int:
        """How it ended, once it has."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def run_process(site: Installation) -> AsyncIterator[ServiceProcess]:
    """The service of this installation as a process, ready; killed at the end if it still runs."""
    log = site.folder / f"service-{time.monotonic_ns()}.log"
    with log.open("wb") as stream:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "--config", str(site.config), stdout=stream, stderr=stream
        )
    process = ServiceProcess(started, log)
    try:
        await process.event("ready", within_s=START_PATIENCE_S)
        listening = {e["listener"]: e["on"] for e in process.events() if e.get("event") == "listening"}
        addresses = {name: (host, int(port)) for name, (host, _, port) in _split(listening).items()}
        async with _connected(site, addresses["api"], addresses["admin"]):
            yield process
    except BaseException:
        said = log.read_text(encoding="utf-8", errors="replace")
        print(said[-LOG_SHOWN:])  # noqa: T201 - why it failed, where it does so now and then
        raise
    finally:
        if started.returncode is None:
            await process.kill()


def _split(addresses: Mapping[str, str]) -> dict[str, tuple[str, str, str]]:
    return {name: address.rpartition(":") for name, address in addresses.items()}


# --- settings as TOML ----------------------------------------------------------------------------------------------


def to_toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """Settings as a TOML document: plain values first, then a header for each table."""
    plain = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{name} = {_value(value)}" for name, value in plain.items()]
    parts = ["\n".join(lines)] if plain or path else []
    parts += [to_toml(value, (*path, name)) for name, value in table.items() if isinstance(value, Mapping)]
    return "\n".join(part for part in parts if part) + "\n"


def _value(value: Any) -> str:
    """A value in one line; a table within a list is an inline one."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name} = {_value(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
