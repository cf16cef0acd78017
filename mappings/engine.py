"""The mapping engine: record maps and request trees of a profile, compiled once, run often.

The language is described in docs/mappings.md. Protocol knowledge comes in as a `PathLanguage`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .canonical import Record
from .context import (
    Located,
    MapContext,
    Mapped,
    MappingError,
    MappingProblem,
    PathLanguage,
)
from .courtesy import courtesy
from .fields import FieldCompiler, compile_when
from .requests import RequestTree, compile_request
from .schema import Profile, suggest
from .sources import Reader, Run
from .values import RECORDS, FieldType, field_types
from .yaml_source import below

__all__ = [
    "MapContext",
    "Mapped",
    "MappingError",
    "MappingProblem",
    "PathLanguage",
    "RecordMap",
    "RequestTree",
    "compile_record_map",
    "compile_request",
]

_MAP_KEYS = ("each", "record", "fields", "when", "ref")


class RecordMap:
    """Reads canonical records of one type out of replies or messages. Stateless and reusable."""

    def __init__(self, record: type[Record], path: str, reader: Reader, compiler: FieldCompiler, source: str) -> None:
        self.record = record
        self._path = path
        self._reader = reader
        self._compiler = compiler
        self._source = source

    def read(self, root: Any, ctx: MapContext) -> Mapped:
        """All records that can be made, in document order, and the problems of those that cannot.

        A nested record of a list that fails is left out of its parent and reported likewise.
        """
        return self._read(Run(root, ctx))

    def read_aside(self, root: Any, ctx: MapContext, pause: Callable[[], None] | None = None) -> Mapped:
        """`read`, for a thread beside an event loop: with rests, while the loop is busy.

        `pause`: the thread's `courtesy`, where it reads several documents and knows already how busy the loop is.
        """
        return self._read(Run(root, ctx, pause or courtesy()))

    def _read(self, run: Run) -> Mapped:
        records = self._reader(run, run.root)
        return Mapped(records=records, problems=tuple(run.problems))

    def read_one(self, root: Any, ctx: MapContext) -> Any:
        """The one record that is expected. Raises MappingError on any problem, and if there is none or more than one."""
        mapped = self.read(root, ctx)
        if mapped.problems:
            raise MappingError(mapped.problems[0])
        if len(mapped.records) != 1:
            reason = f"one {self.record.__name__} was expected, {len(mapped.records)} are there"
            raise MappingError(self._compiler.problem(self._path, self._source, reason))
        return mapped.records[0]


def compile_record_map(profile: Profile, yaml_path: str, spec: dict[str, Any], paths: PathLanguage) -> RecordMap:
    """Compile the record map `spec`, found at `yaml_path` of the profile. Raises ProfileError."""
    maps = MapCompiler(profile, paths)
    if not isinstance(spec, dict):
        profile.fail(yaml_path, "a record map is a mapping: each, record, fields, when")
    record = maps.record_type(yaml_path, spec)
    source = str(spec.get("each", ""))
    return RecordMap(record, yaml_path, maps.many(yaml_path, spec, record), maps.fields, source)


class MapCompiler:
    """Compiles the record maps of one profile with one path language."""

    def __init__(self, profile: Profile, paths: PathLanguage) -> None:
        self.profile = profile
        self.fields = FieldCompiler(profile, paths, self.nested)

    def record_type(self, path: str, spec: dict[str, Any]) -> type[Record]:
        self.profile.check_keys(path, spec, _MAP_KEYS)
        name = spec.get("record")
        if not isinstance(name, str) or name not in RECORDS:
            self.profile.fail(below(path, "record"), f"record: a canonical record; {suggest(str(name), RECORDS)}")
        return RECORDS[name]

    def nested(self, path: str, spec: dict[str, Any], kind: FieldType) -> Reader:
        """A record, or a tuple of them, inside a record."""
        record = self.record_type(path, spec)
        if record is not kind.record:
            self.profile.fail(below(path, "record"), f"this field holds {kind.record.__name__ if kind.record else '?'}")
        if kind.many:
            return self.many(path, spec, record)
        if spec.get("each") is not None:
            self.profile.fail(below(path, "each"), "this field holds one record: leave each out")
        one = self.one(path, spec, record)
        if spec.get("when") is None:
            return one
        holds = compile_when(self.fields, below(path, "when"), spec["when"])
        return lambda run, node: one(run, node) if holds(run, node) else None

    def many(self, path: str, spec: dict[str, Any], record: type[Record]) -> Reader:
        one = self.one(path, spec, record)
        find = self.fields.find(below(path, "each"), spec["each"]) if spec.get("each") is not None else None
        holds = compile_when(self.fields, below(path, "when"), spec["when"]) if spec.get("when") is not None else None

        def read_all(run: Run, node: Any) -> tuple[Any, ...]:
            records = []
            for match in [node] if find is None else find(run.root, node):
                if holds is None or holds(run, match):
                    try:
                        records.append(one(run, match))
                    except Located as located:
                        run.problems.append(located.problem)
                if run.pause is not None:
                    run.pause()
            return tuple(records)

        return read_all

    def one(self, path: str, spec: dict[str, Any], record: type[Record]) -> Reader:
        """The reader of one record from one node. It raises Located when a field fails or a required one is absent."""
        types = field_types(record)
        place = below(path, "fields")
        given = spec.get("fields", {})
        if not isinstance(given, dict):
            self.profile.fail(place, "fields: a mapping from the record's fields to where they come from")
        self.profile.check_keys(place, given, types)
        present = {name: field for name, field in given.items() if field is not None}
        for name, kind in types.items():
            if kind.required and name not in present:
                self.profile.fail(place, f"{record.__name__} needs the field `{name}`")
        readers = [
            (name, self.fields.field(below(place, name), field, types[name]), types[name].required)
            for name, field in present.items()
        ]
        missing = {
            name: self.fields.problem(below(place, name), _source(field), "is absent, and the record needs it")
            for name, field in present.items()
        }

        return self.reading(record, readers, missing)

    def reading(
        self, record: type[Record], readers: list[tuple[str, Reader, bool]], missing: dict[str, MappingProblem]
    ) -> Reader:
        """The reader of one record by those of its fields (name, reader, whether the record needs it)."""

        def read_record(run: Run, node: Any) -> Any:
            values = {}
            for name, read, required in readers:
                value = read(run, node)
                if value is not None:
                    values[name] = value
                elif required:
                    raise Located(missing[name])
            return record(**values)

        return read_record


def _source(spec: dict[str, Any]) -> str:
    for key in ("from", "join", "variant", "lookup", "each"):
        source = spec.get(key)
        if isinstance(source, str):
            return source
        if isinstance(source, list | dict):
            return " | ".join(str(entry) for entry in (source.values() if isinstance(source, dict) else source))
    return ""
