"""The tables of the wire suite, all together: enough rows, in every group, each with a name of its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator

import tests.connectors.hl7v2.wire as suite

from .his import HisRow
from .rows import GROUPS, Row


def rows_in(value: object) -> Iterator[Row | HisRow]:
    if isinstance(value, Row | HisRow):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from rows_in(one)


def tables() -> Iterator[tuple[str, list[Row | HisRow]]]:
    for module in pkgutil.iter_modules(suite.__path__):
        if module.name.startswith("test_"):
            loaded = importlib.import_module(f"{suite.__name__}.{module.name}")
            yield module.name, [row for name, value in vars(loaded).items() if name.isupper() for row in rows_in(value)]


def test_every_group_has_its_rows() -> None:
    by_group = Counter(row.group for _, rows in tables() for row in rows)
    assert set(by_group) == set(GROUPS)
    assert by_group.total() >= 80


def test_rows_of_a_table_have_names_of_their_own() -> None:
    for table, rows in tables():
        twice = [name for name, times in Counter(row.name for row in rows).items() if times > 1]
        assert not twice, table
