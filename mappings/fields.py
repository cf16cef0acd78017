"""Compiling the fields of record maps into closures: where a value comes from and what is done to it on its way.

A reader is called as read(run, node); it returns None for "absent" and raises Located, which names the place in the
profile and the source, when the record cannot be made.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NoReturn

from .context import Failure, Find, Located, MappingProblem, PathLanguage
from .schema import Profile
from .sources import Reader, Run, first_of, first_text, source_name
from .steps import JOIN_KEYS, STEP_KEYS, Step, compile_join, compile_steps
from .values import FieldType
from .yaml_source import below

NestedCompiler = Callable[[str, dict[str, Any], FieldType], Reader]

PRESENT = "present"
_WORDS = f"a value, a list of values, `{PRESENT}`, or {{not: ...}} of these"
UNREADABLE = "cannot be read by this transform"
_FORMS = ("from", "value", "join", "keep", "variant", "lookup", "record")


class FieldCompiler:
    """Compiles the fields of one profile with one path language. `nested` compiles records inside records."""

    def __init__(self, profile: Profile, paths: PathLanguage, nested: NestedCompiler) -> None:
        self.profile = profile
        self.paths = paths
        self.nested = nested

    def problem(self, path: str, source: str, reason: str) -> MappingProblem:
        place = self.profile.locate(path)
        return MappingProblem(
            profile=self.profile.name, file=place.file, line=place.line, path=path, source=source, reason=reason
        )

    def field(self, path: str, spec: Any, kind: FieldType) -> Reader:
        """Compile one field to a reader that returns a value of the field's type."""
        if not isinstance(spec, dict):
            self.profile.fail(path, "a field is a mapping such as {from: PATH} or {value: CONST}")
        form = self.form(path, spec)
        if kind.record is not None and form not in ("record", "variant", "lookup"):
            self.profile.fail(path, f"{kind.record.__name__} is a record: give record and fields")
        if form == "record":
            if kind.record is None:
                self.profile.fail(below(path, "record"), "this field holds a plain value, not a record")
            return self.nested(path, spec, kind)
        if form == "keep":
            return self.keep(path, spec, kind)
        if form == "variant":
            return self.variant(path, spec, kind)
        if form == "lookup":
            return self.lookup(path, spec, kind)
        return self.plain(path, spec, kind, form)

    def form(self, path: str, spec: dict[str, Any]) -> str:
        if "lookup" in spec:
            return "lookup"
        given = [form for form in _FORMS if form in spec]
        if len(given) != 1:
            hint = "give one of " + ", ".join(_FORMS) if not given else "give only one of " + ", ".join(given)
            close = [] if given else [(key, word) for key in spec for word in difflib.get_close_matches(key, _FORMS, 1)]
            if close:
                hint = f"no key {close[0][0]}: did you mean `{close[0][1]}`? " + hint
            self.profile.fail(path, hint)
        return given[0]

    # --- forms -----------------------------------------------------------------------------------------------

    def plain(self, path: str, spec: dict[str, Any], kind: FieldType, form: str) -> Reader:
        """from, value and join: one value, through its steps, converted to the field's type."""
        self.profile.check_keys(path, spec, (form, *(JOIN_KEYS if form == "join" else STEP_KEYS), "default", "ref"))
        if kind.is_refs:
            self.profile.fail(path, "this field holds a dictionary: use keep")
        default = self.default(path, spec, kind)
        if form == "value" and not any(key in spec for key in STEP_KEYS):
            constant = self.constant(below(path, "value"), spec["value"], kind)
            return lambda run, node: constant
        read, source = self.source(path, spec, form)
        steps = [] if form == "join" else compile_steps(self.profile, path, spec)
        if steps and spec.get("table") is not None and spec.get("via") is None:
            self.check_table(path, spec, kind)
        convert = None if kind.is_text and form == "from" and not steps else kind.convert
        return self.pipeline(path, source, read, steps, convert, default)

    def check_table(self, path: str, spec: dict[str, Any], kind: FieldType) -> None:
        """Every word that a table gives must be one of the field's: else the first message that has it would find out."""
        place = below("tables", spec["table"])
        words = [(below(place, code), word) for code, word in self.profile.tables[spec["table"]].items()]
        other = spec.get("else", "fail")
        for where, word in [*words, *([] if other in ("fail", "keep") else [(below(path, "else"), other)])]:
            try:
                if word is not None:
                    kind.convert(word)
            except Failure as failure:
                self.profile.fail(where, f"{word!r}, read by {path}, {failure}")

    def pipeline(
        self,
        path: str,
        source: str,
        read: Reader,
        steps: list[Step],
        convert: Callable[[Any], Any] | None,
        default: Any,
    ) -> Reader:
        problem = self.problem

        def read_field(run: Run, node: Any) -> Any:
            try:
                value = read(run, node)
                if value is None:
                    return default
                for step in steps:
                    value = step(value, run.ctx)
                    if value is None:
                        return default
                return value if convert is None else convert(value)
            except Failure as failure:
                reason = str(failure)
            except (ValueError, ArithmeticError):
                reason = UNREADABLE  # the exception's own text may quote the value
            raise Located(problem(path, source, reason))

        if steps or convert is not None or not self.is_simple(read):
            return read_field
        if default is None:
            return read

        def read_or_default(run: Run, node: Any) -> Any:
            value = read(run, node)
            return default if value is None else value

        return read_or_default

    @staticmethod
    def is_simple(read: Reader) -> bool:
        """Whether `read` only looks texts up and cannot fail."""
        return getattr(read, "simple", False)

    def keep(self, path: str, spec: dict[str, Any], kind: FieldType) -> Reader:
        self.profile.check_keys(path, spec, ("keep", "ref"))
        if not kind.is_refs:
            self.profile.fail(path, "keep fills a dictionary such as his_refs, which this field is not")
        entries = self.named_texts(below(path, "keep"), spec["keep"])

        def read_refs(run: Run, node: Any) -> dict[str, str]:
            found = ((name, read(run, node)) for name, read in entries)
            return {name: value for name, value in found if value is not None}

        return read_refs

    def named_texts(self, path: str, spec: Any) -> list[tuple[str, Reader]]:
        if not isinstance(spec, dict) or not spec:
            self.profile.fail(path, "a mapping from names to paths")
        text = FieldType(required=False, optional=True, convert=_as_text, is_text=True)
        return [
            (name, self.field(below(path, name), entry if isinstance(entry, dict) else {"from": entry}, text))
            for name, entry in spec.items()
            if entry is not None
        ]

    def variant(self, path: str, spec: dict[str, Any], kind: FieldType) -> Reader:
        self.profile.check_keys(path, spec, ("variant", "cases", "else", "default", "ref"))
        default = self.default(path, spec, kind)
        choose = self.texts(below(path, "variant"), spec["variant"])
        cases = spec.get("cases")
        if not isinstance(cases, dict) or not cases:
            self.profile.fail(below(path, "cases"), "cases: a mapping from values to fields")
        readers = {
            word: self.field(below(below(path, "cases"), word), case, kind) if case is not None else _absent
            for word, case in cases.items()
        }
        other = self.field(below(path, "else"), spec["else"], kind) if spec.get("else") is not None else _absent

        def read_variant(run: Run, node: Any) -> Any:
            word = choose(run, node)
            value = readers.get(word, other)(run, node) if word is not None else other(run, node)
            return default if value is None else value

        return read_variant

    def lookup(self, path: str, spec: dict[str, Any], kind: FieldType) -> Reader:
        inner_spec = {key: value for key, value in spec.items() if key not in ("lookup", "in", "key")}
        wanted = self.texts(below(path, "lookup"), spec["lookup"])
        nodes = self.find(below(path, "in"), spec.get("in"))
        key = self.texts(below(path, "key"), spec.get("key"))
        inner = self.field(path, inner_spec, kind)
        default = self.default(path, spec, kind) if "default" in spec else None

        def read_lookup(run: Run, node: Any) -> Any:
            word = wanted(run, node)
            if word is None:
                return default
            index = run.indexes.get(path)
            if index is None:
                index = run.indexes[path] = {}
                for entry in nodes(run.root, run.root):
                    name = key(run, entry)
                    if name is not None:
                        index.setdefault(name, entry)
            target = index.get(word)
            return default if target is None else inner(run, target)

        return read_lookup

    # --- sources ---------------------------------------------------------------------------------------------

    def source(self, path: str, spec: dict[str, Any], form: str) -> tuple[Reader, str]:
        """The reader of a field's raw value, and the name of its source for problems."""
        if form == "from":
            return self.texts(below(path, "from"), spec["from"]), source_name(spec["from"])
        if form == "value":
            constant = spec["value"]
            if isinstance(constant, dict | list):
                self.profile.fail(below(path, "value"), "a constant is one plain value")
            return (lambda run, node: constant), ""
        entries = self.named_sources(below(path, "join"), spec["join"])
        names = [name for name, _, _ in entries]
        join = compile_join(self.profile, path, spec, names)
        constants = frozenset(name for name, _, constant in entries if constant)

        def read_joined(run: Run, node: Any) -> Any:
            values = {name: read(run, node) for name, read, _ in entries}
            return join(values, constants, run.ctx)

        return read_joined, ", ".join(f"{name}: {source_name(spec['join'][name])}" for name in names)

    def named_sources(self, path: str, spec: Any) -> list[tuple[str, Reader, bool]]:
        readers = self.named_texts(path, spec)
        return [(name, read, isinstance(spec[name], dict) and "value" in spec[name]) for name, read in readers]

    def find(self, path: str, source: Any) -> Find:
        if not isinstance(source, str) or not source.strip():
            self.profile.fail(path, "a path is expected here")
        try:
            return self.paths.compile(source)
        except ValueError as error:
            self.bad_path(path, error)

    def bad_path(self, path: str, error: ValueError) -> NoReturn:
        self.profile.fail(path, f"not a path of {self.profile.protocol}: {error}")

    def texts(self, path: str, source: Any) -> Reader:
        """A reader of the first text that is present at a path, or at the first of several paths."""
        sources = source if isinstance(source, list) else [source]
        if not sources:
            self.profile.fail(path, "at least one path is expected here")
        many = isinstance(source, list)
        finds = [self.find(below(path, index) if many else path, entry) for index, entry in enumerate(sources)]
        text = self.paths.text
        read = first_text(finds[0], text) if len(finds) == 1 else first_of(finds, text)
        read.simple = True  # type: ignore[attr-defined]
        return read

    # --- constants -------------------------------------------------------------------------------------------

    def default(self, path: str, spec: dict[str, Any], kind: FieldType) -> Any:
        if spec.get("default") is None:
            return None
        return self.constant(below(path, "default"), spec["default"], kind)

    def constant(self, path: str, value: Any, kind: FieldType) -> Any:
        if isinstance(value, dict | list) or kind.is_refs or kind.record is not None:
            self.profile.fail(path, "a constant is one plain value for a plain field")
        if value is None:
            return None
        try:
            return kind.convert(value)
        except Failure as failure:
            self.profile.fail(path, f"the constant {failure}")


