"""The data types of HL7 v2 that are more than a text (v2.5.1 ch. 2A): times, names, identifiers, codes, quantities.

    message.values("PID", 3, Identifier)     every identifier of a patient
    segment.values(5, PersonName)            every name
    Moment.of(repetition)                    one repetition, None where it says nothing

Nothing is guessed: what is not written is "" or None, numbers stay exact, a time keeps its precision and its offset. What is not
of its type is a DataError, which names the place and never the value.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Self

import msgspec

from connectors.hl7v2.segments import DataError, Repetition
from mappings.context import Failure
from mappings.times import Stamp, read_hl7_time, read_stamp

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,200}(?:\.[0-9]{0,200})?|\.[0-9]{1,200})")


class Moment(Stamp, frozen=True):
    """TS, DTM or DT (2.A.77, 2.A.22, 2.A.21): `value`, `precision`, `fraction_digits` and `offset` of a Stamp."""

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        text = repetition.leaf().strip()
        if not text:
            return None
        try:
            stamp = read_stamp(text)
        except Failure as failure:
            raise DataError(str(failure)) from None
        return cls(stamp.value, stamp.precision, stamp.fraction_digits, stamp.offset)


class TimeOfDay(msgspec.Struct, frozen=True):
    """TM (2.A.75): how long after midnight; 24:00 is a whole day. `precision` is hour, minute or second."""

    since_midnight: dt.timedelta
    precision: str
    fraction_digits: int
    offset: dt.tzinfo | None

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        text = repetition.leaf().strip()
        try:
            return cls(*read_hl7_time(text)) if text else None
        except Failure as failure:
            raise DataError(str(failure)) from None


class Authority(msgspec.Struct, frozen=True):
    """HD (2.A.33): who gives numbers out, by a name of the site's, a universal id of a type (ISO, DNS, GUID ...), or both."""

    namespace: str = ""
    universal_id: str = ""
    universal_id_type: str = ""

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        parts = [repetition.leaf(n) for n in (1, 2, 3)]
        return cls(*parts) if any(parts) else None

    @classmethod
    def within(cls, repetition: Repetition, component: int) -> Self:
        """An HD that is a component of something: its parts are subcomponents."""
        return cls(*(repetition.leaf(component, n) for n in (1, 2, 3)))


class Identifier(msgspec.Struct, frozen=True):
    """CX (2.A.14): a number with who gave it out. `scheme` is of table 0061, `type` of table 0203 (MR, PI, NI ...)."""

    value: str
    check_digit: str
    scheme: str
    authority: Authority
    type: str
    facility: Authority

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        """None where there is no number, whatever else is said."""
        leaf = repetition.leaf
        if not leaf(1):
            return None
        within = Authority.within
        return cls(leaf(1), leaf(2), leaf(3), within(repetition, 4), leaf(5), within(repetition, 6))


class EntityIdentifier(msgspec.Struct, frozen=True):
    """EI (2.A.25): a number within what one system numbers: an order, an appointment."""

    value: str
    authority: Authority

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        """None where there is no number, whatever else is said."""
        leaf = repetition.leaf
        return cls(leaf(1), Authority(leaf(2), leaf(3), leaf(4))) if leaf(1) else None


class Family(msgspec.Struct, frozen=True):
    """FN (2.A.30): `surname` as a whole, and, where a sender takes it apart, one's own part and the partner's."""

    surname: str = ""
    own_prefix: str = ""
    own_surname: str = ""
    partner_prefix: str = ""
    partner_surname: str = ""


class PersonName(msgspec.Struct, frozen=True):
    """XPN (2.A.88), and PN of older versions. `type` is of table 0200 (L legal, D display ...)."""

    family: Family
    given: str
    middle: str
    suffix: str
    prefix: str
    degree: str
    type: str
    representation: str

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        return cls.within(repetition, 1, 7, 8)

    @classmethod
    def within(cls, repetition: Repetition, family: int, type_: int, representation: int) -> Self | None:
        """A name whose parts begin at the component `family`; None where there is none."""
        leaf = repetition.leaf
        given, middle, suffix, prefix, degree = parts = [leaf(family + n) for n in range(1, 6)]
        surname = Family(*(leaf(family, n) for n in range(1, 6)))
        if not any(parts) and surname == Family():
            return None
        return cls(surname, given, middle, suffix, prefix, degree, leaf(type_), leaf(representation))


class StaffName(msgspec.Struct, frozen=True):
    """XCN (2.A.86): a number and a name. `identifier` is None where only a name is said, `name` where only a number is."""

    identifier: Identifier | None
    name: PersonName | None

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        leaf, within = repetition.leaf, Authority.within
        name = PersonName.within(repetition, 2, 10, 15)
        number = leaf(1)
        if not number:
            return None if name is None else cls(None, name)
        authority, facility = within(repetition, 9), within(repetition, 14)
        return cls(Identifier(number, leaf(11), leaf(12), authority, leaf(13), facility), name)


class Coded(msgspec.Struct, frozen=True):
    """CE, CWE or CNE (2.A.6, 2.A.13, 2.A.8): a code with its text and system, an alternate, and what somebody wrote."""

    code: str = ""
    text: str = ""
    system: str = ""
    other_code: str = ""
    other_text: str = ""
    other_system: str = ""
    version: str = ""
    other_version: str = ""
    original_text: str = ""

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        parts = [repetition.leaf(n) for n in range(1, 10)]
        return cls(*parts) if any(parts) else None

    @classmethod
    def within(cls, repetition: Repetition, component: int) -> Self | None:
        """A code that is a component of something: its parts are subcomponents."""
        parts = [repetition.leaf(component, n) for n in range(1, 10)]
        return cls(*parts) if any(parts) else None


class Quantity(msgspec.Struct, frozen=True):
    """CQ, or NM alone (2.A.11, 2.A.47): a number, exactly as written, and its unit."""

    number: Decimal
    unit: Coded | None

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        number = _number(repetition.leaf())
        return None if number is None else cls(number, Coded.within(repetition, 2))


class StructuredNumber(msgspec.Struct, frozen=True):
    """SN (2.A.70): `>^100`, `^100^-^200`, `^1^:^128`, `^2^+`. `comparator` is "=" where none is written, as the standard says."""

    comparator: str
    first: Decimal | None
    separator: str
    second: Decimal | None

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        comparator, separator = repetition.leaf(1).strip(), repetition.leaf(3).strip()
        first, second = _number(repetition.leaf(2)), _number(repetition.leaf(4))
        if not comparator and not separator and first is None and second is None:
            return None
        if comparator not in ("", "=", ">", "<", ">=", "<=", "<>") or separator not in ("", "-", "+", "/", ".", ":"):
            raise DataError("is not a structured number (comparator^number^separator^number)")
        return cls(comparator or "=", first, separator, second)


def _number(text: str) -> Decimal | None:
    text = text.strip()
    if not text:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise DataError("is not a number (v2.5.1 ch. 2.A.47, NM)")
    return Decimal(text)
