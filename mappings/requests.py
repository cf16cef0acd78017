"""Compiling request trees: the document that goes to a HIS, written from a canonical request.

A writer is called as write(scope) and returns a value, a dict or a list, or OMIT when nothing is to be written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from .canonical import Record
from .context import Failure, Located, MapContext, MappingError, MappingProblem
from .names import Scope, compile_name
from .schema import Profile
from .steps import JOIN_KEYS, STEP_KEYS, Step, compile_join, compile_steps
from .transforms import as_text
from .yaml_source import below

Writer = Callable[[Scope], Any]

OMIT: Final = object()
PRESENT = "present"
UNREADABLE = "cannot be written by this transform"
_ABSENT = {"omit": OMIT, "unchanged": OMIT, "empty": "", "clear": '""'}
_FORMS = ("from", "value", "join", "variant", "keep")
_LEAF_KEYS = frozenset((*_FORMS, *STEP_KEYS, "cases", "default", "absent", "ref"))


class RequestTree:
    """Writes one request. Stateless and reusable."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def write(self, request: Record | Mapping[str, Any], ctx: MapContext) -> Any:
        """The document as nested dicts and lists in the order of the profile.

        Leaves are str, int, bool, float or Decimal. A sub-tree or list in which nothing was present is left out; the
        root never is. Raises MappingError, without any value, when a leaf cannot be written.
        """
        try:
            return self._writer(Scope(request, ctx))
        except Located as located:
            problem = located.problem
        raise MappingError(problem)


def compile_request(
    profile: Profile, yaml_path: str, spec: Any, request_type: type[Record] | None = None
) -> RequestTree:
    """Compile the request tree `spec`, found at `yaml_path` of the profile. Raises ProfileError.

    With `request_type` the names that leaves read are checked against its fields at once, not at the first call.
    """
    compiler = _RequestCompiler(profile, request_type)
    writer = compiler.tree(yaml_path, spec)
    empty: Any = [] if isinstance(spec, list) or (isinstance(spec, dict) and "each" in spec) else {}

    def write(scope: Scope) -> Any:
        tree = writer(scope)
        return empty.copy() if tree is OMIT else tree

    return RequestTree(write)


