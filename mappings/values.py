"""Turning mapped values into the types of the canonical records: one converter per type, made once."""

from __future__ import annotations

import datetime as dt
import enum
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from . import canonical
from .context import Failure

Convert = Callable[[Any], Any]

RECORDS: dict[str, type[canonical.Record]] = {
    name: value
    for name, value in vars(canonical).items()
    if isinstance(value, type)
    and issubclass(value, canonical.Record)
    and value not in (canonical.Record, canonical.Event)
}


class FieldType(msgspec.Struct, frozen=True):
    """One field of a record: whether it must be there, may be None, and what it holds.

    `record` is the nested record's type if it holds one (`many`: a tuple of them); `is_text` and `is_refs` say that
    it is a plain text or a dict[str, str].
    """

    required: bool
    optional: bool
    convert: Convert
    record: type[canonical.Record] | None = None
    many: bool = False
    is_text: bool = False
    is_refs: bool = False


_cache: dict[type[canonical.Record], dict[str, FieldType]] = {}


def field_types(record: type[canonical.Record]) -> dict[str, FieldType]:
    """The fields of a record type, in order."""
    if record not in _cache:
        hints = typing.get_type_hints(record)
        _cache[record] = {field.name: _field_type(field, hints[field.name]) for field in msgspec.structs.fields(record)}
    return _cache[record]


def _field_type(field: msgspec.structs.FieldInfo, hint: Any) -> FieldType:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0]
    many = typing.get_origin(hint) is tuple
    inner = typing.get_args(hint)[0] if many else hint
    record = inner if isinstance(inner, type) and issubclass(inner, canonical.Record) else None
    return FieldType(
        required=field.required,
        optional=optional,
        convert=_converter(hint),
        record=record,
        many=many,
        is_text=hint is str,
        is_refs=typing.get_origin(hint) is dict,
    )


def _converter(hint: Any) -> Convert:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum_converter(hint)
    simple: dict[Any, Convert] = {
        str: _to_text,
        int: _to_int,
        bool: _to_bool,
        bytes: _to_bytes,
        dt.date: _to_date,
        dt.datetime: _to_datetime,
    }
    return simple.get(hint, _unchanged)


def _enum_converter(kind: type[enum.Enum]) -> Convert:
    words: dict[Any, enum.Enum] = {member.value: member for member in kind}
    reason = "is none of " + ", ".join(str(word) for word in words)

    def convert(value: Any) -> Any:
        try:
            return words[value]
        except (KeyError, TypeError):
            raise Failure(reason) from None

    return convert


def _unchanged(value: Any) -> Any:
    return value


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Failure("is not a text")


def _to_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= 18 and text.isascii() and text.removeprefix("-").isdigit():
            return int(text)
    raise Failure("is not a whole number")


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise Failure("is not true or false: use `via: boolean`")


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    raise Failure("is not bytes: use `via: base64`")


def _to_date(value: Any) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and len(value) == 10:
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise Failure("is not a date (yyyy-MM-dd): use `via: date`")


def _to_datetime(value: Any) -> dt.datetime:
    moment = value
    if isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if isinstance(moment, dt.datetime) and moment.tzinfo is not None:
        return moment
    raise Failure("is not an instant with an offset: use `via: datetime`")
