"""The steps that a value goes through, in the order parts, table, via, and the joins. Shared by reading and writing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .context import Failure, MapContext
from .joins import JOINS, Join
from .regexes import explosive
from .schema import Profile, suggest
from .transforms import TRANSFORMS, Transform, as_text
from .yaml_source import below

Step = Callable[[Any, MapContext], Any]
Joiner = Callable[[dict[str, Any], frozenset[str], MapContext], Any]

STEP_KEYS = ("parts", "table", "else", "via")
JOIN_KEYS = ("via",)
MAX_REGEX = 200
MAX_MATCHED = 1_000


def compile_steps(profile: Profile, path: str, spec: dict[str, Any]) -> list[Step]:
    """Compile the steps of a field. Raises ProfileError."""
    steps: list[Step] = []
    if spec.get("parts") is not None:
        steps.append(_parts(profile, below(path, "parts"), spec["parts"]))
    if spec.get("table") is not None:
        steps.append(_table(profile, path, spec))
    elif "else" in spec:
        profile.fail(below(path, "else"), "else belongs to a table")
    if spec.get("via") is not None:
        steps.append(_via(profile, below(path, "via"), spec["via"]))
    return steps


def compile_join(profile: Profile, path: str, spec: dict[str, Any], names: list[str]) -> Joiner:
    """Compile the transform of a `join`, whose sources are called `names`. Raises ProfileError."""
    place = below(path, "via")
    name, arg = _name_and_arg(profile, place, spec.get("via"))
    join = JOINS.get(name)
    if join is None:
        profile.fail(place, f"no join {name}: {suggest(name, JOINS)}")
    if join.sources is not None:
        profile.check_keys(below(path, "join"), names, join.sources)
        for needed in join.needs:
            if needed not in names:
                profile.fail(below(path, "join"), f"{name} needs `{needed}`")
    _check_arg(profile, place, name, join, arg)
    blank = dict.fromkeys(join.sources or ())

    def apply(values: dict[str, Any], constants: frozenset[str], ctx: MapContext) -> Any:
        if not join.when_absent and all(value is None or key in constants for key, value in values.items()):
            return None
        return join.apply(ctx, arg, **(blank | values))

    return apply


def _name_and_arg(profile: Profile, path: str, spec: Any) -> tuple[str, Any]:
    if isinstance(spec, str):
        return spec, None
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        profile.fail(path, "via: NAME or via: {name: NAME, arg: VALUE}")
    profile.check_keys(path, spec, ("name", "arg"))
    return spec["name"], spec.get("arg")


def _check_arg(profile: Profile, path: str, name: str, transform: Transform | Join, arg: Any) -> None:
    complaint = transform.check_arg(arg)
    if complaint is not None:
        profile.fail(path, f"{name} {complaint}")


def _via(profile: Profile, path: str, spec: Any) -> Step:
    name, arg = _name_and_arg(profile, path, spec)
    transform = TRANSFORMS.get(name)
    if transform is None:
        hint = f"{name} is a join: it needs join: {{...}}" if name in JOINS else suggest(name, TRANSFORMS)
        profile.fail(path, f"no transform {name}: {hint}")
    _check_arg(profile, path, name, transform, arg)
    apply = transform.apply
    return lambda value, ctx: apply(value, ctx, arg)


def _table(profile: Profile, path: str, spec: dict[str, Any]) -> Step:
    name = spec["table"]
    if not isinstance(name, str) or name not in profile.tables:
        profile.fail(below(path, "table"), f"no table {name}: {suggest(str(name), profile.tables)}")
    table = profile.tables[name]
    other = spec.get("else", "fail")
    if isinstance(other, dict | list):
        profile.fail(below(path, "else"), "else: fail, keep, or one plain value")

    def translate(value: Any, ctx: MapContext) -> Any:
        code = value if type(value) is str else as_text(value)
        if code in table:
            return table[code]
        code = code.strip()
        if code in table:
            return table[code]
        if other == "keep":
            return value
        if other == "fail":
            raise Failure(f"is a code that table {name} does not have")
        return other

    return translate


def _parts(profile: Profile, path: str, spec: Any) -> Step:
    if isinstance(spec, dict) and "split" in spec:
        profile.check_keys(path, spec, ("split", "at"))
        return _split(profile, path, spec)
    if isinstance(spec, dict) and "match" in spec:
        profile.check_keys(path, spec, ("match", "group"))
        return _match(profile, path, spec)
    profile.fail(path, 'parts: {split: ["^"], at: [0]} or {match: REGEX, group: NAME}')


def _split(profile: Profile, path: str, spec: dict[str, Any]) -> Step:
    separators = spec["split"] if isinstance(spec["split"], list) else [spec["split"]]
    places = spec.get("at", 0) if isinstance(spec.get("at", 0), list) else [spec.get("at", 0)]
    if not separators or not all(isinstance(separator, str) and separator for separator in separators):
        profile.fail(below(path, "split"), "split: a separator, or a list of separators")
    if not all(isinstance(place, int) and not isinstance(place, bool) and 0 <= place < 1_000 for place in places):
        profile.fail(below(path, "at"), "at: a position from 0, or a list of positions")
    if len(separators) != len(places):
        profile.fail(path, "split and at: as many positions as separators")
    cuts = list(zip(separators, places, strict=True))

    def cut(value: Any, ctx: MapContext) -> str | None:
        piece = as_text(value)
        for separator, place in cuts:
            pieces = piece.split(separator, place + 1)
            if place >= len(pieces):
                return None
            piece = pieces[place]
        return piece or None

    return cut


def _match(profile: Profile, path: str, spec: dict[str, Any]) -> Step:
    source, group = spec["match"], spec.get("group")
    place = below(path, "match")
    if not isinstance(source, str) or not 0 < len(source) <= MAX_REGEX:
        profile.fail(place, f"match: a regular expression of at most {MAX_REGEX} characters")
    try:
        regex = re.compile(source)
    except (re.error, OverflowError, RecursionError) as error:
        profile.fail(place, f"not a regular expression: {error}")
    if explosive(source):
        profile.fail(place, "a repetition inside a repetition can take for ever: write it without")
    if not isinstance(group, str) or group not in regex.groupindex:
        profile.fail(below(path, "group"), "group: the name of a group in match, as in (?P<name>...)")

    def pick(value: Any, ctx: MapContext) -> str | None:
        text = as_text(value)
        if len(text) > MAX_MATCHED:
            raise Failure(f"is longer than the {MAX_MATCHED} characters that match is applied to")
        found = regex.search(text)
        return (found[group] or None) if found else None

    return pick
