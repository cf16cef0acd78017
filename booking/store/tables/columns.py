"""How tables and their columns are written down."""

from __future__ import annotations

import re

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, MetaData, String, Text, text

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
)


def check(condition: str, name: str) -> CheckConstraint:
    """A CHECK, with every `x in (...)` spelt out as comparisons.

    SQLite builds a small tree for the list of an `in`, anew for each row and each CHECK: 34 of the 51 us of a booking's insert.
    """
    return CheckConstraint(_IN_LIST.sub(_spelt_out, condition), name=name)


_IN_LIST = re.compile(r"(\w+) (not )?in \(([^()]*)\)")


def _spelt_out(found: re.Match[str]) -> str:
    column, negated, values = found.groups()
    one, joint = (" <> ", " and ") if negated else (" = ", " or ")
    return "(" + joint.join(column + one + value.strip() for value in values.split(",")) + ")"


def key(name: str) -> Column[str]:
    return Column(name, String(64), primary_key=True)


def his_key(name: str) -> Column[str]:
    """A code of the HIS's own, whatever its length."""
    return Column(name, Text, primary_key=True)


def ms(name: str, *, null: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


def string(name: str, *, null: bool = False, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=null, server_default=default)


def flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))
