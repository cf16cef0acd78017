"""A search as it was asked: checked by the tables, and ready to be compared with, cached by and told again in links."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

import msgspec

from booking.api.fhir.bases import Bases, relative
from booking.api.fhir.search.tables import KINDS, RESULT_PARAMETERS, Kind
from booking.api.fhir.serving import MOST_KEPT_CHARS, Parameters, invalid
from booking.api.problems import ApiProblem, FieldError

DEFAULT_COUNT, MOST_COUNT = 100, 500
SUMMARIES = ("true", "text", "data", "count", "false")
TOTALS = ("none", "estimate", "accurate")
_MODIFIERS = {"token": ("", "not"), "reference": ("",), "date": ("",), "string": ("", "exact", "contains")}
_MOST_VALUES = 200


class Criterion(msgspec.Struct, frozen=True):
    """One parameter with its alternatives, as they were sent; a resource must fit every criterion."""

    name: str
    modifier: str
    text: str


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`count` 0 asks for the number alone. Frozen and hashable: equal ones have equal answers."""

    kind: str
    criteria: tuple[Criterion, ...] = ()
    count: int = DEFAULT_COUNT
    cursor: str | None = None
    sort: str = ""
    summary: str = "false"
    elements: tuple[str, ...] = ()
    total: str = "none"
    includes: tuple[str, ...] = ()
    iterates: tuple[str, ...] = ()

    def texts(self, name: str) -> list[Criterion]:
        """The criteria of one parameter."""
        return [criterion for criterion in self.criteria if criterion.name == name]

    @property
    def is_short(self) -> bool:
        """Whether it is worth keeping by."""
        return sum(len(one.text) for one in self.criteria) + len(self.cursor or "") <= MOST_KEPT_CHARS

    @property
    def counts_only(self) -> bool:
        return self.count == 0 or self.summary == "count"

    def link(self, base: str, cursor: str | None = None) -> str:
        """The address of this search, of what was understood of it; with a cursor that of the page behind it."""
        told = [(c.name + (f":{c.modifier}" if c.modifier else ""), c.text) for c in self.criteria]
        told += [("_include", include) for include in self.includes]
        told += [("_include:iterate", include) for include in self.iterates]
        if self.summary != "false":
            told.append(("_summary", self.summary))
        if self.elements:
            told.append(("_elements", ",".join(self.elements)))
        if self.total != "none" and cursor is None:
            told.append(("_total", self.total))
        if self.sort:
            told.append(("_sort", self.sort))
        told.append(("_count", str(self.count)))
        if cursor or self.cursor:
            told.append(("_cursor", cursor or self.cursor or ""))
        return f"{base}/{self.kind}?{urlencode(told, safe=':/|,')}"


def read_search(kind_name: str, given: Parameters, *, strict: bool) -> SearchRequest:
    """Raises ApiProblem where a parameter cannot be understood; one that is unknown only where the caller is `strict` (http.html,
    `Prefer: handling`). Empty values count as not given (search.html#errors).
    """
    is_short = sum(len(name) + len(text) for name, text in given) <= MOST_KEPT_CHARS
    return _read_short(kind_name, given, strict=strict) if is_short else _read(kind_name, given, strict=strict)


def _read(kind_name: str, given: Parameters, *, strict: bool) -> SearchRequest:
    kind = KINDS[kind_name]
    criteria: list[Criterion] = []
    control: dict[str, list[str]] = {}
    for name, text in given:
        plain, modifier = _split_name(kind, name)
        if name in RESULT_PARAMETERS:
            control.setdefault(name, []).append(text)
        elif plain not in kind.parameters:
            if strict:
                raise ApiProblem(
                    "unknown_field", errors=(FieldError(path=f"?{_shown(name)}", expected="no such parameter"),)
                )
        elif text:
            criteria.append(_criterion(kind, plain, modifier, text))
    return SearchRequest(kind=kind_name, criteria=tuple(criteria), **_shape(kind, control, strict=strict))


_read_short = lru_cache(maxsize=4096)(_read)


def _split_name(kind: Kind, name: str) -> tuple[str, str]:
    """Parameter and modifier; the type in a chain is none: `patient:Patient.identifier` (search.html#chaining)."""
    plain, _, modifier = name.partition(":")
    target, dot, chained = modifier.partition(".")
    of_ours = plain in kind.parameters and target in kind.parameters[plain].targets
    return (f"{plain}.{chained}", "") if dot and of_ours else (plain, modifier)


