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
import os
import sys

if __name__ == "__main__":
    # Nothing of what is imported below is ever garbage, and looking for it is a fifth of the start. `_run` turns it on again.
    gc.disable()

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import web
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from booking.api.application import ApiOptions, build_server
from booking.api.auth import Authenticator
from booking.api.context import translate
from booking.api.documentation import documentation_routes
from booking.api.fhir.routes import fhir_routes, only_hospital
from booking.api.limits import allow_connections
from booking.api.parts import ApiParts
from booking.api.phases import ReleasePhases
from booking.api.routes import api_routes
from booking.api.server import ConnectionLimits
from booking.api.shedding import SheddingLimits
from booking.conversion import SettingsError, convert_options
from booking.keys import StoredKeys
from booking.openings import lock_verb
from booking.ports import LiveHis
from booking.secrets import read_keys, read_store_password, read_tracing_headers
from booking.settings import (
    Hospital,
    Listen,
    Mode,
    Settings,
    load_settings,
    parse_listen,
    read_settings_text,
    settings_of_text,
)
from booking.store.crypto import Vault
from booking.store.engine import SchemaMismatch, Store, StoreUnavailable
from booking.store.ids import new_id
from booking.store.migrate import SCRIPTS, has_schema, migrate
from booking.store.relay import Relay
from booking.webhook_targets import networks_of
from connectors.config import HospitalContext
from connectors.port import CannotServe, Capability, ChecksListener, Connector, Verb
from mappings.profile import ProfileError
from monitoring import garbage
from monitoring.admin import build_admin_app
from monitoring.child import Orders, read_orders, report_ready, watch_parent
from monitoring.collector import Collector, CollectorOptions
from monitoring.health import Health
from monitoring.listener import CannotListen, Listener, bind, shown
from monitoring.logs import configure_logging, get_logger, tell_role
from monitoring.metrics import forget_hospital
from monitoring.parent import Parent, PlanRefused, on_signals
from monitoring.supervisor import ChildFailed, ChildSpec
from scheduler_sync.ask import StoreClock
from scheduler_sync.desk import Desk
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.keeper import LeaseKeeper, Tenant
from scheduler_sync.leases import GLOBAL, Fence, Node
from scheduler_sync.live import LiveReads
from scheduler_sync.messages.documents import MessageDocuments
from scheduler_sync.messages.store import SCRIPTS as MESSAGE_SCRIPTS
from scheduler_sync.messages.store import VERSION_TABLE
from scheduler_sync.owners import AskedReads, LeaseBoard, Offer, offer_of
from scheduler_sync.report_links import HospitalLinks
from scheduler_sync.runtime import GlobalRuntime, HospitalRuntime

log = get_logger("service")

PROTOCOLS = ("hl7v2", "fhir", "soap")
STOPS_THE_START = (
    SettingsError, ProfileError, SchemaMismatch, StoreUnavailable, CannotListen, PlanRefused, ChildFailed,
)  # fmt: skip
"""What a person can mend: each says how, in one line."""
MOST_WORKERS = 8  # that `workers` is by itself: more processors than that are usually shared with others
KILL_MARGIN_S = 10.0  # beside `drain_s`, for connections to HIS and store to be closed
SWITCH_S = 0.0005  # a tenth of the usual
_VERBS = {v.value for v in Verb}


class Role(StrEnum):
    """What a child of the parent does."""

    API = "api"
    SYNC = "sync"


class Part(Protocol):
    """Something that runs between `start` and `close`. `close` may follow a `start` that failed."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Side:
    """Parts that start in order and end side by side."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    async def start(self) -> None:
        for part in self._parts:
            await part.start()

    async def close(self) -> None:
        await asyncio.gather(*(part.close() for part in self._parts))


async def _still_starting() -> str | None:
    return "still starting"


