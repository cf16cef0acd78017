"""Profiles: finding them, merging what they extend, and checking all of it before the first message."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from .engine import compile_record_map, compile_request
from .schema import NAME, Profile, VerbSpec, build_profile
from .yaml_source import ProfileError, Where, below, read_yaml

__all__ = ["Profile", "ProfileError", "VerbSpec", "Where", "load_profile"]

SHIPPED = Path(__file__).parent / "profiles"
MAX_EXTENDS = 8
# What says which form a field has. A field of another form replaces the parent's; one of the same form is merged.
_FORMS = ("lookup", "variant", "join", "keep", "value", "from", "record")


def load_profile(spec: str, *, profiles_dir: Path | None = None) -> Profile:
    """Load a profile by name ("dhc") or name and version ("dhc@1"), with everything it extends.

    A profile in `profiles_dir` comes before a shipped one of the same name, and may extend it.
    Raises ProfileError: no such profile, another version, bad YAML, or a mapping that does not compile.
    """
    raw, where, file = _merged(spec, profiles_dir, [])
    profile = build_profile(raw, where, str(file))
    _check_mappings(profile)
    return profile


def profile_files(spec: str, *, profiles_dir: Path | None = None) -> list[Path]:
    """The files of a profile: those that it extends, the farthest first, and its own. Raises ProfileError."""
    chain: list[Path] = []
    _merged(spec, profiles_dir, [], chain)
    return chain


def _merged(
    spec: str, profiles_dir: Path | None, chain: list[Path], files: list[Path] | None = None
) -> tuple[dict[str, Any], dict[str, Where], Path]:
    name, _, version = spec.partition("@")
    file = _find(name, profiles_dir, chain)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ProfileError(str(file), 1, "", f"cannot be read: {error.strerror}") from None
    raw, where = read_yaml(data, str(file))
    if not isinstance(raw, dict):
        raise ProfileError(str(file), 1, "", "a profile is a mapping: name, version, protocol, verbs ...")
    if raw.get("name") != name:
        raise ProfileError(str(file), _line(where, "name"), "name", f"the folder is called {name}: use the same name")
    if version and str(raw.get("version")) != version:
        hint = f"version {version} was asked for, and this is version {raw.get('version')}"
        raise ProfileError(str(file), _line(where, "version"), "version", hint)
    if files is not None:
        files.insert(0, file)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw, where, file
    line = _line(where, "extends")
    if not isinstance(parent, str):
        raise ProfileError(str(file), line, "extends", "extends: another profile, as name@version")
    if len(chain) >= MAX_EXTENDS:
        raise ProfileError(str(file), line, "extends", f"more than {MAX_EXTENDS} profiles extend each other")
    try:
        base, base_where, _ = _merged(parent, profiles_dir, [*chain, file], files)
    except ProfileError as error:
        if error.file:
            raise
        raise ProfileError(str(file), line, "extends", error.hint) from None
    return _merge(base, raw, ""), base_where | where, file


def _find(name: str, profiles_dir: Path | None, chain: list[Path]) -> Path:
    if not NAME.fullmatch(name):
        raise ProfileError("", 0, "", "a profile is named by small letters, digits, - and _, as in dhc@1")
    places = [folder / name / "profile.yaml" for folder in (profiles_dir, SHIPPED) if folder is not None]
    for place in places:
        # A file that is being resolved is skipped: a site's `dhc` extends the shipped `dhc`, and a circle finds nothing.
        if place.is_file() and place not in chain:
            return place
    looked = " or ".join(str(place) for place in places)
    circle = ", or it extends itself" if any(place in chain for place in places) else ""
    known = {folder.name for place in places for folder in place.parent.parent.glob("*") if folder.is_dir()}
    near = [one for one in difflib.get_close_matches(name, sorted(known), n=1) if one != name]
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise ProfileError("", 0, "", f"no profile {name}: looked for {looked}{circle}{meant}")


def _line(where: dict[str, Where], path: str) -> int:
    return where[path].line if path in where else 1


def _merge(base: dict[str, Any], child: dict[str, Any], path: str) -> dict[str, Any]:
    """Mappings key by key; anything else is replaced; `null` removes what the parent has."""
    merged = dict(base)
    for key, value in child.items():
        place = below(path, key)
        old = base.get(key)
        if value is None and key in base:
            del merged[key]
        elif isinstance(value, dict) and isinstance(old, dict) and not _another_form(place, old, value):
            merged[key] = _merge(old, value, place)
        else:
            merged[key] = value
    return merged


def _another_form(path: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if not path.startswith(("verbs.", "inbound.")):
        return False
    forms = [next((form for form in _FORMS if form in entry), None) for entry in (old, new)]
    return forms[1] is not None and forms[0] != forms[1]


def _check_mappings(profile: Profile) -> None:
    """Compile every mapping without a path language: everything but the paths themselves is checked."""
    for verb, spec in profile.verbs.items():
        path = below("verbs", verb)
        for place, request, reply in (
            (path, spec.request, spec.reply),
            (below(path, "then"), (spec.then or {}).get("request"), (spec.then or {}).get("reply")),
        ):
            if request is not None:
                compile_request(profile, below(place, "request"), request)
            if reply is not None:
                compile_record_map(profile, below(place, "reply"), reply, _AnyPath())
    for kind, maps in profile.inbound.items():
        for index, entry in enumerate(maps):
            compile_record_map(profile, profile.inbound_path(kind, index), entry, _AnyPath())


class _AnyPath:
    """Takes every path: the connector compiles them with its own language."""

    def compile(self, path: str) -> Any:
        return lambda root, node: []

    def text(self, node: Any) -> str | None:
        return None
