"""The dotted names that request trees read: `order_no`, `slot.his_refs.schedule_item`, `hospital.id`, `new.uuid`."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .context import Failure, MapContext

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_HOSPITAL = ("id", "currency")
MAX_NAME = 200


class Scope:
    """What names are looked up in: the request, the context, and inside `each` the current item and its number from 1."""

    __slots__ = ("ctx", "item", "number", "request")

    def __init__(self, request: Any, ctx: MapContext, item: Any = None, number: int = 0) -> None:
        self.request = request
        self.ctx = ctx
        self.item = item
        self.number = number

    def inside(self, item: Any, number: int) -> Scope:
        """The scope of one item of an `each`."""
        return Scope(self.request, self.ctx, item, number)


Lookup = Callable[[Scope], Any]


def compile_name(name: Any, request_type: type[msgspec.Struct] | None) -> Lookup:
    """Compile a dotted name to a lookup that returns None for what is absent.

    The lookup raises Failure for a field that the request's records do not have. Raises ValueError for a bad name, and
    with `request_type` for a field that it does not have.
    """
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError("a name is expected here, as in patient.mrn")
    first, *rest = name.split(".")
    if first == "now" and not rest:
        return lambda scope: scope.ctx.now.astimezone(scope.ctx.zone)
    if first == "new":
        return _new(name)
    if first == "hospital":
        return _hospital(name, rest)
    if first == "connection":
        return lambda scope: scope.ctx.extra[name] if name in scope.ctx.extra else _walk(scope.ctx.connection, rest)
    if first == "item":
        return lambda scope: _walk(scope.item, rest)
    if first == "item_no" and not rest:
        return lambda scope: scope.number or None
    if request_type is not None:
        _check(name, request_type)
    parts = [first, *rest]
    return lambda scope: scope.ctx.extra[name] if name in scope.ctx.extra else _walk(scope.request, parts)


def _new(name: str) -> Lookup:
    def read(scope: Scope) -> Any:
        if name not in scope.ctx.extra:
            raise Failure("is not something that this connector makes")
        return scope.ctx.extra[name]

    return read


def _hospital(name: str, rest: list[str]) -> Lookup:
    if len(rest) != 1 or rest[0] not in _HOSPITAL:
        raise ValueError("hospital has: " + ", ".join(_HOSPITAL))
    if rest[0] == "id":
        return lambda scope: scope.ctx.hospital_id
    return lambda scope: scope.ctx.currency


def _walk(value: Any, parts: list[str]) -> Any:
    for part in parts:
        if value is None:
            return None
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, msgspec.Struct):
            if part not in value.__struct_fields__:
                raise Failure(f"{type(value).__name__} has no field {part}")
            value = getattr(value, part)
        else:
            raise Failure(f"{part} is asked of a plain value")
    return value


def _check(name: str, record: type[msgspec.Struct]) -> None:
    current: Any = record
    for part in name.split("."):
        if not (isinstance(current, type) and issubclass(current, msgspec.Struct)):
            return
        hints = typing.get_type_hints(current)
        if part not in hints:
            raise ValueError(f"{current.__name__} has no field {part}: it has {', '.join(current.__struct_fields__)}")
        current = hints[part]
        if isinstance(current, types.UnionType):
            current = next(member for member in typing.get_args(current) if member is not type(None))
