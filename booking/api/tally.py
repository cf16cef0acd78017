"""How finished requests are counted: by route, and for the service level by class, phase and verdict."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from prometheus_client import Counter, Histogram

from booking.api.classes import LIMIT_S, QUICK_S, SOLD_OUT, SOLD_OUT_LIMIT_S, RequestClass
from booking.api.phases import ReleasePhases
from booking.api.problems import PROBLEMS, Sli
from booking.api.routing import Route
from monitoring.metrics import http_request_seconds, http_requests, method_label, sli_requests

GONE: Final = 499  # in metrics only: the caller hung up, and no status reached it
_HIS_FAILED = frozenset({"his_unavailable", "his_reply_invalid"})
_TOO_MANY_REQUESTS = 429
_CONFLICT = 409

AnyRoute = Route | None
"""The route of a request; None where it led nowhere."""


class Verdict(StrEnum):
    """good: a right answer in time, a business refusal too. slow: a right answer, too late. failed: we could not answer. shed:
    we would not. limited: beyond the caller's rate. invalid: the caller's own error. gone: nobody waited for the answer.
    """

    GOOD = "good"
    SLOW = "slow"
    FAILED = "failed"
    SHED = "shed"
    LIMITED = "limited"
    INVALID = "invalid"
    GONE = "gone"


_OF_SLI = {
    Sli.OK: Verdict.GOOD,
    Sli.REJECTED: Verdict.GOOD,
    Sli.CLIENT_ERROR: Verdict.INVALID,
    Sli.SERVER_ERROR: Verdict.FAILED,
    Sli.SHED: Verdict.SHED,
}

_Children = tuple[Counter, Histogram, Counter]


class Tally:
    """Counts each request once. What a caller can choose (a hospital that does not exist, a method) never becomes a label."""

    def __init__(self, hospital_known: Callable[[str], bool], phases: ReleasePhases) -> None:
        self._hospital_known = hospital_known
        self._is_release = phases.is_release
        self._children: dict[tuple[Any, ...], _Children] = {}

    def count(
        self,
        route: AnyRoute,
        method: str,
        status: int,
        code: str | None,
        hospital_id: str | None,
        took_s: float,
        wait_s: float = 0.0,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """`code` is the problem's, None for a success; `wait_s` what the caller was willing to wait for news."""
        if hospital_id is None or not self._hospital_known(hospital_id):
            hospital_id = ""
        late = took_s > QUICK_S and took_s - wait_s > _limit_s(route, code)
        key = (route, method, status, code, hospital_id, self._is_release(hospital_id), late)
        children = self._children.get(key)
        if children is None:
            children = self._children_of(*key)
        children[0].inc()
        children[1].observe(took_s, exemplar)
        children[2].inc()

    def _children_of(
        self, route: AnyRoute, method: str, status: int, code: str | None, hospital_id: str, release: bool, late: bool
    ) -> _Children:
        """The series of one kind of request. The kinds are few: methods that nobody knows are one."""
        label, path = method_label(method), path_of(route)
        request_class, verdict = judge(route, status, code, late=late)
        sli = "gone" if status == GONE else sli_of(code).value
        children = (
            http_requests.labels(path, label, str(status), sli),
            http_request_seconds.labels(path, label),
            sli_requests.labels(hospital_id, request_class, "release" if release else "ordinary", verdict.value),
        )
        if label == method:
            self._children[route, method, status, code, hospital_id, release, late] = children
        return children


def judge(route: AnyRoute, status: int, code: str | None, *, late: bool) -> tuple[str, Verdict]:
    """The class of a finished request, and how it counts."""
    request_class = _class_of(route, code)
    if status == GONE:
        return request_class, Verdict.GONE
    if status == _TOO_MANY_REQUESTS:
        return request_class, Verdict.LIMITED
    verdict = _OF_SLI[sli_of(code)]
    return request_class, Verdict.SLOW if late and verdict is Verdict.GOOD else verdict


def path_of(route: AnyRoute) -> str:
    """The route's template; never the path, which a caller can choose freely."""
    return "unmatched" if route is None else route.path


def _class_of(route: AnyRoute, code: str | None) -> str:
    if code in _HIS_FAILED:
        return RequestClass.LIVE.value  # whoever asked: it is the hospital's availability, not ours
    if route is None:
        return RequestClass.READ.value
    return SOLD_OUT if _is_sold_out(route, code) else route.request_class.value


def _limit_s(route: AnyRoute, code: str | None) -> float:
    if route is None:
        return LIMIT_S[RequestClass.READ]
    return SOLD_OUT_LIMIT_S if _is_sold_out(route, code) else LIMIT_S[route.request_class]


def _is_sold_out(route: Route, code: str | None) -> bool:
    if route.request_class is not RequestClass.HOLD or code is None:
        return False
    problem = PROBLEMS[code]
    return problem.sli is Sli.REJECTED and problem.status == _CONFLICT


def sli_of(code: str | None) -> Sli:
    """How an answer counts, by its problem's code."""
    return Sli.OK if code is None else PROBLEMS[code].sli
