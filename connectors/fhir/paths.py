"""The FHIR path language of profiles: a small, compiled part of FHIRPath over decoded JSON.

    name.given[1]                                 elements, repeated ones flattened; [n] counts from 0
    identifier.where(type.coding.code='MR').value equality on a path, the only predicate
    identifier.where(system=connection.order_system).value
                                                  ... to a setting of the connector, as it is when the profile is compiled
    participant.actor.where(resolve() is Patient) what a reference points to, as FHIR's own search parameters say it
    entry.resource.ofType(Slot), value.ofType(Quantity)
    extension('http://...').valueMoney.value
    schedule.resolve().actor                      inside the Bundle, and `#id` inside `contained`
    name.first()

A leading resource type (`Patient.name`) holds only for resources of that type. Nodes come in document order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from connectors.fhir.documents import Document, Json, find_contained, index_of, without_history
from connectors.fhir.scanner import Call, Index, Name, Step, parse_path

# JSON may write a number as 1e2 (RFC 8259 section 6). Plain digits are exact; beyond this many they are no amount.
_MAX_DIGITS = 40

Nodes = list[Any]
Move = Callable[[Any, Nodes], Nodes]


class FhirPaths:
    """The `PathLanguage` of FHIR profiles (see mappings.engine). `connection` holds the settings that paths may name."""

    def __init__(self, connection: Mapping[str, Any] | None = None) -> None:
        self._connection = connection or {}

    def compile(self, path: str) -> Callable[[Any, Any], list[Any]]:
        """Compile a path to (root, node) -> nodes; raises ValueError with the reason for a bad one."""
        moves = _moves([self._settled(step, path) for step in parse_path(path)])

        def select(root: Any, node: Any) -> list[Any]:
            nodes: Nodes = [node]
            for move in moves:
                nodes = move(root, nodes)
                if not nodes:
                    break
            return nodes

        return select

    def text(self, node: Any) -> str | None:
        """The text of a primitive; an object has none."""
        if isinstance(node, str):
            return node or None
        if isinstance(node, bool):
            return "true" if node else "false"
        if isinstance(node, Decimal):
            return _plain(node)
        if isinstance(node, int):
            return str(node)
        return None

    def _settled(self, step: Step, path: str) -> Step:
        """The step with the setting that its `where` names in place of the name."""
        if not isinstance(step, Call) or step.setting is None:
            return step
        value = self._connection.get(step.setting)
        if not isinstance(value, str | int) or value == "":
            raise ValueError(f"there is no setting connection.{step.setting}, in {path!r}")
        return Call(step.name, path=step.path, argument=str(value))


def _plain(number: Decimal) -> str:
    """The number in plain digits, none lost: 1e2 is 100. One that would need too many of them stays as it was written."""
    if not number.is_finite() or abs(number.adjusted()) + len(number.as_tuple().digits) > _MAX_DIGITS:
        return str(number)
    return format(number, "f")


def _moves(steps: list[Step]) -> list[Move]:
    moves: list[Move] = []
    if len(steps) > 1 and isinstance(steps[0], Name) and steps[0].name[0].isupper():
        moves.append(_of_type(steps[0].name))
        steps = steps[1:]
    for number, step in enumerate(steps):
        following = steps[number + 1] if number + 1 < len(steps) else None
        if isinstance(step, Name):
            chosen = following.argument if isinstance(following, Call) and following.name == "ofType" else None
            moves.append(_element(step.name, chosen))
        elif isinstance(step, Index):
            moves.append(_item(step.at))
        else:
            moves.append(_function(step))
    return moves


def _element(name: str, chosen: str | None) -> Move:
    """Go to the element `name`; before `ofType(T)` also to its choice form (`value` + `Quantity`)."""
    choice = f"{name}{chosen[0].upper()}{chosen[1:]}" if chosen else None

    def move(_root: Any, nodes: Nodes) -> Nodes:
        found: Nodes = []
        for node in nodes:
            if not isinstance(node, dict):
                continue
            value = node.get(name)
            if value is None and choice is not None and (value := node.get(choice)) is not None:
                value = _Chosen(value) if not isinstance(value, list) else value
            if isinstance(value, list):
                found.extend(item for item in value if item is not None)
            elif value is not None:
                found.append(value)
        return found

    return move


class _Chosen:
    """A value whose type its element's name has told already: `ofType` lets it pass."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _item(at: int) -> Move:
    return lambda _root, nodes: nodes[at : at + 1]


def _of_type(name: str) -> Move:
    def move(_root: Any, nodes: Nodes) -> Nodes:
        found: Nodes = []
        for node in nodes:
            if isinstance(node, _Chosen):
                found.append(node.value)
            elif isinstance(node, dict) and node.get("resourceType") == name:
                found.append(node)
        return found

    return move


def _function(call: Call) -> Move:
    if call.name == "first":
        return _item(0)
    if call.name == "resolve":
        return _resolve
    if call.name == "ofType":
        return _of_type(call.argument)
    if call.name == "extension":
        return _where_equal([Name("url")], call.argument, inside="extension")
    if call.points_to is not None:
        return _where_points_to(call.points_to)
    return _where_equal(parse_path(call.path), call.argument)


def _where_equal(steps: list[Step], wanted: str, *, inside: str | None = None) -> Move:
    test = _moves(steps)
    into = _element(inside, None) if inside else None
    text = FhirPaths().text

    def matches(root: Any, node: Any) -> bool:
        values: Nodes = [node]
        for step in test:
            values = step(root, values)
        return any(text(value) == wanted for value in values)

    def move(root: Any, nodes: Nodes) -> Nodes:
        if into is not None:
            nodes = into(root, nodes)
        return [node for node in nodes if matches(root, node)]

    return move


def _where_points_to(resource_type: str) -> Move:
    def move(root: Any, nodes: Nodes) -> Nodes:
        return [node for node in nodes if _target_type(root, node) == resource_type]

    return move


def _target_type(root: Any, node: Any) -> str | None:
    """What a reference points to, by its own words where they say it, else by the resource it leads to."""
    if not isinstance(node, dict):
        return None
    if isinstance(node.get("type"), str):
        return str(node["type"])
    reference = node.get("reference")
    if not isinstance(reference, str):
        return None
    parts = without_history(reference).rsplit("/", 2)
    if len(parts) >= 2 and not reference.startswith(("#", "urn:")):
        return parts[-2]
    target = next(iter(_targets(root, [node])), None)
    return str(target.get("resourceType")) if target else None


def _resolve(root: Any, nodes: Nodes) -> Nodes:
    return list(_targets(root, nodes))


def _targets(root: Any, nodes: Iterable[Any]) -> Iterator[Json]:
    if not isinstance(root, dict):
        return
    index = None if isinstance(root, Document) else index_of(root)
    for node in nodes:
        reference = node.get("reference") if isinstance(node, dict) else node
        if not isinstance(reference, str):
            continue
        if reference.startswith("#"):
            target = find_contained(root, node, reference[1:])
        elif isinstance(root, Document):
            target = root.find(reference)
        else:
            target = index.get(without_history(reference)) if index is not None else None
        if target is not None:
            yield target
