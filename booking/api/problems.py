"""Every error that the API can answer, and how it is put on the wire (RFC 9457, `application/problem+json`).

`PROBLEMS` is the one table of codes: handlers raise `ApiProblem(code)`, the documentation prints the table, and the OpenAPI
document lists it. A code never changes its meaning; new ones may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any

import msgspec

from booking.api.catalogue import CATALOGUE
from booking.api.wire import Ready, join_head, render_head

PROBLEM_JSON = "application/problem+json"
ERRORS_PAGE = "/docs/errors"


class Sli(StrEnum):
    """How a finished request counts in `hisbridge_http_requests_total{class}`."""

    OK = "ok"
    REJECTED = "rejected"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    SHED = "shed"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `do_en` and `do_zh` tell the portal's developer what to do."""

    code: str
    status: int
    retryable: bool
    sli: Sli
    title_en: str
    title_zh: str
    do_en: str
    do_zh: str


PROBLEMS: Mapping[str, Problem] = {
    code: Problem(
        code=code,
        status=status,
        retryable=retryable,
        sli=Sli(sli),
        title_en=title_en,
        title_zh=title_zh,
        do_en=do_en,
        do_zh=do_zh,
    )
    for code, status, retryable, sli, title_en, title_zh, do_en, do_zh in CATALOGUE
}


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one field: where (`$.card.number`, or a parameter's name) and what was expected; never the value."""

    path: str
    expected: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer with a status of 400 and above.

    Branch on `code`; show `title` (in the language of Accept-Language) to a person; log `instance` and quote it to us.
    `retryable` says whether the very same request may succeed later.
    """

    type: str
    title: str
    title_en: str
    title_zh: str
    status: int
    code: str
    retryable: bool
    detail: str | None = None
    instance: str | None = None
    errors: tuple[FieldError, ...] = ()
    retry_after_s: int | None = None
    extra: dict[str, Any] = {}


class ApiProblem(Exception):
    """Raised anywhere in a handler; becomes the answer.

    `detail` explains this occurrence in English without patient data. `extra` is for facts that a client can act on (the
    current price, when a slot opens). `headers` are added to the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: int | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.problem = PROBLEMS[code]
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.extra = dict(extra) if extra else {}
        self.headers = headers

    def __str__(self) -> str:
        return self.code if self.detail is None else f"{self.code}: {self.detail}"

    @property
    def code(self) -> str:
        return self.problem.code


_encode = msgspec.json.Encoder().encode


def describe_problem(problem: ApiProblem, *, request_id: str, accept_language: str = "") -> ProblemDocument:
    """The document for one occurrence. `instance` names the request, so that it can be found in the log."""
    known = problem.problem
    return ProblemDocument(
        type=f"{ERRORS_PAGE}#{known.code}",
        title=known.title_zh if prefers_chinese(accept_language) else known.title_en,
        title_en=known.title_en,
        title_zh=known.title_zh,
        status=known.status,
        code=known.code,
        retryable=known.retryable,
        detail=problem.detail,
        instance=f"urn:hisbridge:request:{request_id}",
        errors=problem.errors,
        retry_after_s=problem.retry_after_s,
        extra=problem.extra,
    )


def answer_problem(problem: ApiProblem, *, request_id: str, accept_language: str = "") -> Ready:
    """The answer for one occurrence, with `Retry-After` where a delay is known."""
    status, chinese = problem.problem.status, prefers_chinese(accept_language)
    if problem.retry_after_s is None and not problem.headers:
        head = _head(status, chinese)
    else:
        head = render_head(status, {**_fields(chinese), **(problem.headers or {}), **_retry_after(problem)})
    if problem.errors or problem.extra or problem.retry_after_s is not None:
        document = describe_problem(problem, request_id=request_id, accept_language=accept_language)
        return join_head(head, status, _encode(document))
    plain = _pieces(problem.code, chinese)
    if not problem.detail:
        return join_head(head, status, b"%b%b%b" % (plain.to_instance, request_id.encode(), plain.end))
    detail = b"%b%b%b" % (plain.to_detail, _encode(problem.detail), plain.from_detail)
    return join_head(head, status, b"%b%b%b" % (detail, request_id.encode(), plain.end))


def _fields(chinese: bool) -> dict[str, str]:
    return {
        "Content-Type": PROBLEM_JSON,
        "Content-Language": "zh" if chinese else "en",
        "Cache-Control": "no-store",
    }


def _retry_after(problem: ApiProblem) -> dict[str, str]:
    return {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}


@cache
def _head(status: int, chinese: bool) -> bytes:
    return render_head(status, _fields(chinese))


class _Pieces(msgspec.Struct, frozen=True):
    """A document without details, cut where the request id goes, and where `detail` and the request id go."""

    to_instance: bytes
    to_detail: bytes
    from_detail: bytes
    end: bytes


@cache
def _pieces(code: str, chinese: bool) -> _Pieces:
    """The bytes around what differs: "sold out" is said thousands of times a second."""
    language, hole = "zh" if chinese else "en", "\x7f"
    bare = _encode(describe_problem(ApiProblem(code), request_id=hole, accept_language=language))
    detailed = _encode(describe_problem(ApiProblem(code, hole), request_id=hole, accept_language=language))
    to_instance, _, end = bare.partition(hole.encode())
    to_detail, from_detail, _ = detailed.split(hole.encode())
    return _Pieces(to_instance, to_detail.removesuffix(b'"'), from_detail.removeprefix(b'"'), end)


@lru_cache(maxsize=256)
def prefers_chinese(accept_language: str) -> bool:
    """Whether Accept-Language (RFC 9110, section 12.5.4) ranks Chinese above English. Without a wish: English."""
    ranks = {"zh": 0.0, "en": 0.0}
    for part in accept_language.lower()[:200].split(","):
        tag, _, parameters = part.strip().partition(";")
        language = tag.partition("-")[0]
        if language not in ranks:
            continue
        try:
            quality = float(parameters.strip().removeprefix("q=")) if parameters.strip() else 1.0
        except ValueError:
            continue
        ranks[language] = max(ranks[language], quality)
    return ranks["zh"] > ranks["en"] or (
        ranks["zh"] > 0 and ranks["zh"] == ranks["en"] and accept_language.lower().lstrip().startswith("zh")
    )
