"""Every error that the API can answer, and how it is put on the wire (RFC 9457, `application/problem+json`).

`PROBLEMS` is the one table of codes: handlers raise `ApiProblem(code)`, the documentation prints the table, and the OpenAPI
document lists it. A code never changes its meaning; new ones may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from booking.api.catalogue import CATALOGUE

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
        super().__init__(code if detail is None else f"{code}: {detail}")
        self.problem = PROBLEMS[code]
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.extra = dict(extra or {})
        self.headers = headers

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


def answer_problem(problem: ApiProblem, *, request_id: str, accept_language: str = "") -> web.Response:
    """The answer for one occurrence, with `Retry-After` where a delay is known."""
    chinese = prefers_chinese(accept_language)
    headers = _HEADERS[chinese]
    if problem.retry_after_s is not None or problem.headers:
        headers = headers.copy()
        headers.update(problem.headers or {})
        if problem.retry_after_s is not None:
            headers["Retry-After"] = str(problem.retry_after_s)
    if problem.detail or problem.errors or problem.extra or problem.retry_after_s is not None:
        document = describe_problem(problem, request_id=request_id, accept_language=accept_language)
        return web.Response(body=_encode(document), status=problem.problem.status, headers=headers)
    before, after = _bare_body(problem.code, accept_language if chinese else "")
    return web.Response(body=before + request_id.encode() + after, status=problem.problem.status, headers=headers)


_HEADERS: dict[bool, CIMultiDict[str]] = {
    chinese: CIMultiDict(
        {"Content-Type": PROBLEM_JSON, "Content-Language": "zh" if chinese else "en", "Cache-Control": "no-store"}
    )
    for chinese in (False, True)
}


@lru_cache(maxsize=512)
def _bare_body(code: str, accept_language: str) -> tuple[bytes, bytes]:
    """The body of a problem without details, around the request id: "sold out" is said thousands of times a second."""
    hole = "\x7f"
    document = describe_problem(ApiProblem(code), request_id=hole, accept_language=accept_language)
    before, _, after = _encode(document).partition(hole.encode())
    return before, after


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
