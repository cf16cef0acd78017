"""The composition root: settings -> store -> connectors -> sync -> API. Nothing is wired anywhere else.

python service.py --config hisbridge.toml
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import importlib.metadata
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path

from aiohttp import web
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from booking.api.application import ApiOptions, build_app
from booking.api.auth import Authenticator
from booking.api.context import Context, translate
from booking.api.documentation import documentation_routes
from booking.api.routes import api_routes
from booking.commands import wake_topic
from booking.conversion import SettingsError, convert_options
from booking.keys import StoredKeys
from booking.news import NUMBERED
from booking.secrets import read_keys, read_store_password
from booking.settings import Hospital, ReserveBy, Settings, load_settings, parse_listen
from booking.store.crypto import Vault
from booking.store.engine import SchemaMismatch, Store, StoreUnavailable
from booking.store.migrate import SCRIPTS, migrate
from connectors.config import HospitalContext
from connectors.port import Connector, Verb
from mappings.profile import ProfileError
from monitoring.admin import build_admin_app
from monitoring.health import Health
from monitoring.logs import configure_logging, get_logger
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.inbox import Inbox
from scheduler_sync.live import LiveReads
from scheduler_sync.messages.store import SCRIPTS as MESSAGE_SCRIPTS
from scheduler_sync.messages.store import VERSION_TABLE
from scheduler_sync.outbox import OutboxWorker
from scheduler_sync.pull import Puller
from scheduler_sync.sweeps import MEASURE_EVERY_S, NEWS_EVERY_S, repeat, sweeps
from scheduler_sync.webhooks import WebhookSender

log = get_logger("service")

PROTOCOLS = ("hl7v2", "fhir", "soap")
_ONE = text("select 1")
BACKLOG = 4096  # connections that may wait to be accepted when a crowd arrives at once; aiohttp's own default is 128


class StartError(Exception):
    """The service cannot start; the text says why and what to do."""


class Service:
    """One process that does everything. `start`, then `stop`; `run` does both around a signal."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.health = Health()
        self.addresses: dict[str, tuple[str, int]] = {}
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reads: list[asyncio.Task[None]] = []
        self._runners: list[web.AppRunner] = []
        self._workers: list[OutboxWorker] = []
        self.links: dict[str, HospitalLink] = {}
        vault = check_secrets(settings)
        password = read_store_password(settings)
        self.store = Store(_with_password(settings.store.url, password), vault)
        self.messages = Store(_with_password(settings.store.messages_url, password), vault)
        self._webhooks = WebhookSender(self.store)

    async def start(self) -> None:
        """Migrate, connect, listen. Raises StartError; what was opened before is closed again."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        await migrate_stores(self.settings)
        hospitals = self.settings.hospitals
        for hospital in hospitals.values():
            self.links[hospital.id] = HospitalLink(hospital, build_connectors(self.settings, hospital))
        await self._listen("api", self._api(hospitals), self.settings.service.listen)
        await self._listen("admin", build_admin_app(self.health), self.settings.service.admin_listen)
        self.health.register("store", lambda: _store_check(self.store))
        self.health.register("messages", lambda: _store_check(self.messages))
        for hospital in hospitals.values():
            await self._start_hospital(hospital)
        for work in sweeps(
            self.store,
            self.messages,
            list(hospitals.values()),
            self._stopping,
            keep_messages_days=self.settings.store.keep_messages_days,
        ):
            self._spawn(work, "sweep")
        bell = self.store.bell
        send = repeat(self._stopping, NEWS_EVERY_S, self._webhooks.send_due, name="webhooks", bell=bell, topic=NUMBERED)
        self._spawn(send, "webhooks")

    async def _start_hospital(self, hospital: Hospital) -> None:
        link = self.links[hospital.id]
        inbox = Inbox(self.store, self.messages, hospital)
        await inbox.heal()
        for name, connector in link.connectors.items():
            await connector.start()
            try:
                await connector.serve(inbox.handle)
            except OSError as e:
                raise StartError(f"hospital {hospital.id}, connector {name}: cannot listen: {e.strerror}") from e
        worker = OutboxWorker(self.store, hospital, link)
        self._workers.append(worker)
        self._spawn(worker.run(self._stopping), f"outbox {hospital.id}")
        pull = self._spawn(Puller(self.store, hospital, link).run(self._stopping), f"pull {hospital.id}")
        self._reads.append(pull)
        for measure in (worker.measure, inbox.measure):
            self._spawn(
                repeat(self._stopping, MEASURE_EVERY_S, measure, name="measure", hospital_id=hospital.id), "measure"
            )

    def _api(self, hospitals: Mapping[str, Hospital]) -> web.Application:
        service = self.settings.service
        context = Context(self.store, hospitals, LiveReads(self.links), lambda: self.health.draining)
        routes = api_routes(context)
        return build_app(
            [*routes, *documentation_routes(routes, version=program_version())],
            authenticator=Authenticator(StoredKeys(self.store), ttl_s=service.key_cache_s),
            hospital_known=hospitals.__contains__,
            translate=translate,
            health=self.health,
            options=ApiOptions(
                max_body_bytes=service.max_body_bytes,
                body_timeout_s=service.body_timeout_s,
                max_in_flight=service.max_in_flight,
                client_rate_per_s=service.client_rate_per_s,
                client_burst=service.client_burst,
                access_log=service.access_log.value,
                slow_request_s=service.slow_request_s,
            ),
        )

    async def _listen(self, name: str, app: web.Application, address: str) -> None:
        listen = parse_listen(address)
        runner = web.AppRunner(app, shutdown_timeout=self.settings.service.drain_s, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, listen.host, listen.port, backlog=BACKLOG).start()
        except OSError as e:
            setting = "service.listen" if name == "api" else "service.admin_listen"
            raise StartError(
                f"cannot listen on {listen}: {e.strerror or e}. Stop the other program or set {setting}."
            ) from e
        host, port = runner.addresses[0][:2]
        self.addresses[name] = (host, port)
        log.info("listening", listener=name, on=f"{host}:{port}")

    def _spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        if not isinstance(task, asyncio.Task):
            raise TypeError(f"{name} is not a coroutine")
        task.set_name(name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A background task must not end before we stop; one that fails makes the process unready, and says so."""
        if task.cancelled() or self._stopping.is_set() or task.exception() is None:
            return
        log.critical("background_task_failed", task=task.get_name(), exc_info=task.exception())
        name = task.get_name()

        async def check() -> str | None:
            return "failed, see the log; restart this process"

        self.health.register(name, check)

    async def stop(self) -> None:
        """Drain: no new connections, requests in flight finish, commands in flight get their time, the rest stays stored."""
        self.health.start_draining()
        for runner in self._runners:
            for site in list(runner.sites):
                await site.stop()
        for runner in self._runners:
            await runner.cleanup()
        self._stopping.set()
        for hospital_id in self.settings.hospitals:
            self.store.bell.ring(wake_topic(hospital_id))
        for task in self._reads:
            task.cancel()  # a fetch that is cut off changes nothing
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.settings.service.drain_s)
        for worker in self._workers:
            await worker.stop_waiting()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self.links.values():
            for connector in link.connectors.values():
                await connector.close()
        await self._webhooks.close()
        await self.store.close()
        await self.messages.close()
        log.info("stopped")

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, drain."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on the loop
                loop.add_signal_handler(number, done.set)
        await self.start()
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        log.info("ready", hospitals=sorted(self.settings.hospitals))
        await done.wait()
        log.info("draining")
        await self.stop()


