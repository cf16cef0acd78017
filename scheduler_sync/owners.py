"""What an API process knows of those who work the hospitals: the leases, read every second, and live reads asked of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from sqlalchemy import select

from booking.ports import LiveFailed
from booking.store.crypto import SealBroken
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import leases, nodes
from connectors.port import Verb
from mappings.canonical import Attachment, Bill, Patient, Report, Settlement
from monitoring.logs import get_logger
from scheduler_sync.ask import MAX_ANSWER_BYTES, MOVED, PATH, Asking, StoreClock
from scheduler_sync.gateway import READ_ATTEMPTS, HospitalLink
from scheduler_sync.leases import LEASES

log = get_logger("owners")

POLL_S = 1.0  # beside the bell, and beside those who cannot wait for it
PAUSE_S = 0.1  # between two looks, however many ask for one
PATIENCE_S = 3.0  # a read waits so long for a hospital that changes hands
HANDOVER_MS = 15_000  # a lease that changes hands takes so long at most; until then the HIS counts as it last did
CONNECT_S = 2.0
MARGIN_S = 2.0
TELLING_S = 0.5  # beyond the caller's time: the owner itself says that it is over


class _Lease(msgspec.Struct, frozen=True):
    owner: str
    address: str
    until_ms: int
    his_status: str


class LeaseBoard:
    """The leases as the store has them, at most about a second old."""

    def __init__(self, store: Store, clock: StoreClock) -> None:
        self._store = store
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._wanted = asyncio.Event()
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read; returns at once."""
        self._task = asyncio.create_task(self._run(), name="lease board")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            rung = self._store.bell.listen(LEASES)
            try:
                await self.look()
            except StoreUnavailable as e:
                log.error("store_unavailable", sweep="lease_board", reason=str(e))
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(PAUSE_S)
            await self._wait(rung)

    async def _wait(self, rung: asyncio.Future[None]) -> None:
        wanted = asyncio.ensure_future(self._wanted.wait())
        either: list[asyncio.Future[Any]] = [rung, wanted]
        try:
            await asyncio.wait(either, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._wanted.clear()
            rung.cancel()
            wanted.cancel()

    async def next_look(self) -> None:
        """Wait until the leases have been read anew; all who wait share one look."""
        self._wanted.set()
        await self._looked.wait()

    async def look(self) -> None:
        """Read the leases. Raises StoreUnavailable."""
        query = select(leases, nodes.c.address).join(nodes, nodes.c.id == leases.c.owner, isouter=True)
        async with self._store.read() as tx:
            rows = await tx.all(query)
            self._clock.note(tx.now_ms)
        self._leases = {
            row["hospital_id"]: _Lease(row["owner"], row["address"] or "", row["until_ms"], row["his_status"])
            for row in rows
        }

    def owner(self, hospital_id: str) -> tuple[str, str] | None:
        """Id and address of the node that works a hospital now."""
        lease = self._leases.get(hospital_id)
        if lease is None or not lease.address or lease.until_ms <= self._clock.now_ms():
            return None
        return lease.owner, lease.address

    def his_status(self, hospital_id: str) -> str:
        """As its owner last told; `down` where nobody works the hospital."""
        lease = self._leases.get(hospital_id)
        if lease is None or lease.until_ms + HANDOVER_MS <= self._clock.now_ms():
            return "down"
        return lease.his_status


class Offer(msgspec.Struct, frozen=True):
    """What a hospital's connectors can do, known from their settings alone, and how long a read of each verb may take."""

    capabilities: dict[str, str]
    longest_s: dict[Verb, float]


def offer_of(link: HospitalLink) -> Offer:
    """The offer of a hospital whose connectors are built, and need not be started."""
    wait_s = link.hospital.his_queue_deadline_s
    return Offer(link.capabilities(), {v: READ_ATTEMPTS * (link.traits(v).timeout_s + wait_s) for v in Verb})


class AskedReads:
    """`booking.ports.LiveHis` in an API process: the process that works the hospital is asked."""

    def __init__(
        self,
        store: Store,
        board: LeaseBoard,
        clock: StoreClock,
        offers: Mapping[str, Offer],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._vault = store.vault
        self._board = board
        self._clock = clock
        self._offers = offers
        self._patience_s = patience_s
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def capabilities(self, hospital_id: str) -> dict[str, str]:
        return self._offers[hospital_id].capabilities

    def his_status(self, hospital_id: str) -> str:
        return self._board.his_status(hospital_id)

    async def bills(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Bill]:
        found: list[Bill] = await self._ask(hospital_id, Verb.FETCH_BILLS, "bills", within_s, patient)
        return found

    async def presettlement(
        self, hospital_id: str, bill: Bill, patient: Patient, order_no: str, *, within_s: float | None = None
    ) -> Settlement:
        asked = (bill, patient, order_no)
        found: Settlement = await self._ask(hospital_id, Verb.PRESETTLE_BILL, "presettlement", within_s, *asked)
        return found

    async def reports(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Report]:
        found: list[Report] = await self._ask(hospital_id, Verb.FETCH_REPORTS, "reports", within_s, patient)
        return found

    async def report(
        self, hospital_id: str, patient: Patient, report_id: str, *, within_s: float | None = None
    ) -> Report | None:
        found: Report | None = await self._ask(hospital_id, Verb.FETCH_REPORT, "report", within_s, patient, report_id)
        return found

    async def attachment(
        self, hospital_id: str, attachment: Attachment, *, within_s: float | None = None
    ) -> Attachment:
        found: Attachment = await self._ask(hospital_id, Verb.FETCH_ATTACHMENT, "attachment", within_s, attachment)
        return found

    async def _ask(self, hospital_id: str, verb: Verb, name: str, within_s: float | None, *arguments: Any) -> Any:
        offer = self._offers[hospital_id]
        if offer.capabilities[verb.value] != "native":
            raise LiveFailed("not_offered_by_hospital", f"{verb.value} is off at this hospital.")
        return await self._ask_owner(hospital_id, name, arguments, offer.longest_s[verb] + MARGIN_S, within_s)

    async def _ask_owner(
        self, hospital_id: str, name: str, arguments: tuple[Any, ...], timeout_s: float, within_s: float | None
    ) -> Any:
        """Ask whoever works the hospital, each once; where that is nobody, or another one by now, look again for a while."""
        loop = asyncio.get_running_loop()
        gives_up = math.inf if within_s is None else loop.time() + within_s
        ends = min(loop.time() + self._patience_s, gives_up)
        tried: set[str] = set()
        while True:
            owner = self._board.owner(hospital_id)
            if owner is not None and owner[0] not in tried:
                tried.add(owner[0])
                left_s = None if within_s is None else max(0.0, gives_up - loop.time())
                answered, result = await self._ask_node(*owner, hospital_id, name, arguments, timeout_s, left_s)
                if answered:
                    return result
            try:
                async with asyncio.timeout(ends - loop.time()):
                    await self._board.next_look()
            except TimeoutError:
                raise LiveFailed("his_unavailable", "No process works this hospital's system at the moment.") from None

    async def _ask_node(
        self,
        node_id: str,
        address: str,
        hospital_id: str,
        name: str,
        arguments: tuple[Any, ...],
        timeout_s: float,
        left_s: float | None,
    ) -> tuple[bool, Any]:
        """Whether it has answered, and what. Raises LiveFailed for the HIS's own failure."""
        asking = Asking(self._vault, self._clock, node_id, hospital_id, name, arguments, within_s=left_s)
        if left_s is not None:
            timeout_s = min(timeout_s, left_s + TELLING_S)
        try:
            answer = asking.read(await self._post(address, asking.sealed, timeout_s))
            if answer.failed is None:
                return True, asking.result(answer)
        except (aiohttp.ClientError, TimeoutError, SealBroken, msgspec.DecodeError) as e:
            log.warning("owner_did_not_answer", hospital=hospital_id, node=node_id, reason=type(e).__name__)
            return False, None
        if answer.failed == MOVED:
            return False, None
        raise LiveFailed(answer.failed, answer.detail)

    async def _post(self, address: str, sealed: bytes, timeout_s: float) -> bytes:
        if self._session is None:
            raise RuntimeError("start() comes first")
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        async with self._session.post(f"http://{address}{PATH}", data=sealed, timeout=timeout) as response:
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise aiohttp.ClientPayloadError("the answer is too large")
            return bytes(body)