def compile_when(compiler: FieldCompiler, path: str, spec: Any) -> Callable[[Run, Any], bool]:
    """Compile `when`: every path must have one of its values, be present, or have none of the values of `not`."""
    if not isinstance(spec, dict) or not spec:
        compiler.profile.fail(path, f"when: {{PATH: {_WORDS}}}")
    tests: list[tuple[Reader, frozenset[str] | None, bool]] = []
    for source, words in spec.items():
        place = below(path, source)
        read = compiler.texts(place, source)
        refused = isinstance(words, dict) and set(words) == {"not"}
        wanted = words["not"] if refused else words
        choices = wanted if isinstance(wanted, list) else [wanted]
        if not choices or any(not isinstance(word, str | int | float | bool) for word in choices):
            compiler.profile.fail(place, _WORDS)
        listed = None if wanted == PRESENT else frozenset(_plain_text(word) for word in choices)
        tests.append((read, listed, refused))

    def holds(run: Run, node: Any) -> bool:
        for read, words, refused in tests:
            text = read(run, node)
            if (text is not None and (words is None or text in words)) is refused:
                return False
        return True

    return holds


def _plain_text(word: Any) -> str:
    return str(word).lower() if isinstance(word, bool) else str(word)


def _absent(run: Run, node: Any) -> None:
    return None


def _as_text(value: Any) -> str:
    if isinstance(value, dict | list | tuple | bytes):
        raise Failure("is not a text")
    return _plain_text(value)
