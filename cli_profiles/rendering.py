"""Sample requests of a profile: as they would be sent, with invented people and invented keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cli_profiles.invented import Asked, invented_request
from connectors.soap.trial import NOWHERE, InventedKeys, Trial
from connectors.soap.verbs import value_at
from mappings.context import MapContext, MappingError, MappingProblem
from mappings.engine import compile_request
from mappings.profile import Profile
from mappings.schema import suggest

_SECRET = re.compile(r"pass|pwd|secret|token|sign|(^|_)key$|密码|口令|密钥", re.IGNORECASE)
_OF_CONNECTORS = {
    "new.uuid": "00000000-0000-4000-8000-000000000000",
    "new.control_id": "CONTROL1",
    "page.cursor": "",
    "page.number": 1,
    "page.offset": 0,
    "page.size": 100,
}


@dataclass
class Rendered:
    """One call: which, where in the profile, and what is sent; or why it cannot be written."""

    title: str
    path: str
    lines: list[str]
    problem: MappingProblem | None = None
    complaint: str = ""

    @property
    def failed(self) -> bool:
        """Whether the profile is wrong. What only a real HIS could have told (`his_refs`) is not its fault."""
        return bool(self.complaint) or (self.problem is not None and "his_refs" not in self.problem.source)


def sample_context(ctx: MapContext) -> MapContext:
    """With what connectors make for each request; passwords among the settings are hidden."""
    hidden = {key: "***" if _SECRET.search(key) and isinstance(v, str) else v for key, v in ctx.connection.items()}
    return msgspec.structs.replace(ctx, connection=hidden, extra=_OF_CONNECTORS | ctx.extra)


def rendered(profile: Profile, settings: dict[str, Any], ctx: MapContext, address: str | None) -> Iterator[Rendered]:
    """Every call of every native verb. Raises ProfileError, ValueError."""
    ctx = sample_context(ctx)
    if profile.protocol == "soap":
        keys = InventedKeys()
        trial = Trial(profile, settings, keys, address=address or NOWHERE)
        trial.check_server(keys, ctx)
        yield from _of_soap(trial, profile, ctx)
    else:
        yield from _trees(profile, ctx)


def _of_soap(trial: Trial, profile: Profile, ctx: MapContext) -> Iterator[Rendered]:
    for place in trial.places():
        code = "" if place.case.trade in ("", place.case.operation) else f" {place.case.trade}"
        one = Rendered(f"{place.verb}: {place.case.operation}{code}", place.path, [])
        request = invented_request(place.verb, profile, ctx.zone, then=place.path.endswith(".then"))
        one.complaint = "; ".join(_never_there(place.case.when, request))
        try:
            sent = trial.write(place, request, ctx)
        except MappingError as error:
            one.problem = error.problem
        except UnicodeEncodeError as error:
            one.complaint = f"{error.encoding} lacks a character that names may have: `connection.encoding`"
        except ValueError as error:
            one.complaint = f"the request cannot be carried so: {error}"
        else:
            headers = [f"{name}: {value}" for name, value in sent.headers.items()]
            body = [] if sent.body is None else sent.body.decode(trial.connection.encoding).splitlines()
            one.lines = [f"{sent.method} {sent.url}", *headers, *body]
        yield one


def _never_there(when: Mapping[str, object], request: object) -> Iterator[str]:
    """The names of a `when` that no request of the verb has: the case would never be taken."""
    for path in when:
        found: Any = request
        for name in path.split("."):
            names = found.__struct_fields__ if isinstance(found, msgspec.Struct) else tuple(found or ())
            closed = isinstance(found, msgspec.Struct | Asked)
            if closed and name not in names:
                yield f"when: {path}: there is no {name}: {suggest(name, names)}"
                break
            found = value_at(found, name)


def _trees(profile: Profile, ctx: MapContext) -> Iterator[Rendered]:
    """What the connector turns into a message or a resource."""
    for name, spec in profile.verbs.items():
        if spec.capability != "native" or spec.request is None:
            continue
        one = Rendered(f"{name}: {spec.call.get('message') or spec.call.get('resource') or ''}", f"verbs.{name}", [])
        try:
            request = invented_request(name, profile, ctx.zone)
            tree = compile_request(profile, f"verbs.{name}.request", spec.request).write(request, ctx)
        except MappingError as error:
            one.problem = error.problem
        else:
            one.lines = json.dumps(tree, ensure_ascii=False, indent=1, default=str).splitlines()
        yield one
