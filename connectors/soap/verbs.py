"""A profile's verbs, compiled: which operation a request becomes, and how its reply is read.

Keys of `call` in a SOAP profile

    operation:   the SOAP operation, where `connection.operation` does not name one for all
    trade:       the dialect's own code of the business: what layers and arguments read as `trade`
    cases:       [{when: {payment: present}, operation, request, reply}, ...]   the first whose `when` holds, in place of the
                 verb's own operation, request and reply; none: the verb is not offered for this request.
                 `when` maps dotted names of the request to `present`, or to a list of values. Under names in place of a list
                 (`cases: {paid: {...}, unpaid: {...}}`) a site's profile changes a line of one; so it is with `also`
    also:        [{operation, trade, request, reply, when}, ...]   further calls of a read, whose records are added: a dialect
                 with a trade for laboratory reports and another for examinations
    until_found: true: of a read whose request does not say which of them it is: `also` is asked only until one has something
    first:       {operation, trade, request, reply, passes: [already_exists]}   of a write, or of one of its cases: a call that
                 is made before, and done or refused with one of `passes`, or the write has its outcome. What its reply
                 keeps in `his_refs` stands in those of the request, and of the booking. `asks: true`: it changes nothing,
                 so that nothing was done where its own answer is lost (`not_sent`, to be tried again)
    per:         departments | schedules     one call for each (of the window, or all of them)
    echo:        true: the request's root becomes the last child of the reply's root, so that a reply's mapping can read
                 what the HIS does not repeat; or a request tree of its own, which is put there and never sent
    partial:     keep (default): records that cannot be mapped are logged and left out; fail: the whole read fails
    success, error_code, error_text, error_texts, faults, retryable: see connectors/soap/rules.py. Of `error_texts` and
                 `faults` only what differs: words that are not named stay the dialect's, and `word: []` takes one away

`then` is one further call per record: {operation, request, reply, into: FIELD}; its request reads `record` and `request`,
and what its reply maps becomes the record's FIELD.

`pages` asks a read again and again: {size: 100, rows: XPATH, max: 500}; requests read `page.number` (from 1), `page.offset` and
`page.size`. A page with fewer `rows` than `size` is the last, and so is one that is not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from connectors.port import REJECT_CODES
from connectors.soap.forms import Form, with_places
from connectors.soap.rules import Find, ReplyRules
from connectors.soap.xpath import XPathLanguage
from mappings.engine import RecordMap, RequestTree, compile_record_map, compile_request
from mappings.profile import Profile, VerbSpec

_RULE_KEYS = ("success", "error_code", "error_text", "error_texts", "faults", "retryable")
_CALL_KEYS = ("operation", "trade", "cases", "also", "until_found", "first", "per", "echo", "partial", *_RULE_KEYS)
_CASE_KEYS = ("when", "operation", "trade", "first", "request", "reply", "ref")
_FIRST_KEYS = ("operation", "trade", "request", "reply", "passes", "asks", "ref")
_THEN_KEYS = ("operation", "trade", "request", "reply", "into", "ref")
_PAGES_KEYS = ("size", "rows", "max", "ref")
MAX_PAGES = 500


class Per(StrEnum):
    """What a read is repeated for, because the HIS does not answer for everything at once."""

    DEPARTMENTS = "departments"
    SCHEDULES = "schedules"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One way to carry a verb: the operation, its document, and the map of its reply (None: only success matters).

    `echo` writes what is put into the reply's root: the request again, or what the profile names besides.
    """

    operation: str
    trade: str
    request: RequestTree
    reply: RecordMap | None
    rules: ReplyRules
    echo: RequestTree | None
    when: dict[str, frozenset[str] | None] = {}
    first: First | None = None

    def fits(self, request: object) -> bool:
        """Whether every `when` of this case holds for `request`."""
        for path, values in self.when.items():
            found = value_at(request, path)
            if found is None or found == "" or (values is not None and str(found) not in values):
                return False
        return True


class First(msgspec.Struct, frozen=True, kw_only=True):
    """The call before a write, and the refusals after which the write goes on all the same. `asks`: it changes nothing."""

    case: Case
    passes: frozenset[str]
    asks: bool = False


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """How a read is repeated for pages of `size` rows, `most` at most; `rows` finds the rows of a reply."""

    size: int
    rows: Find
    most: int