class _RequestCompiler:
    def __init__(self, profile: Profile, request_type: type[Record] | None) -> None:
        self.profile = profile
        self.request_type = request_type

    def problem(self, path: str, source: str, reason: str) -> MappingProblem:
        place = self.profile.locate(path)
        return MappingProblem(
            profile=self.profile.name, file=place.file, line=place.line, path=path, source=source, reason=reason
        )

    # --- trees -----------------------------------------------------------------------------------------------

    def tree(self, path: str, spec: Any) -> Writer:
        if isinstance(spec, list):
            return self.list_of(path, spec)
        if not isinstance(spec, dict):
            return lambda scope: spec
        if "tree" in spec and (len(spec) == 1 or "each" in spec or "when" in spec):
            self.profile.check_keys(path, spec, ("each", "tree", "when", "ref"))
            return self.repeated(path, spec)
        if _is_leaf(spec):
            return self.leaf(path, spec)
        return self.dict_of(path, spec)

    def dict_of(self, path: str, spec: dict[str, Any]) -> Writer:
        if not spec:
            return lambda scope: {}
        entries = [(key, self.tree(below(path, key), entry)) for key, entry in spec.items() if entry is not None]

        def write(scope: Scope) -> Any:
            written = {}
            for key, writer in entries:
                value = writer(scope)
                if value is not OMIT:
                    written[key] = value
            return written or OMIT

        return write

    def list_of(self, path: str, spec: list[Any]) -> Writer:
        entries = []
        for index, entry in enumerate(spec):
            spread = isinstance(entry, dict) and "each" in entry and "tree" in entry
            entries.append((self.tree(below(path, index), entry), spread))

        def write(scope: Scope) -> Any:
            written: list[Any] = []
            for writer, spread in entries:
                value = writer(scope)
                if value is OMIT:
                    continue
                written.extend(value) if spread else written.append(value)
            return written or OMIT

        return write

    def repeated(self, path: str, spec: dict[str, Any]) -> Writer:
        """{each, tree, when}: a list of the tree for each item; without `each` the tree itself, if `when` holds."""
        tree = self.tree(below(path, "tree"), spec["tree"])
        holds = self.when(below(path, "when"), spec["when"]) if spec.get("when") is not None else None
        if spec.get("each") is None:
            return lambda scope: tree(scope) if holds is None or holds(scope) else OMIT
        items = self.name(below(path, "each"), spec["each"])

        def write(scope: Scope) -> Any:
            found = items(scope)
            if found is None:
                return OMIT
            written = []
            for number, item in enumerate(found if isinstance(found, list | tuple) else [found], 1):
                inner = scope.inside(item, number)
                value = tree(inner) if holds is None or holds(inner) else OMIT
                if value is not OMIT:
                    written.append(value)
            return written or OMIT

        return write

    def when(self, path: str, spec: Any) -> Callable[[Scope], bool]:
        if not isinstance(spec, dict) or not spec:
            self.profile.fail(path, "when: {NAME: VALUE}, {NAME: [VALUE, ...]} or {NAME: present}")
        tests = []
        for name, words in spec.items():
            choices = words if isinstance(words, list) else [words]
            if not choices or any(not isinstance(word, str | int | float | bool) for word in choices):
                self.profile.fail(below(path, name), f"a value, a list of values, or `{PRESENT}`")
            accepted = None if words == PRESENT else frozenset(as_text(word) for word in choices)
            tests.append((self.word(below(path, name), name), accepted))

        def holds(scope: Scope) -> bool:
            for read, accepted in tests:
                word = read(scope)
                if word is None or (accepted is not None and word not in accepted):
                    return False
            return True

        return holds

    # --- leaves ----------------------------------------------------------------------------------------------

    def leaf(self, path: str, spec: dict[str, Any]) -> Writer:
        given = [form for form in _FORMS if form in spec]
        if len(given) != 1:
            self.profile.fail(path, "give only one of " + ", ".join(given))
        form = given[0]
        if form == "keep":
            return self.keep(path, spec)
        own = {"join": JOIN_KEYS, "variant": ("cases", "else")}.get(form, STEP_KEYS)
        self.profile.check_keys(path, spec, (form, *own, "default", "absent", "ref"))
        absent = self.absent(path, spec)
        if form == "variant":
            return self.variant(path, spec, absent)
        steps = [] if form == "join" else compile_steps(self.profile, path, spec)
        read, source = self.source(path, spec, form)
        return self.pipeline(path, source, read, steps, absent)

    def pipeline(self, path: str, source: str, read: Writer, steps: list[Step], absent: Any) -> Writer:
        problem = self.problem

        def write(scope: Scope) -> Any:
            try:
                value = read(scope)
                for step in steps:
                    if value is None or value == "":
                        return absent
                    value = step(value, scope.ctx)
                if value is None or value == "":
                    return absent
                return _plain(value)
            except Failure as failure:
                reason = str(failure)
            except (ValueError, ArithmeticError):
                reason = UNREADABLE  # the exception's own text may quote the value
            raise Located(problem(path, source, reason))

        return write

    def source(self, path: str, spec: dict[str, Any], form: str) -> tuple[Writer, str]:
        if form == "value":
            constant = spec["value"]
            return (lambda scope: constant), ""
        if form == "from":
            return self.names(below(path, "from"), spec["from"])
        joined = spec["join"]
        place = below(path, "join")
        if not isinstance(joined, dict) or not joined:
            self.profile.fail(place, "join: a mapping from names to sources")
        entries = {}
        for key, entry in joined.items():
            if isinstance(entry, dict):
                if not _is_leaf(entry):
                    self.profile.fail(below(place, key), "a name, a list of names, or {value: CONST}")
                writer = self.leaf(below(place, key), entry)
                entries[key] = _none_for_omit(writer)
            elif entry is not None:
                entries[key], _ = self.names(below(place, key), entry)
        join = compile_join(self.profile, path, spec, list(entries))
        constants = frozenset(key for key in entries if isinstance(joined[key], dict) and "value" in joined[key])

        def read(scope: Scope) -> Any:
            return join({key: entry(scope) for key, entry in entries.items()}, constants, scope.ctx)

        return read, ", ".join(str(joined[key]) for key in entries if not isinstance(joined[key], dict))

    def names(self, path: str, source: Any) -> tuple[Writer, str]:
        """A reader of the first name that is present."""
        sources = source if isinstance(source, list) else [source]
        if not sources:
            self.profile.fail(path, "at least one name is expected here")
        many = isinstance(source, list)
        readers = [self.name(below(path, index) if many else path, entry) for index, entry in enumerate(sources)]

        def read(scope: Scope) -> Any:
            for reader in readers:
                value = reader(scope)
                if value is not None and value != "":
                    return value
            return None

        return (readers[0] if len(readers) == 1 else read), " | ".join(str(entry) for entry in sources)

    def name(self, path: str, name: Any) -> Writer:
        try:
            lookup = compile_name(name, self.request_type)
        except ValueError as error:
            self.profile.fail(path, str(error))
        return self.located(path, str(name), lookup)

    def word(self, path: str, source: Any) -> Writer:
        """A reader of one value as text, for comparing."""
        read, name = self.names(path, source)

        def read_word(scope: Scope) -> Any:
            value = read(scope)
            return None if value is None or value == "" else as_text(value)

        return self.located(path, name, read_word)

    def located(self, path: str, source: str, read: Writer) -> Writer:
        """`read`, whose failures know their place."""

        def read_located(scope: Scope) -> Any:
            try:
                return read(scope)
            except Failure as failure:
                reason = str(failure)
            raise Located(self.problem(path, source, reason))

        return read_located

    def variant(self, path: str, spec: dict[str, Any], absent: Any) -> Writer:
        choose = self.word(below(path, "variant"), spec["variant"])
        cases = spec.get("cases")
        if not isinstance(cases, dict) or not cases:
            self.profile.fail(below(path, "cases"), "cases: a mapping from values to what is written")
        writers = {
            word: _omit if case is None else self.tree(below(below(path, "cases"), word), case)
            for word, case in cases.items()
        }
        other = _omit if spec.get("else") is None else self.tree(below(path, "else"), spec["else"])

        def write(scope: Scope) -> Any:
            word = choose(scope)
            value = other(scope) if word is None else writers.get(word, other)(scope)
            return absent if value is OMIT else value

        return write

    def keep(self, path: str, spec: dict[str, Any]) -> Writer:
        self.profile.check_keys(path, spec, ("keep", "ref"))
        if not isinstance(spec["keep"], dict) or not spec["keep"]:
            self.profile.fail(below(path, "keep"), "keep: a mapping from keys to names")
        place = below(path, "keep")
        leaves = {key: entry if isinstance(entry, dict) else {"from": entry} for key, entry in spec["keep"].items()}
        return self.dict_of(place, leaves)

    def absent(self, path: str, spec: dict[str, Any]) -> Any:
        """What is written for an absent value: the default, else what `absent` says."""
        default = spec.get("default")
        if isinstance(default, dict | list):
            self.profile.fail(below(path, "default"), "default: one plain value")
        word = spec.get("absent", "omit")
        if not isinstance(word, str) or word not in _ABSENT:
            self.profile.fail(below(path, "absent"), "absent: one of " + ", ".join(_ABSENT))
        return _ABSENT[word] if default is None else default


def _is_leaf(spec: dict[str, Any]) -> bool:
    # `value` alone is ambiguous: a FHIR Identifier or Quantity has an element of that name, with others beside it.
    if any(form in spec for form in ("join", "variant", "keep")) or isinstance(spec.get("from"), str | list):
        return True
    return "value" in spec and _LEAF_KEYS.issuperset(spec) and not isinstance(spec["value"], dict | list)


def _omit(scope: Scope) -> Any:
    return OMIT


def _none_for_omit(writer: Writer) -> Writer:
    def read(scope: Scope) -> Any:
        value = writer(scope)
        return None if value is OMIT else value

    return read


def _plain(value: Any) -> Any:
    """A leaf as text, number or truth value: enums by their value, dates in ISO 8601."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | float | Decimal):
        return value
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, msgspec.Struct | Mapping | list | tuple):
        raise Failure("is not a single value: name one of its fields")
    raise Failure("cannot be written without a transform")
