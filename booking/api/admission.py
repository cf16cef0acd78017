"""Whether a request is let in: a place for its class, a place for its client, the rates of its client and of its patient.

Refusals come in the order of what they cost: before the key is looked up, before the body is read, and then the rest. Both ways
in which a request is answered (`Endpoint.answer`, `Endpoint.answer_at_once`) pass through here, so that they admit alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from prometheus_client import Counter

from booking.api.auth import ApiClient
from booking.api.classes import RequestClass
from booking.api.places import Places, Shares
from booking.api.problems import ApiProblem
from booking.api.rates import RatePolicy, Rates, render_rates
from booking.api.routing import Call, Route
from monitoring.metrics import rate_limited, requests_shed

_RETRY_S = (1, 3)
LONGEST_ID = 64
"""More of an id is not kept for its rate: none that is known is longer, and whoever makes some up must not fill the memory."""


def retry_later_s() -> int:
    """When whoever is turned away shall come again: not all in the same second."""
    return random.randint(*_RETRY_S)


class AdmissionLimits(Shares, frozen=True, kw_only=True):
    """The settings of the same names explain them."""

    client_rate_per_s: float = 0.0
    client_burst: int = 200
    identity_rate_per_s: float = 0.0
    identity_burst: int = 20


class Admission:
    """The limits of one process: with several, each counts for itself.

    `enter` comes first and is followed by `leave` whatever happens; then `admit_client` when it is known who asks, and
    `admit_identity` when it is known for whom.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        *,
        away: Mapping[RequestClass, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`away`: the classes that are turned away now, and why; it changes with time."""
        self._away = {} if away is None else away
        self._places = Places(limits)
        self._clients = _rates("client", limits.client_rate_per_s, limits.client_burst, clock)
        self._identities = _rates("identity", limits.identity_rate_per_s, limits.identity_burst, clock)

    @property
    def in_flight(self) -> int:
        """Requests that are being answered now."""
        return self._places.count

    def enter(self, call: Call[Any, Any], route: Route) -> None:
        """Take a place. Raises ApiProblem overloaded."""
        request_class = route.request_class
        reason = self._places.refuses(request_class, waits=route.waits) or (
            self._away and self._away.get(request_class)
        )
        if reason:
            raise self._shed(request_class, reason)
        self._places.enter(request_class, waits=route.waits)
        call.place = route

    def leave(self, call: Call[Any, Any]) -> None:
        """It is answered, or will be let in again another way. Calls that had no place may come here too."""
        route = call.place
        if route is None:
            return
        self._places.leave(route.request_class, waits=route.waits)
        call.place = None
        if call.counts_for is not None:
            is_step = route.request_class is RequestClass.STEP
            self._places.pool(waits=route.waits).leave_client(call.counts_for, is_step=is_step)
            call.counts_for = None

    def admit_client(self, call: Call[Any, Any], route: Route, client: ApiClient) -> None:
        """Raises ApiProblem overloaded, rate_limited. From here on the answer tells the rates.

        Neither a client's share nor its rate binds its steps: its own reads must not keep its payments out. They count in the
        rate, have places of their own, and the persons' rates bind them; some of these places are left to others all the same.
        """
        # Before its rate: what is shed costs none of it.
        is_step = route.request_class is RequestClass.STEP
        if not self._places.pool(waits=route.waits).enter_client(client.id, is_step=is_step):
            raise self._shed(route.request_class, "client_in_flight")
        call.counts_for = client.id
        if self._clients is not None:
            self._take(call, route, self._clients, client.id, {"scope": "client"})

    def admit_identity(self, call: Call[Any, Any], route: Route) -> None:
        """Raises ApiProblem rate_limited. A repeat under the same Idempotency-Key counts like any other request."""
        if self._identities is None or not route.identified_by:
            return
        for name, value in _identities(call, route):
            self.admit_as(call, route, name, value)

    @property
    def counts_persons(self) -> bool:
        """Whether there is a rate for each person."""
        return self._identities is not None

    def admit_as(self, call: Call[Any, Any], route: Route, name: str, value: str) -> None:
        """Count a request for one person, by the name of the field that would say so. Raises ApiProblem rate_limited."""
        if self._identities is not None:
            key = (call.caller.id, name, value[:LONGEST_ID])
            self._take(call, route, self._identities, key, {"scope": "identity", "by": name})

    def forget(self, call: Call[Any, Any]) -> None:
        """Nothing was done for it: it will be let in again another way."""
        if self._clients is not None and call.client is not None:
            self._clients.give_back(call.client.id)

    def _take(self, call: Call[Any, Any], route: Route, rates: Rates, key: Any, extra: dict[str, Any]) -> None:
        left, policy = rates.take(key), rates.policy
        is_bound = rates is not self._clients or route.request_class is not RequestClass.STEP
        if call.rates is None:
            call.rates = {}
        told = call.rates.get(policy.name)
        if told is None or left.remaining <= told[1].remaining:  # of several identities, the one that has least left
            call.rates[policy.name] = (policy, left)
        if left.granted or not is_bound:
            return
        _limited(policy.name, route.request_class.value).inc()
        facts = {**extra, "rate_per_s": policy.rate_per_s, "burst": policy.burst}
        raise ApiProblem("rate_limited", retry_after_s=left.reset_s, extra=facts)

    def _shed(self, request_class: RequestClass, reason: str) -> ApiProblem:
        _shed(request_class.value, reason).inc()
        return ApiProblem("overloaded", retry_after_s=retry_later_s())


def rate_fields(call: Call[Any, Any]) -> bytes:
    """The fields that tell a caller of its rates; none where no limit is on."""
    return render_rates(call.rates.values()) if call.rates else b""


@cache
def _limited(scope: str, request_class: str) -> Counter:
    return rate_limited.labels(scope, request_class)


@cache
def _shed(request_class: str, reason: str) -> Counter:
    return requests_shed.labels(request_class, reason)


def _rates(name: str, rate_per_s: float, burst: int, clock: Callable[[], float]) -> Rates | None:
    return Rates(RatePolicy(name, rate_per_s, burst), clock=clock) if rate_per_s else None


def _identities(call: Call[Any, Any], route: Route) -> Iterator[tuple[str, str]]:
    """For whom a request is: what its path or its body names."""
    for name in route.identified_by:
        value = call.path[name] if name in call.path else getattr(call.body, name)
        yield name, value
