"""Who may be answered at once: `max_in_flight` places, some of them kept for what matters more, so that nobody takes all."""

from __future__ import annotations

import math

import msgspec

from booking.api.classes import RequestClass


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of `max_in_flight`; the settings of the same names explain them."""

    max_in_flight: int = 2_000
    step_share: float = 0.05
    hold_share: float = 0.2
    live_share: float = 0.25
    bulk_share: float = 0.1
    client_share: float = 0.8


class Places:
    """Requests that are being answered: in all, of each class, and of each client.

    A class may take places until no more than those of the better classes are free; live and bulk have a ceiling of their own
    besides, because they wait for others. Every class has at least one place, however few there are.
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
        self._client_ceiling = max(1, math.ceil(most * shares.client_share))
        self._of_client: dict[str, int] = {}
        self.count = 0

    def refuses(self, request_class: RequestClass) -> str | None:
        """Why a request of this class cannot have a place now; None: it can."""
        if self.count >= self._ceilings[request_class]:
            return "in_flight"
        own = self._own.get(request_class)
        return (
            f"{request_class.value}_in_flight" if own is not None and own >= self._own_ceilings[request_class] else None
        )

    def enter(self, request_class: RequestClass) -> None:
        """Take a place. `leave` must follow."""
        self.count += 1
        if request_class in self._own:
            self._own[request_class] += 1

    def enter_client(self, client_id: str) -> bool:
        """Whether this client may have one place more. `leave_client` must follow where it may."""
        held = self._of_client.get(client_id, 0)
        if held >= self._client_ceiling:
            return False
        self._of_client[client_id] = held + 1
        return True

    def leave(self, request_class: RequestClass) -> None:
        self.count -= 1
        if request_class in self._own:
            self._own[request_class] -= 1

    def leave_client(self, client_id: str) -> None:
        held = self._of_client[client_id] - 1
        if held:
            self._of_client[client_id] = held
        else:
            del self._of_client[client_id]
