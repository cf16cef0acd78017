"""Checks resources before they are mapped: fhir.resources' models of the profile's release, and the rules they do not check.

The models check shapes, and neither required bindings nor invariants: a Slot whose status is `banana`, or that ends before
it starts, passes them. Which models and bindings are meant: `connectors.fhir.releases`.

    strict    one bad resource spoils the whole reply
    lenient   a bad resource is left out and told about
    off       no models; the rules below still leave out what is bad
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import msgspec

from connectors.fhir.documents import Json
from connectors.fhir.releases import R4, READ_HERE, Release, release_of
from mappings.courtesy import courtesy
from monitoring import garbage

Mode = Literal["strict", "lenient", "off"]

# Types whose `end` must come after their `start` where both are given (for Appointment: invariant app-3 asks for both or none).
_TIMED = frozenset({"Slot", "Appointment"})
_OFF_LOOP_FROM = 10
# How many resources, elements and items one resource may have: more than any real one has.
_MAX_NODES = 1_000_000


class Flaw(msgspec.Struct, frozen=True):
    """Why one resource is left out: its place in the reply, its type and element names; never a value."""

    at: int
    resource_type: str
    reason: str


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How the resources of one server are checked. `understood` are the modifier extensions and implicit rules that a site's
    profile takes into account, by their URLs (`connection.understood_modifiers`): all others make a resource unusable.
    """

    mode: Mode
    release: Release = R4
    understood: frozenset[str] = frozenset()

    def understands(self, url: Any) -> bool:
        """Whether this modifier extension, or these implicit rules, may be processed."""
        return isinstance(url, str) and url in self.understood


def rules_of(mode: Mode, connection: Mapping[str, Any]) -> Rules:
    """The rules that a connector's settings ask for. Raises ValueError for a release that is none of ours."""
    understood = connection.get("understood_modifiers") or ()
    if not isinstance(understood, list | tuple) or not all(isinstance(url, str) for url in understood):
        raise ValueError("connection.understood_modifiers: a list of URLs")
    return Rules(mode=mode, release=release_of(connection), understood=frozenset(understood))


def rule_flaw(resource: Json, rules: Rules) -> str | None:
    """Which rule of ours a resource breaks, or None."""
    kind = resource.get("resourceType")
    if not isinstance(kind, str):
        return "it has no resourceType"
    modified = modifier_flaw(resource, rules)
    if modified is not None:
        return modified
    statuses = rules.release.statuses.get(kind)
    if statuses is not None and str(resource.get("status")) not in statuses:
        return "status is not a code of the required binding"
    if kind in _TIMED:
        return _time_flaw(resource, required=kind == "Slot")
    return None


def modifier_flaw(resource: Json, rules: Rules) -> str | None:
    """Whether a resource must not be processed, because something in it changes its meaning in a way that nobody knows here.

    FHIR R4 extensibility.html#modifierExtension; resource.html#implicitRules: whoever does not understand them must not
    process the resource. What is contained in it counts as well.
    """
    nodes: list[Any] = [resource]
    for node in nodes:
        if isinstance(node, list):
            nodes.extend(item for item in node if isinstance(item, dict | list))
        else:
            if "modifierExtension" in node and not _all_understood(node["modifierExtension"], rules):
                return "modifierExtension: it has one that is not understood"
            if "implicitRules" in node and not rules.understands(node["implicitRules"]):
                return "implicitRules: they are not understood"
            nodes.extend(value for value in node.values() if isinstance(value, dict | list))
        if len(nodes) > _MAX_NODES:
            return "it has too many elements"
    return None


def _all_understood(extensions: Any, rules: Rules) -> bool:
    return isinstance(extensions, list) and all(
        isinstance(one, dict) and rules.understands(one.get("url")) for one in extensions
    )


def _time_flaw(resource: Json, *, required: bool) -> str | None:
    start, end = resource.get("start"), resource.get("end")
    if start is None and end is None and not required:
        return None
    try:
        starts_at, ends_at = dt.datetime.fromisoformat(str(start)), dt.datetime.fromisoformat(str(end))
    except ValueError:
        return "start and end are not two instants"
    if starts_at.tzinfo is None or ends_at.tzinfo is None:
        return "start or end has no offset"
    return "end is not after start" if ends_at <= starts_at else None


def model_flaw(resource: Json, rules: Rules) -> str | None:
    """Where a resource departs from its release's model, by element names, or None. Types that are not read here pass.

    Elements that the model does not know are ignored by all but the strict (FHIR R4 json.html: an application may, so that
    what comes later does no harm); they are never mapped.
    """
    kind = str(resource.get("resourceType"))
    if kind not in READ_HERE:
        return None
    # With the models, by the first thread that needs them: the start does not.
    import pydantic

    release = rules.release
    model = _model(release.models, kind)
    try:
        model.model_validate(resource)
    except pydantic.ValidationError as error:
        found = [
            ".".join(str(part) for part in item["loc"])
            for item in error.errors(include_input=False, include_context=False, include_url=False)
            if rules.mode == "strict" or item["type"] != "extra_forbidden"
        ]
        if found:
            return f"it departs from {release.name} at " + ", ".join(sorted(set(found))[:5])[:200]
    except (LookupError, TypeError, AttributeError, RecursionError):
        # The models look the type of what is contained up without asking whether there is such a type.
        return f"it contains what is no resource of {release.name}"
    return None


@cache
def _model(package: str, kind: str) -> Any:
    """The class of a type of resources."""
    with garbage.loading():
        return getattr(importlib.import_module(f"{package}.{kind.lower()}"), kind)


def flaws_of(resources: Sequence[Json], rules: Rules, pause: Callable[[], None] | None = None) -> list[Flaw]:
    """The flaws of these resources. Synchronous: a Bundle of 100 takes tens of milliseconds with models.

    `pause` is called before each.
    """
    found = []
    for at, resource in enumerate(resources):
        if pause is not None:
            pause()
        reason = rule_flaw(resource, rules) or (model_flaw(resource, rules) if rules.mode != "off" else None)
        if reason is not None:
            kind = str(resource.get("resourceType"))
            found.append(Flaw(at, kind if kind in READ_HERE else "another resource", reason))
    return found


async def check(resources: Sequence[Json], rules: Rules) -> list[Flaw]:
    """`flaws_of`, off the event loop where models are used or there is much to look at."""
    if rules.mode == "off" and len(resources) < _OFF_LOOP_FROM:
        return flaws_of(resources, rules)
    return await asyncio.to_thread(lambda: flaws_of(resources, rules, courtesy()))