def localized(kind_name: str, given: Parameters, bases: Bases) -> Parameters:
    """The parameters with addresses of ours as relative references: others name resources of other servers."""
    if not any("://" in text for _, text in given):
        return given
    known = KINDS[kind_name].parameters
    told = list[tuple[str, str]]()
    for name, text in given:
        parameter = known.get(name.partition(":")[0])
        if parameter is not None and parameter.type == "reference" and text.count(",") < _MOST_VALUES:
            text = ",".join(relative(one, bases) or one for one in text.split(","))
        told.append((name, text))
    return tuple(told)


def _shown(name: str) -> str:
    """A caller chooses the names: they are told back only where they look like one."""
    return name if len(name) <= 40 and name.replace("-", "").replace("_", "").replace(":", "").isalpha() else "..."


def _criterion(kind: Kind, name: str, modifier: str, text: str) -> Criterion:
    offered = _MODIFIERS[kind.parameters[name].type]
    if modifier not in offered:
        # A reference may name its type in the modifier: `actor:Practitioner=1`.
        if kind.parameters[name].type == "reference" and modifier in kind.parameters[name].targets:
            return Criterion(name, "", ",".join(f"{modifier}/{one}" for one in text.split(",")))
        raise invalid(f"?{name}", f"one of the modifiers {[one for one in offered if one]}")
    if text.count(",") >= _MOST_VALUES:
        raise invalid(f"?{name}", f"at most {_MOST_VALUES} alternatives")
    return Criterion(name, modifier, text)


def _shape(kind: Kind, control: dict[str, list[str]], *, strict: bool) -> dict[str, Any]:
    summary = _one_of("_summary", control, SUMMARIES) or "false"
    elements = tuple(e.strip() for text in control.get("_elements", ()) for e in text.split(",") if e.strip())
    if elements and summary != "false":
        raise invalid("?_elements", "not together with _summary")
    if len(elements) > 50 or any(not e.replace(".", "").isalnum() or len(e) > 60 for e in elements):
        raise invalid("?_elements", "names of elements")
    cursor = control.get("_cursor", [""])[-1]
    return {
        "count": _count(control),
        "cursor": cursor or None,
        "sort": _sort(kind, control, strict=strict),
        "summary": summary,
        "elements": tuple(dict.fromkeys(e.rpartition(f"{kind.name}.")[2].partition(".")[0] for e in elements)),
        "total": _one_of("_total", control, TOTALS) or "none",
        "includes": _includes(kind, control.get("_include", ()), strict=strict, iterate=False),
        "iterates": _includes(kind, control.get("_include:iterate", ()), strict=strict, iterate=True),
    }


def _count(control: dict[str, list[str]]) -> int:
    text = control.get("_count", [""])[-1]
    if not text:
        return DEFAULT_COUNT
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise invalid("?_count", "a number of resources, 0 for the total alone")
    return min(int(text), MOST_COUNT)


def _sort(kind: Kind, control: dict[str, list[str]], *, strict: bool) -> str:
    """An order that can be had. Another one is ignored as an unknown parameter is (search.html#sort, #errors)."""
    text = control.get("_sort", [""])[-1]
    if text in kind.sorts:
        return text
    if text and strict:
        raise invalid("?_sort", f"one of {', '.join(kind.sorts)}" if kind.sorts else "no order: ids")
    return ""


def _one_of(name: str, control: dict[str, list[str]], offered: tuple[str, ...]) -> str | None:
    text = control.get(name, [""])[-1]
    if text and text not in offered:
        raise invalid(f"?{name}", f"one of {', '.join(offered)}")
    return text or None


def _includes(kind: Kind, given: list[str] | tuple[()], *, strict: bool, iterate: bool) -> tuple[str, ...]:
    told: list[str] = []
    offered = {name for one in (KINDS.values() if iterate else (kind,)) for name in one.includes}
    for text in given:
        include, *target = text.rsplit(":", 1) if text.count(":") == 2 else [text]
        if text == f"{kind.name}:*" or text == "*":
            told += sorted(kind.includes)
        elif include in offered and all(one.isascii() and one.isalpha() and len(one) <= 40 for one in target):
            told.append(text)
        elif text and strict:
            raise invalid("?_include", f"one of {', '.join(sorted(offered))}")
    return tuple(dict.fromkeys(told))
