"""Where the values of records come from: a record map run once more, slowly, with a note of every path that is read.

The maps that connectors run know nothing of this: the map is compiled anew, with a path language that takes notes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .canonical import Record
from .context import Find, Located, MapContext, MappingProblem, PathLanguage
from .engine import MapCompiler
from .schema import Profile
from .sources import Reader, Run
from .values import field_types
from .yaml_source import below

_RELATIVE_TO_OTHERS = ("lookup", "record")


@dataclass
class Read:
    """One path as it was read: the nodes that it matched."""

    path: str
    nodes: list[Any]


@dataclass
class TracedField:
    """One field of one record: its place in the profile, its value (None: absent), and what was read for it.

    `nodes` are all that the field's paths match at this record, those that were not needed among them. `records` are those
    inside it.
    """

    name: str
    path: str
    value: Any = None
    reads: list[Read] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    records: list[TracedRecord] = field(default_factory=list)
    problem: MappingProblem | None = None


@dataclass
class TracedRecord:
    """One record, or what there is of it, and the node that it was read from. `problems`: of all its fields."""

    record: type[Record]
    node: Any
    fields: list[TracedField] = field(default_factory=list)
    problems: list[MappingProblem] = field(default_factory=list)


@dataclass
class Traced:
    """A reading: its records, and what `each`, `when` and lookups matched besides."""

    records: list[TracedRecord]
    reads: list[Read]


def trace_records(
    profile: Profile, yaml_path: str, spec: dict[str, Any], paths: PathLanguage, root: Any, ctx: MapContext
) -> Traced:
    """Read the record map `spec`, found at `yaml_path`, from `root`. A field that fails does not end its record.

    Raises ProfileError.
    """
    notes = _Notes(paths)
    compiler = _TracingCompiler(profile, notes)
    reader = compiler.many(yaml_path, spec, compiler.record_type(yaml_path, spec))
    notes.begin()
    reader(Run(root, ctx), root)
    return Traced(records=compiler.records, reads=notes.reads)


class _Notes:
    """A path language that notes what its paths match, and which paths were compiled."""

    def __init__(self, paths: PathLanguage) -> None:
        self._paths = paths
        self.compiled: list[Find] = []
        self.reads: list[Read] = []

    def compile(self, path: str) -> Find:
        find = self._paths.compile(path)
        self.compiled.append(find)

        def noted(root: Any, node: Any) -> list[Any]:
            found = find(root, node)
            self.reads.append(Read(path, list(found)))
            return found

        return noted

    def text(self, node: Any) -> str | None:
        return self._paths.text(node)

    def begin(self) -> list[Read]:
        """Begin a new list of reads, and give the one that was."""
        before, self.reads = self.reads, []
        return before


class _TracingCompiler(MapCompiler):
    def __init__(self, profile: Profile, notes: _Notes) -> None:
        super().__init__(profile, notes)
        self.notes = notes
        self.records: list[TracedRecord] = []

    def one(self, path: str, spec: dict[str, Any], record: type[Record]) -> Reader:
        super().one(path, spec, record)  # complains of what is wrong
        types = field_types(record)
        readers = []
        for name, entry in spec.get("fields", {}).items():
            if entry is not None:
                before, place = len(self.notes.compiled), below(below(path, "fields"), name)
                reader = self.fields.field(place, entry, types[name])
                elsewhere = any(form in entry for form in _RELATIVE_TO_OTHERS)
                readers.append((name, place, reader, [] if elsewhere else self.notes.compiled[before:], types[name]))

        def read_traced(run: Run, node: Any) -> Any:
            traced = TracedRecord(record, node)
            outer, self.records = self.records, []
            values: dict[str, Any] = {}
            for name, place, reader, finds, kind in readers:
                told = self._field(run, node, TracedField(name, place), reader, finds)
                if told.value is not None:
                    values[name] = told.value
                elif kind.required and told.problem is None:
                    told.problem = self.fields.problem(place, _paths_of(told), "is absent, and the record needs it")
                traced.fields.append(told)
            self.records = [*outer, traced]
            traced.problems = [told.problem for told in traced.fields if told.problem is not None]
            if traced.problems:
                raise Located(traced.problems[0])
            return record(**values)

        return read_traced

    def _field(self, run: Run, node: Any, told: TracedField, reader: Reader, finds: list[Find]) -> TracedField:
        outer = self.notes.begin()
        try:
            told.value = reader(run, node)
        except Located as located:
            told.problem = located.problem
        told.reads, self.notes.reads = self.notes.reads, outer
        told.records, self.records = self.records, []
        told.nodes = [match for find in finds for match in find(run.root, node)]
        return told


def _paths_of(told: TracedField) -> str:
    return " | ".join(dict.fromkeys(read.path for read in told.reads))