class Then(msgspec.Struct, frozen=True, kw_only=True):
    """The follow-up call for each record, and the field that it fills."""

    case: Case
    into: str


class CompiledVerb(msgspec.Struct, frozen=True, kw_only=True):
    """One verb of a profile, ready to use."""

    spec: VerbSpec
    cases: tuple[Case, ...]
    also: tuple[Case, ...]
    per: Per | None
    then: Then | None
    keep_partial: bool
    pages: Pages | None = None
    until_found: bool = False

    @property
    def operations(self) -> set[str]:
        """All the operations that it may call."""
        calls = [*self.cases, *self.also, *([self.then.case] if self.then else [])]
        return {one.operation for one in calls} | {one.first.case.operation for one in calls if one.first}

    def case_for(self, request: object) -> Case | None:
        """The first case that fits, None if the verb is not offered for this request."""
        return next((case for case in self.cases if case.fits(request)), None)

    def calls_for(self, request: object) -> tuple[Case, ...]:
        """All the calls of a read: the one of `case_for`, and those of `also` that fit. Empty: not offered."""
        case = self.case_for(request)
        return () if case is None else (case, *(one for one in self.also if one.fits(request)))


def value_at(request: object, path: str) -> Any:
    """The value at a dotted name in records and mappings; None where any step is missing."""
    for name in path.split("."):
        request = request.get(name) if isinstance(request, Mapping) else getattr(request, name, None)
    return request


def calls_in(spec: VerbSpec, key: str, path: str) -> list[tuple[str, dict[str, Any]]]:
    """The calls that a verb's `call` has under `cases` or `also`, each with its place in the profile."""
    given = spec.call.get(key) or []
    named = given.items() if isinstance(given, dict) else enumerate(given)
    return [
        (f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}", entry)
        for name, entry in named
        if entry is not None
    ]


def compile_verbs(profile: Profile, connection: dict[str, Any]) -> dict[str, CompiledVerb]:
    """Compile all native verbs. Raises ProfileError, which names file, line and path."""
    if not connection.get("success"):
        profile.fail("connection.success", "a SOAP profile must say how success is told")
    return {
        name: _Compiler(profile, connection, name, spec).verb()
        for name, spec in profile.verbs.items()
        if spec.capability == "native"
    }


def _laid_over(own: Any, common: Any) -> Any:
    """A verb's own rule; of what stands under words it has its own first, and then those that it does not name."""
    if isinstance(own, dict) and isinstance(common, dict):
        return own | {word: said for word, said in common.items() if word not in own}
    return own