class Service:
    """One process: everything, or the part of it that its parent has ordered. `run` serves until a signal."""

    def __init__(self, settings: Settings, orders: Orders | None = None) -> None:
        self.settings = settings
        self.health = Health()
        self.links: dict[str, HospitalLink] = {}
        """Of the hospitals that are worked in this process now."""
        self._orders = orders
        self._started: list[Part] = []
        self._listeners: dict[str, Listener] = {}
        password = read_store_password(settings)
        vault, connections = check_secrets(settings), settings.store.connections
        self.store = Store(_with_password(settings.store.url, password), vault, connections=connections)
        self.messages = Store(_with_password(settings.store.messages_url, password), vault, connections=connections)

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where the listeners of this process are."""
        return {name: listener.address for name, listener in self._listeners.items()}

    async def start(self) -> None:
        """Connect, listen. Raises CannotListen and others; what was opened before is closed again."""
        try:
            if self._orders is None:
                await migrate_stores(self.settings)
            self.health.register("start", _still_starting)  # the admin listener is there before the others are
            for part in self._parts():
                self._started.append(part)
                await part.start()
            self.health.forget("start")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain: no new connections, requests in flight finish, commands in flight get their time, the rest stays stored."""
        self.health.start_leaving()
        for part in reversed(self._started):
            await part.close()
        await self.store.close()
        await self.messages.close()
        log.info("stopped")

    # --- what runs here -------------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[Part]:
        """What this process is made of, in the order of its start. They end in the opposite order."""
        self.health.register("store", self.store.check)
        role = None if self._orders is None else self._orders.role
        yield self._admin()
        yield from self._tracing(role)
        match role:
            case Role.API:
                yield from self._api_alone()
            case Role.SYNC:
                yield from self._sync_alone()
            case _:
                yield from self._everything()

    def _admin(self) -> Listener:
        runner, listen = (
            web.AppRunner(build_admin_app(self.health), access_log=None),
            self.settings.service.admin_listen,
        )
        if self._orders is None:
            return self._listener("admin", runner, parse_listen(listen), "service.admin_listen")
        return self._listener("metrics", runner, Listen(parse_listen(listen).host, 0), "service.admin_listen")

    def _tracing(self, role: str | None) -> Iterator[Part]:
        """Before all that begins spans, and so to the end of it."""
        tracing = self.settings.tracing
        if tracing.endpoint is not None:
            whose = {
                "service.name": tracing.service_name,
                "service.version": program_version(),
                "service.instance.id": new_id(),
                "hisbridge.role": role or "all",
            }
            headers = read_tracing_headers(self.settings)
            yield Collector(
                CollectorOptions(
                    endpoint=tracing.endpoint,
                    sample_ratio=tracing.sample_ratio,
                    timeout_s=tracing.timeout_s,
                    headers=headers,
                    resource=whose,
                )
            )

    def _everything(self) -> Iterator[Part]:
        self.health.register("messages", self.messages.check)
        yield Side([*(_Worked(self._runtime(h)) for h in self.settings.hospitals.values()), _Worked(self._global())])
        yield from self._api(LiveReads(self.links))

    def _api_alone(self) -> Iterator[Part]:
        clock = StoreClock()
        board = LeaseBoard(self.store, clock)
        asked = AskedReads(self.store, board, clock, {h.id: self._offer(h) for h in self.settings.hospitals.values()})
        yield from (Relay(self.store), board, asked)
        yield from self._api(asked)

    def _sync_alone(self) -> Iterator[Part]:
        self.health.register("messages", self.messages.check)
        clock = StoreClock()
        node_id, predecessor = self._node_ids()
        yield Relay(self.store)
        desk = Desk(self.store.vault, clock, node_id, LiveReads(self.links))
        listener = self._listener(
            "internal",
            web.AppRunner(desk.application(), access_log=None, shutdown_timeout=self.settings.service.drain_s),
            parse_listen(self.settings.service.internal_listen),
            "service.internal_listen",
        )
        yield listener
        makers: dict[str, Callable[[Fence], Tenant]] = {
            h.id: lambda fence, h=h: self._runtime(h, fence)  # type: ignore[misc]
            for h in self.settings.hospitals.values()
        }
        makers[GLOBAL] = lambda _: self._global()
        keeper = LeaseKeeper(
            self.store, Node(node_id, shown(listener.address)), makers, predecessor=predecessor, clock=clock
        )
        self.health.register("leases", keeper.check)
        yield keeper

    def _api(self, live: LiveHis) -> Iterator[Part]:
        """The booking API and what it needs, whoever answers its live reads."""
        service, hospitals = self.settings.service, self.settings.hospitals
        workers = 1 if self._orders is None else workers_of(self.settings)
        links = HospitalLinks()
        parts = ApiParts(
            self.store,
            hospitals,
            live,
            service,
            lambda: self.health.leaving,
            workers=workers,
            documents=MessageDocuments(self.messages),
            links=links,
        )
        # Before the parts start: snapshots listen to the feed from its first poll.
        routes, facade = api_routes(parts.context), fhir_routes(parts.context, version=program_version())
        yield links
        yield parts
        server = build_server(
            [*routes, *documentation_routes(routes, version=program_version()), *facade],
            authenticator=Authenticator(StoredKeys(self.store), ttl_s=service.key_cache_s),
            hospital_known=hospitals.__contains__,
            hospital_of_key=only_hospital(hospitals),
            translate=translate,
            health=self.health,
            phases=ReleasePhases(hospitals.values()),
            oldest_hold_s=parts.holds.oldest_s,
            options=ApiOptions(
                max_body_bytes=service.max_body_bytes,
                body_timeout_s=service.body_timeout_s,
                max_in_flight=service.max_in_flight,
                client_rate_per_s=service.client_rate_per_s,
                client_burst=service.client_burst,
                identity_rate_per_s=service.identity_rate_per_s,
                identity_burst=service.identity_burst,
                max_waiting=service.max_waiting,
                step_share=service.step_share,
                hold_share=service.hold_share,
                live_share=service.live_share,
                bulk_share=service.bulk_share,
                client_share=service.client_share,
                access_log=service.access_log.value,
                slow_request_s=service.slow_request_s,
                shedding=SheddingLimits(
                    shed_loop_delay_s=service.shed_loop_delay_s,
                    shed_hold_delay_s=service.shed_hold_delay_s,
                    shed_after_s=service.shed_after_s,
                ),
                connections=ConnectionLimits(
                    keepalive_s=service.keepalive_s,
                    head_timeout_s=service.head_timeout_s,
                    max_connections=allow_connections(service.max_connections),
                ),
            ),
        )
        listen = parse_listen(service.listen)
        self._listeners["api"] = listener = Listener(
            "api",
            web.ServerRunner(server, shutdown_timeout=service.drain_s),
            listen.host,
            listen.port,
            setting="service.listen",
            backlog=service.backlog,
            health=self.health,
            inherited=() if self._orders is None else tuple(self._orders.listening.values()),
        )
        yield listener

    def _listener(self, name: str, runner: web.BaseRunner, listen: Listen, setting: str) -> Listener:
        self._listeners[name] = Listener(
            name, runner, listen.host, listen.port, setting=setting, backlog=self.settings.service.backlog
        )
        return self._listeners[name]

    def _node_ids(self) -> tuple[str, str | None]:
        """The id of this process among all that ever work hospitals, and that of the process that had these orders before."""
        if self._orders is None:
            return new_id(), None
        instance = msgspec.json.decode(self._orders.text, type=dict[str, str])["instance"]
        life = self._orders.life
        return f"{instance}.{life}", f"{instance}.{life - 1}" if life else None

    def _runtime(self, hospital: Hospital, fence: Fence | None = None) -> HospitalRuntime:
        return HospitalRuntime(
            self.store,
            self.messages,
            hospital,
            build_connectors(self.settings, hospital),
            drain_s=self.settings.service.drain_s,
            on_failure=self._note_failure,
            fence=fence,
            running=self.links,
            keep_exchanges=self.settings.store.keep_exchanges,
        )

    def _global(self) -> GlobalRuntime:
        return GlobalRuntime(
            self.store,
            self.messages,
            list(self.settings.hospitals.values()),
            keep_messages_days=self.settings.store.keep_messages_days,
            keep_messages_mb=self.settings.store.keep_messages_mb,
            keep_report_reads_days=self.settings.store.keep_report_reads_days,
            drain_s=self.settings.service.drain_s,
            on_failure=self._note_failure,
            webhook_networks=networks_of(self.settings.service.webhook_networks),
        )

    def _offer(self, hospital: Hospital) -> Offer:
        link = HospitalLink(hospital, build_connectors(self.settings, hospital))
        forget_hospital(hospital.id)  # the link is only asked what it could do: it has no connections to tell of
        return offer_of(link)

    def _note_tidied(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("garbage_failed", exc_info=error)
            self._note_failure("garbage", error)

    def _note_failure(self, name: str, _: BaseException) -> None:
        """A background task must not end before we stop: one that fails makes the process unready, and says so."""

        async def check() -> str | None:
            return "failed, see the log; restart this process"

        self.health.register(name, check)

    # --- from start to end ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, serve until SIGTERM, SIGINT or the end of the parent, drain."""
        done = asyncio.Event()
        on_signals(done=done.set, again=self._hang_up)
        if self._orders is not None:
            watch_parent(done.set)
        await self.start()
        # What start-up made lives as long as the process: the collector need not look at it again. Nor now: the start leaves a
        # handful of garbage, and looking for it would keep the first requests waiting.
        gc.freeze()
        tidying = asyncio.create_task(garbage.FullPasses().run())
        tidying.add_done_callback(self._note_tidied)
        if self._orders is None:
            log.info("ready", hospitals=sorted(self.settings.hospitals))
        else:
            report_ready(shown(self.addresses["metrics"]))
        await done.wait()
        log.info("draining")
        tidying.cancel()
        await self.stop()

    def _hang_up(self) -> None:
        if self._orders is None:
            log.warning(
                "reload_refused", reason="one process does everything: a change of the settings takes a restart"
            )


class _Worked:
    """What a lease would start and stop, without a lease: there is no other process."""

    def __init__(self, tenant: HospitalRuntime | GlobalRuntime) -> None:
        self._tenant = tenant

    async def start(self) -> None:
        await self._tenant.start()

    async def close(self) -> None:
        await self._tenant.stop(drain=True)


class Crew:
    """The processes that share a PostgreSQL store, as the settings want them: the plan of `monitoring.parent`."""

    def __init__(self, config: Path) -> None:
        """Raises SettingsError, ProfileError."""
        self._config = config
        self.settings, _ = self._read()
        self._next = self.settings

    def _read(self) -> tuple[Settings, str]:
        text = read_settings_text(self._config)
        settings = settings_of_text(text, self._config, verbs=_VERBS)
        check_secrets(settings)
        for hospital in settings.hospitals.values():
            build_connectors(settings, hospital)
        return settings, text

    def children(self, listening: dict[str, int]) -> Sequence[ChildSpec]:
        """From the file as it is now. Raises PlanRefused."""
        try:
            self._next, text = self._read()
        except (SettingsError, ProfileError) as e:
            raise PlanRefused(str(e)) from e
        self._must_stay()
        ordered = msgspec.json.encode({"config": str(self._config), "text": text, "instance": new_id()}).decode()
        orders = [Orders(role=Role.SYNC, worker=0, text=ordered)] if self._next.service.sync else []
        for number in range(workers_of(self._next)):
            orders.append(Orders(role=Role.API, worker=number + 1, listening=listening, text=ordered))
        return [self._child(order) for order in orders]

    def kept(self) -> None:
        self.settings = self._next

    def _must_stay(self) -> None:
        """What the parent itself has opened cannot change under it. Raises PlanRefused."""
        was, new = self.settings, self._next
        for name, before, after in (
            ("service.listen", was.service.listen, new.service.listen),
            ("service.admin_listen", was.service.admin_listen, new.service.admin_listen),
            ("store.url", was.store.url, new.store.url),
            ("store.messages_url", was.store.messages_url, new.store.messages_url),
        ):
            if before != after:
                raise PlanRefused(f"{name} has changed, and that takes a restart. Nothing was changed.")

    def _child(self, orders: Orders) -> ChildSpec:
        command = sys.executable, str(Path(__file__).resolve()), "--role", orders.role, "--worker", str(orders.worker)
        return ChildSpec(command=command, orders=orders, kill_after_s=self._next.service.drain_s + KILL_MARGIN_S)

    async def run(self) -> None:
        """Be the parent until told to end. Raises CannotListen, PlanRefused, ChildFailed."""
        service = self.settings.service
        listen, admin = parse_listen(service.listen), parse_listen(service.admin_listen)
        await migrate_stores(self.settings)
        parent = Parent(
            self,
            bind(listen.host, listen.port, setting="service.listen", backlog=service.backlog),
            admin_host=admin.host,
            admin_port=admin.port,
            admin_setting="service.admin_listen",
            backlog=service.backlog,
        )
        await parent.run()


def build_connectors(settings: Settings, hospital: Hospital) -> dict[str, Connector]:
    """The connectors of one hospital, from its tables. Raises SettingsError."""
    facts = HospitalContext(
        id=hospital.id,
        zone=hospital.zone,
        currency=hospital.currency,
        clock_warn_s=hospital.clock_warn_s,
        calls_at_once=hospital.his_concurrency,
        writes=hospital.mode == Mode.LIVE,
    )
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
        except ProfileError as e:
            raise SettingsError(f"{where.at('profile')}: {e}") from e
        except ValueError as e:
            raise SettingsError(f"{where}: {e}") from e
    return built


def check_listeners(settings: Settings, hospital: Hospital, connectors: Mapping[str, Connector]) -> None:
    """Read the certificates and keys that connectors listen with. Raises SettingsError for what is no good."""
    for name, connector in connectors.items():
        if isinstance(connector, ChecksListener):
            try:
                connector.check_listener()
            except CannotServe as e:
                raise SettingsError(f"{settings.where.at('hospital', hospital.id, 'connector', name)}: {e}") from e


def missing_verb(hospital: Hospital, connectors: Mapping[str, Connector]) -> str | None:
    """The verb by which seats are taken at this hospital, where no connector of it offers that one."""
    verb = lock_verb(hospital)
    offered = any(connector.traits(Verb(verb)).capability != Capability.OFF for connector in connectors.values())
    return None if offered else verb


def check_secrets(settings: Settings) -> Vault:
    """The keys of the installation. Raises SettingsError where they, or another secret, are missing or malformed."""
    found = read_keys(settings)
    read_tracing_headers(settings)
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
    """One of the two databases, for a command of the CLI. Raises SchemaMismatch, StoreUnavailable."""
    url = settings.store.messages_url if messages else settings.store.url
    store = Store(_with_password(url, read_store_password(settings)), check_secrets(settings))
    try:
        await _require_schema(store, messages)
        yield store
    finally:
        await store.close()


async def _require_schema(store: Store, messages: bool) -> None:
    scripts, version_table = (MESSAGE_SCRIPTS, VERSION_TABLE) if messages else (SCRIPTS, "alembic_version")
    try:
        is_there = await has_schema(store.reader, scripts, version_table=version_table)
    except (OSError, DBAPIError) as e:
        raise StoreUnavailable(f"the store cannot be opened: {type(e).__name__}") from e
    if not is_there:
        raise SchemaMismatch("the databases do not have this program's schema: run `hisbridge migrate` first")


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
    return load_settings(config, verbs=_VERBS)


def is_single(settings: Settings) -> bool:
    """Whether one process does everything: SQLite has one writer, and Windows hands no sockets on."""
    return make_url(settings.store.url).get_backend_name() == "sqlite" or sys.platform == "win32"


def workers_of(settings: Settings) -> int:
    """API processes of this node."""
    return settings.service.workers or min(os.cpu_count() or 1, MOST_WORKERS)


def serve(config: str | Path) -> int:
    """Run the service until it is told to stop; the exit code."""
    path = Path(config)

    def prepare() -> Coroutine[Any, Any, None]:
        settings = read_settings(path)
        configure_logging(settings.service.log_level)
        if is_single(settings):
            return Service(settings).run()
        tell_role("parent")
        return Crew(path).run()

    return _run(prepare)


def _serve_orders() -> int:
    """A child of `serve`: run what the parent has ordered."""
    orders = read_orders()

    def prepare() -> Coroutine[Any, Any, None]:
        told = msgspec.json.decode(orders.text, type=dict[str, str])
        settings = settings_of_text(told["text"], Path(told["config"]), verbs=_VERBS)
        configure_logging(settings.service.log_level)
        tell_role(orders.role, orders.worker)
        return Service(settings, orders).run()

    return _run(prepare)


def _run(prepare: Callable[[], Coroutine[Any, Any, None]]) -> int:
    gc.freeze()  # what was imported lives as long as the process: the collector need not look at it
    garbage.take_over()
    # The loop gives the interpreter away at every statement, and gets it back from a thread that computes after this time.
    sys.setswitchinterval(SWITCH_S)
    try:
        work = prepare()
        if sys.platform == "win32":
            asyncio.run(work)
        else:
            import uvloop

            uvloop.run(work)
    except STOPS_THE_START as e:
        print(e, file=sys.stderr)  # noqa: T201  # the start's own errors are for the terminal
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python service.py --config hisbridge.toml`."""
    parser = argparse.ArgumentParser(prog="service.py", description="Run hisbridge.")
    parser.add_argument("--config", type=Path, help="the settings file (TOML)")
    # A child's, so that it is known in a list of processes; its settings come over stdin.
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.role is not None:
        return _serve_orders()
    if given.config is None:
        parser.error("the following arguments are required: --config")
    return serve(given.config)


if __name__ == "__main__":
    sys.exit(main())