def build_connectors(settings: Settings, hospital: Hospital) -> dict[str, Connector]:
    """The connectors of one hospital, from its tables. Raises SettingsError, ProfileError."""
    facts = HospitalContext(id=hospital.id, zone=hospital.zone, currency=hospital.currency)
    profiles_dir = None if settings.profiles_dir is None else Path(settings.profiles_dir)
    built: dict[str, Connector] = {}
    for name, table in hospital.connector.items():
        where = settings.where.at("hospital", hospital.id, "connector", name)
        protocol = table.get("protocol")
        if protocol not in PROTOCOLS:
            raise SettingsError(f"{where.at('protocol')}: expected one of {', '.join(PROTOCOLS)}")
        package = importlib.import_module(f"connectors.{protocol}")
        options = convert_options(table, package.Options, where)
        try:
            built[name] = package.create(facts, name, options, profiles_dir=profiles_dir)
        except ValueError as e:
            raise SettingsError(f"{where}: {e}") from e
    if hospital.reserve_by == ReserveBy.QUOTA:
        raise SettingsError(
            f"{settings.where.at('hospital', hospital.id, 'reserve_by')}: quota is not offered by this version; use lock or book"
        )
    return built


def check_secrets(settings: Settings) -> Vault:
    """The keys of the installation. Raises SettingsError where they are missing or malformed."""
    found = read_keys(settings)
    return Vault(found.data_keys, found.digest_key)


async def migrate_stores(settings: Settings) -> None:
    """Bring both databases to this program's schema. Raises SchemaMismatch, StoreUnavailable."""
    password = read_store_password(settings)
    try:
        await migrate(_with_password(settings.store.url, password), SCRIPTS)
        await migrate(
            _with_password(settings.store.messages_url, password), MESSAGE_SCRIPTS, version_table=VERSION_TABLE
        )
    except (OSError, DBAPIError) as e:
        raise StoreUnavailable(f"the store cannot be opened: {type(e).__name__}") from e


@contextlib.asynccontextmanager
async def open_store(settings: Settings, *, messages: bool = False) -> AsyncIterator[Store]:
    """One of the two databases, for a command of the CLI."""
    url = settings.store.messages_url if messages else settings.store.url
    store = Store(_with_password(url, read_store_password(settings)), check_secrets(settings))
    try:
        yield store
    finally:
        await store.close()


async def _store_check(store: Store) -> str | None:
    async with store.read() as tx:
        await tx.all(_ONE)
    return None


def _with_password(url: str, password: str | None) -> str:
    parsed = make_url(url)
    if password is not None and parsed.get_backend_name() != "sqlite":
        parsed = parsed.set(password=password)
    return parsed.render_as_string(hide_password=False)


def program_version() -> str:
    """The version of the installed program."""
    try:
        return importlib.metadata.version("hisbridge")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


def read_settings(config: str | Path) -> Settings:
    """The settings file, checked with the verbs of the port. Raises SettingsError."""
    return load_settings(config, verbs={v.value for v in Verb})


def serve(config: str | Path) -> int:
    """Run the service until it is told to stop; the exit code."""
    try:
        settings = read_settings(config)
        configure_logging(settings.service.log_level)
        _run(settings)
    except (SettingsError, ProfileError, SchemaMismatch, StoreUnavailable, StartError) as e:
        print(e, file=sys.stderr)  # noqa: T201  # the start's own errors are for the terminal
        return 2
    return 0


def _run(settings: Settings) -> None:
    async def main() -> None:
        await Service(settings).run()

    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """`python service.py --config hisbridge.toml`."""
    parser = argparse.ArgumentParser(prog="service.py", description="Run hisbridge.")
    parser.add_argument("--config", required=True, type=Path, help="the settings file (TOML)")
    return serve(parser.parse_args(arguments).config)


if __name__ == "__main__":
    sys.exit(main())
