"""The requests of a profile's verbs, compiled once: which resource, which search parameters, which body, how to read it.

A call in the profile:

    call:
      resource: Appointment
      id: {from: his_refs.appointment}            a single resource
      params:                                     a search
        - {param: start, ge: {from: date_from, via: day_start}}
        - {param: identifier, system: {from: connection.order_system}, eq: {from: order_no}}
      if_none_exist: [...]                        a conditional create, params likewise
      operation: hold                             [base]/Appointment/$hold, with `request` as its Parameters
      fresh: true                                 past every cache
    request: {...}                                the resource to create, or the elements that an update sets
    reply: {...}                                  how to read what comes back

A parameter without a value stops the request: without `subject` a search for one patient's bills would fetch everybody's.
`optional: true` lets it be left out. Prefixes are those of FHIR R4 search.html#prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from connectors.fhir.paths import FhirPaths
from mappings.canonical import Record
from mappings.engine import MapContext, RecordMap, RequestTree, compile_record_map, compile_request
from mappings.profile import Profile

Request = Record | Mapping[str, Any]
_PREFIXES = {"eq": "", "ne": "ne", "gt": "gt", "lt": "lt", "ge": "ge", "le": "le"}
_CALL_KEYS = ("resource", "id", "params", "if_none_exist", "operation", "fresh", "merged_from")


ISSUE_TYPES = "issue_types"
"""The profile's table from the codes of FHIR's own value set to the port's."""
OPERATIONS = ("find", "hold", "book")  # IHE ITI Scheduling


class ParameterMissing(Exception):
    """A search or a condition lacks what would narrow it down; the text names the parameter."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One compiled request. `codes` is the table from the HIS's refusal codes to the port's, `issue_types` that of all verbs."""

    resource: str
    id: RequestTree | None = None
    params: RequestTree | None = None
    if_none_exist: RequestTree | None = None
    operation: str = ""
    fresh: bool = False
    body: RequestTree | None = None
    reply: RecordMap | None = None
    codes: dict[str, Any] = {}
    issue_types: dict[str, Any] = {}

    def search_params(self, request: Request, ctx: MapContext) -> list[tuple[str, str]]:
        """The search parameters for `request`, in the profile's order. Raises ParameterMissing, MappingError."""
        return _rendered(self.params, request, ctx)

    def condition(self, request: Request, ctx: MapContext) -> list[tuple[str, str]]:
        """The parameters of If-None-Exist; [] when the profile has none. Raises ParameterMissing, MappingError."""
        return _rendered(self.if_none_exist, request, ctx)

    def resource_id(self, request: Request, ctx: MapContext) -> str | None:
        """The id of the one resource that `request` speaks of, without its type; None when it is not known."""
        if self.id is None:
            return None
        found = self.id.write(request, ctx).get("id")
        return str(found).rpartition("/")[2] if found else None


def compile_call(
    profile: Profile, path: str, spec: Mapping[str, Any], codes: str | None, connection: Mapping[str, Any]
) -> Call:
    """Compile the call at `path` of the profile. Raises ProfileError."""
    call = spec.get("call") or {}
    place = f"{path}.call"
    profile.check_keys(place, call, _CALL_KEYS)
    resource = call.get("resource", "")
    if not isinstance(resource, str):
        profile.fail(f"{place}.resource", "resource: the name of a resource type")

    def tree(key: str, *, inside: Mapping[str, Any], at: str) -> RequestTree | None:
        return compile_request(profile, f"{at}.{key}", inside[key]) if inside.get(key) is not None else None

    reply = spec.get("reply")
    return Call(
        resource=resource,
        id=compile_request(profile, place, {"id": call["id"]}) if call.get("id") is not None else None,
        params=tree("params", inside=call, at=place),
        if_none_exist=tree("if_none_exist", inside=call, at=place),
        operation=_operation(profile, place, call.get("operation")),
        fresh=bool(call.get("fresh", False)),
        body=tree("request", inside=spec, at=path),
        reply=compile_record_map(profile, f"{path}.reply", reply, FhirPaths(connection)) if reply is not None else None,
        codes=profile.tables.get(codes, {}) if codes else {},
        issue_types=profile.tables.get(ISSUE_TYPES, {}),
    )


def _operation(profile: Profile, place: str, name: Any) -> str:
    if name is not None and name not in OPERATIONS:
        profile.fail(f"{place}.operation", f"operation: one of {', '.join(OPERATIONS)}")
    return str(name or "")


def compile_calls(profile: Profile, connection: Mapping[str, Any] | None = None) -> dict[str, Call]:
    """All calls of a profile: `fetch_slots`, and follow-up calls as `settle_bill.notice`. Raises ProfileError.

    `connection` are the settings that paths name, the profile's own where none are given.
    """
    settings = profile.connection if connection is None else connection
    calls: dict[str, Call] = {}
    for verb, spec in profile.verbs.items():
        path = f"verbs.{verb}"
        parts = {"call": spec.call, "request": spec.request, "reply": spec.reply}
        calls[verb] = compile_call(profile, path, parts, spec.codes, settings)
        for name, follow_up in (spec.then or {}).items():
            if not isinstance(follow_up, dict):
                profile.fail(f"{path}.then.{name}", "a follow-up call is a mapping: call, request, reply")
            place = f"{path}.then.{name}"
            calls[f"{verb}.{name}"] = compile_call(profile, place, follow_up, spec.codes, settings)
    return calls


def _rendered(tree: RequestTree | None, request: Request, ctx: MapContext) -> list[tuple[str, str]]:
    if tree is None:
        return []
    found: list[tuple[str, str]] = []
    for entry in tree.write(request, ctx):
        name = str(entry["param"])
        given = [(prefix, str(entry[key])) for key, prefix in _PREFIXES.items() if entry.get(key) not in (None, "")]
        if not given and not entry.get("optional"):
            raise ParameterMissing(f"there is no value for the parameter {name}")
        system = f"{_escaped(str(entry['system']))}|" if entry.get("system") else ""
        for prefix, value in given:
            found.append((name, f"{prefix}{system}{value if name.startswith('_') else _escaped(value)}"))
    return found


def is_identified(resource: Mapping[str, Any], resource_type: str, params: Sequence[tuple[str, str]]) -> bool:
    """Whether a resource of this type carries every identifier that the parameters ask for."""
    held = resource.get("identifier")
    items = [item for item in held if isinstance(item, dict)] if isinstance(held, list) else []
    own = {form for item in items for form in _forms(item)}
    return resource.get("resourceType") == resource_type and own.issuperset(
        v for name, v in params if name == "identifier"
    )


def _forms(identifier: Mapping[str, Any]) -> tuple[str, str]:
    value = _escaped(str(identifier.get("value")))
    return value, f"{_escaped(str(identifier.get('system', '')))}|{value}"


def _escaped(value: str) -> str:
    """FHIR R4 search.html#escaping: `$`, `,` and `|` in a value are escaped by a backslash."""
    for char in "\\$,|":
        value = value.replace(char, f"\\{char}")
    return value