class _Compiler:
    def __init__(self, profile: Profile, connection: dict[str, Any], name: str, spec: VerbSpec) -> None:
        self._profile, self._spec, self._path = profile, spec, f"verbs.{name}"
        profile.check_keys(f"{self._path}.call", spec.call, _CALL_KEYS)
        self._operation, self._packed = connection.get("operation"), connection.get("form") == Form.PACKED
        settings = {key: connection[key] for key in _RULE_KEYS if key in connection}
        for key in _RULE_KEYS:
            if key in spec.call:
                settings[key] = _laid_over(spec.call[key], settings.get(key))
        self._rules = ReplyRules(profile, f"{self._path}.call", settings, spec.codes)

    def verb(self) -> CompiledVerb:
        spec, call = self._spec, self._spec.call
        if "cases" in call:
            cases = self._cases("cases")
        else:
            own = {name: call.get(name) for name in ("operation", "trade", "first")}
            own |= {"request": spec.request, "reply": spec.reply}
            cases = (self._case(self._path, own, tuple(own)),)
        also = self._cases("also")
        if any(case.reply is None for case in also):
            self._profile.fail(f"{self._path}.call.also", "a further call of a read needs its reply")
        per, partial = call.get("per"), call.get("partial", "keep")
        if per is not None and per not in [p.value for p in Per]:
            self._profile.fail(f"{self._path}.call.per", "per: departments or schedules")
        if partial not in ("keep", "fail"):
            self._profile.fail(f"{self._path}.call.partial", "partial: keep or fail")
        if not isinstance(call.get("until_found", False), bool):
            self._profile.fail(f"{self._path}.call.until_found", "until_found: true or false")
        return CompiledVerb(
            spec=spec,
            cases=cases,
            also=also,
            per=Per(per) if per else None,
            then=self._then(),
            keep_partial=partial == "keep",
            pages=self._pages(),
            until_found=call.get("until_found", False),
        )

    def _cases(self, key: str) -> tuple[Case, ...]:
        path = f"{self._path}.call.{key}"
        if not isinstance(self._spec.call.get(key, []), list | dict):
            self._profile.fail(path, f"{key}: calls, as a list or under names")
        return tuple(self._case(place, entry, _CASE_KEYS) for place, entry in calls_in(self._spec, key, path))

    def _pages(self) -> Pages | None:
        pages, path = self._spec.pages, f"{self._path}.pages"
        if pages is None:
            return None
        self._profile.check_keys(path, pages, _PAGES_KEYS)
        size, most, rows = pages.get("size"), pages.get("max", MAX_PAGES), pages.get("rows")
        if not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 100_000 for n in (size, most)):
            self._profile.fail(path, "pages: {size: rows of a page, rows: XPATH, max: pages at most}")
        try:
            return Pages(size=size, rows=XPathLanguage().compile(str(rows or "")), most=most)  # type: ignore[arg-type]
        except ValueError as error:
            self._profile.fail(f"{path}.rows", str(error))

    def _then(self) -> Then | None:
        then = self._spec.then
        if then is None:
            return None
        path = f"{self._path}.then"
        if not isinstance(then.get("into"), str) or then.get("reply") is None:
            self._profile.fail(path, "then: {operation, request, reply, into: the record's field}")
        return Then(case=self._case(path, then, _THEN_KEYS), into=then["into"])

    def _case(self, path: str, entry: dict[str, Any], keys: tuple[str, ...]) -> Case:
        self._profile.check_keys(path, entry, keys)
        request, reply, trade = entry.get("request"), entry.get("reply"), entry.get("trade")
        operation = self._operation or entry.get("operation")
        if not isinstance(operation, str) or request is None:
            self._profile.fail(
                path, "a native verb of a SOAP profile needs request, and call.operation or connection.operation"
            )
        if self._packed:
            request = with_places(request)
        compiled = compile_request(self._profile, f"{path}.request", request)
        return Case(
            operation=operation,
            trade="" if trade is None else str(trade),
            request=compiled,
            reply=None if reply is None else compile_record_map(self._profile, f"{path}.reply", reply, XPathLanguage()),
            rules=self._rules,
            echo=self._echo(compiled),
            when={key: self._values(f"{path}.when", v) for key, v in entry.get("when", {}).items()},
            first=self._first(f"{path}.call.first" if path == self._path else f"{path}.first", entry.get("first")),
        )

    def _first(self, path: str, entry: dict[str, Any] | None) -> First | None:
        if entry is None:
            return None
        passes = entry.get("passes", []) if isinstance(entry, dict) else None
        asks = entry.get("asks", False) if isinstance(entry, dict) else None
        if not isinstance(passes, list) or not REJECT_CODES.issuperset(map(str, passes)) or not isinstance(asks, bool):
            self._profile.fail(
                path, "first: {operation, trade, request, reply, passes: [rejection codes], asks: true or false}"
            )
        return First(case=self._case(path, entry, _FIRST_KEYS), passes=frozenset(passes), asks=asks)

    def _echo(self, request: RequestTree) -> RequestTree | None:
        echo = self._spec.call.get("echo", False)
        if isinstance(echo, dict):
            return compile_request(self._profile, f"{self._path}.call.echo", echo)
        if not isinstance(echo, bool):
            self._profile.fail(f"{self._path}.call.echo", "echo: true, or a request tree")
        return request if echo else None

    def _values(self, path: str, value: Any) -> frozenset[str] | None:
        if value == "present":
            return None
        if not isinstance(value, list):
            self._profile.fail(path, "when: {name: present} or {name: [values]}")
        return frozenset(str(item) for item in value)
