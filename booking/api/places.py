"""Who may be answered at once: `max_in_flight` places, some of them kept for what matters more, so that nobody takes all."""

from __future__ import annotations

import math

import msgspec

from booking.api.classes import RequestClass


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """`max_in_flight` and parts of it, and how many may wait for news beside; the settings of the same names explain them."""

    max_in_flight: int = 2_000
    max_waiting: int = 2_000
    step_share: float = 0.05
    hold_share: float = 0.2
    live_share: float = 0.25
    bulk_share: float = 0.1
    client_share: float = 0.8


class Pool:
    """So many places, of which one client gets so many at most. Every client has at least one, however few there are.

    Its steps do not count in its share, so that nothing else of its own keeps them out. But with them it takes no more than all
    places but `kept`: those are for the steps of others.
    """

    def __init__(self, most: int, client_share: float, *, kept: int = 0) -> None:
        self.most = most
        self.count = 0
        self._client_most = max(1, math.ceil(most * client_share))
        self._client_all = max(1, most - kept)
        self._of_client: dict[str, int] = {}
        self._steps_of_client: dict[str, int] = {}

    def enter_client(self, client_id: str, *, is_step: bool = False) -> bool:
        """Whether this client may keep the place that it has. `leave_client` must follow where it may."""
        held, steps = self._of_client.get(client_id, 0), self._steps_of_client.get(client_id, 0)
        if is_step:
            if held + steps >= self._client_all:
                return False
            self._steps_of_client[client_id] = steps + 1
            return True
        if held >= self._client_most:
            return False
        self._of_client[client_id] = held + 1
        return True

    def leave_client(self, client_id: str, *, is_step: bool = False) -> None:
        of_client = self._steps_of_client if is_step else self._of_client
        held = of_client[client_id] - 1
        if held:
            of_client[client_id] = held
        else:
            del of_client[client_id]


class Places:
    """Requests that are being answered, and beside them those that wait for news: they do nearly nothing, and last long.

    A class may take places until only those that are kept for better classes are free; live and bulk have a ceiling of their
    own besides, because they wait for others. Every class has at least one place.
    """

    def __init__(self, shares: Shares) -> None:
        most = shares.max_in_flight
        for_steps, for_holds = int(most * shares.step_share), int(most * shares.hold_share)
        ordinary = max(1, most - for_steps - for_holds)
        self._ceilings = {
            RequestClass.STEP: most,
            RequestClass.HOLD: max(1, most - for_steps),
            RequestClass.READ: ordinary,
            RequestClass.LIVE: ordinary,
            RequestClass.BULK: ordinary,
        }
        self._own_ceilings = {
            RequestClass.LIVE: max(1, int(most * shares.live_share)),
            RequestClass.BULK: max(1, int(most * shares.bulk_share)),
        }
        self._own = dict.fromkeys(self._own_ceilings, 0)
        self._answering = Pool(most, shares.client_share, kept=max(1, for_steps // 2) if most > 1 else 0)
        self._waiting = Pool(shares.max_waiting, shares.client_share)

    @property
    def count(self) -> int:
        """Places that are taken, those of who waits included."""
        return self._answering.count + self._waiting.count

    def pool(self, *, waits: bool) -> Pool:
        """The places that such a request is counted in."""
        return self._waiting if waits else self._answering

    def refuses(self, request_class: RequestClass, *, waits: bool = False) -> str | None:
        """Why a request of this class cannot have a place now; None: it can."""
        if waits:
            return "waiting" if self._waiting.count >= self._waiting.most else None
        if self._answering.count >= self._ceilings[request_class]:
            return "in_flight"
        own = self._own.get(request_class)
        full = own is not None and own >= self._own_ceilings[request_class]
        return f"{request_class.value}_in_flight" if full else None

    def enter(self, request_class: RequestClass, *, waits: bool = False) -> None:
        """Take a place. `leave` must follow."""
        if waits:
            self._waiting.count += 1
            return
        self._answering.count += 1
        if request_class in self._own:
            self._own[request_class] += 1

    def leave(self, request_class: RequestClass, *, waits: bool = False) -> None:
        if waits:
            self._waiting.count -= 1
            return
        self._answering.count -= 1
        if request_class in self._own:
            self._own[request_class] -= 1
