"""What runs behind the API in one process: the change feed, the writer of holds with its memory, and the context of handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from booking.api.context import Context
from booking.api.holding import renderer, terms_by
from booking.feed import ChangeFeed
from booking.inventory.memory import Memory
from booking.inventory.writer import HoldWriter, count_waiting
from booking.ports import Documents, Links, LiveHis
from booking.report_reads import ReadLog
from booking.settings import Hospital, Service
from booking.store.engine import Store
from booking.waiting_room.keeper import Keeper
from booking.waiting_room.rooms import WaitingRooms
from booking.webhook_targets import networks_of


class ApiParts:
    """`context` is what the routes are made of. `start` before the first request, `close` after the last."""

    def __init__(
        self,
        store: Store,
        hospitals: Mapping[str, Hospital],
        live: LiveHis,
        service: Service,
        draining: Callable[[], bool] = lambda: False,
        *,
        workers: int = 1,
        documents: Documents | None = None,
        links: Links | None = None,
    ) -> None:
        """`workers` share the hospitals' holds on this node."""
        self.feed = ChangeFeed(store, hospitals)
        memory = Memory(self.feed)
        self.feed.listen(on_fragment=memory.on_fragment, on_key=memory.on_key)
        rooms = WaitingRooms(store, hospitals, self.feed.store_now_ms)
        self.holds = HoldWriter(
            store,
            terms=terms_by(live),
            render=renderer,
            memory=memory,
            gate=rooms.gate,
            queue=service.hold_queue,
            deadline_s=service.hold_deadline_s,
        )
        count_waiting(self.holds, hospitals)
        self.rooms = Keeper(store, rooms, self.holds.delay_s, share=1 / workers)
        self.context = Context(
            store,
            hospitals,
            live,
            self.holds,
            draining,
            feed=self.feed,
            snapshot_bytes=service.snapshot_mb * 1_000_000,
            documents=documents,
            links=links,
            rooms=rooms,
            reads=ReadLog(store),
            public_url=service.public_url,
            webhook_networks=networks_of(service.webhook_networks),
        )

    async def start(self) -> None:
        """Begin to follow the store, and to take holds."""
        await self.feed.start()
        await self.holds.start()
        await self.rooms.start()

    async def close(self) -> None:
        """Decide what waits, then let go of the store."""
        await self.rooms.close()
        await self.holds.close()
        await self.feed.close()
