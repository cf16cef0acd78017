"""Typed fields: times, names, identifiers, codes and quantities as v2.5.1 ch. 2A has them; by its examples and the corpus."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.datatypes import (
    Authority,
    Coded,
    EntityIdentifier,
    Family,
    Identifier,
    Moment,
    PersonName,
    Quantity,
    StaffName,
    StructuredNumber,
    TimeOfDay,
)
from connectors.hl7v2.er7 import Message, parse
from connectors.hl7v2.segments import DataError, DataType, T


def field(raw: str, marks: str = "|^~\\&") -> Message:
    return parse(f"MSH{marks}{marks[0]}A\rZPT{marks[0]}{raw}\r")


def read(raw: str, kind: type[T]) -> T | None:
    values = field(raw).values("ZPT", 1, kind)
    return values[0] if values else None


def zone(minutes: int) -> dt.timezone:
    return dt.timezone(dt.timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("raw", "value", "precision", "digits", "offset"),
    [
        ("199904", dt.datetime(1999, 4, 1), "month", 0, None),
        ("1960", dt.datetime(1960, 1, 1), "year", 0, None),
        ("20050508", dt.datetime(2005, 5, 8), "day", 0, None),
        ("2005050813", dt.datetime(2005, 5, 8, 13), "hour", 0, None),
        ("198904262124", dt.datetime(1989, 4, 26, 21, 24), "minute", 0, None),
        ("19760704010159-0500", dt.datetime(1976, 7, 4, 1, 1, 59), "second", 0, zone(-300)),
        ("19760704010159.1234+0545", dt.datetime(1976, 7, 4, 1, 1, 59, 123400), "second", 4, zone(345)),
        ("20260105080000.50", dt.datetime(2026, 1, 5, 8, 0, 0, 500000), "second", 2, None),
        ("202601052400+0800", dt.datetime(2026, 1, 6), "minute", 0, zone(480)),
        ("20261231240000", dt.datetime(2027, 1, 1), "second", 0, None),
        ("20160630235960", dt.datetime(2016, 6, 30, 23, 59, 59), "second", 0, None),  # a leap second
        ("20260105^D", dt.datetime(2026, 1, 5), "day", 0, None),
    ],
)
def test_time_keeps_its_precision_and_offset(
    raw: str, value: dt.datetime, precision: str, digits: int, offset: dt.timezone | None
) -> None:
    assert read(raw, Moment) == Moment(value, precision, digits, offset)


def test_time_is_an_instant_by_its_own_offset_else_by_the_one_given() -> None:
    own, bare = read("202601050800+0100", Moment), read("202601050800", Moment)
    assert own is not None
    assert bare is not None
    assert own.at(zone(480)) == dt.datetime(2026, 1, 5, 7, tzinfo=dt.UTC)
    assert bare.at(zone(480)) == dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
    assert bare.has("minute")
    assert not bare.has("second")


@pytest.mark.parametrize(
    "raw",
    ["2026-01-05", "20261301", "20260230", "202601052401", "2026010525", "20260105080000+1500", "202", "20260105T08", "1700",
     "20260105080000.", "２０２６", "2026010508000"],
)  # fmt: skip
def test_error_names_the_place_and_not_the_value_when_a_time_is_none(raw: str) -> None:
    message = field(f"20260105~{raw}")
    with pytest.raises(DataError, match=r"^ZPT-1\(2\) (is|has) ") as caught:
        message.values("ZPT", 1, Moment)
    assert raw not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("raw", "since", "precision", "digits", "offset"),
    [
        ("0000", dt.timedelta(), "minute", 0, None),
        ("11", dt.timedelta(hours=11), "hour", 0, None),
        ("235959+1100", dt.timedelta(hours=23, minutes=59, seconds=59), "second", 0, zone(660)),
        ("093544.2312", dt.timedelta(hours=9, minutes=35, seconds=44, microseconds=231200), "second", 4, None),
        ("2400", dt.timedelta(days=1), "minute", 0, None),
        ("240000-0500", dt.timedelta(days=1), "second", 0, zone(-300)),
    ],
)
def test_time_of_day_keeps_its_precision_and_offset(
    raw: str, since: dt.timedelta, precision: str, digits: int, offset: dt.timezone | None
) -> None:
    assert read(raw, TimeOfDay) == TimeOfDay(since, precision, digits, offset)


@pytest.mark.parametrize("raw", ["2401", "240001", "25", "1", "1160", "11:30", "24"])
def test_time_of_day_is_refused_when_no_clock_shows_it(raw: str) -> None:
    with pytest.raises(DataError, match="ZPT-1"):
        read(raw, TimeOfDay)


@pytest.mark.parametrize(
    "kind",
    [Moment, TimeOfDay, Authority, Identifier, EntityIdentifier, PersonName, StaffName, Coded, Quantity, StructuredNumber],
)  # fmt: skip
@pytest.mark.parametrize("raw", ["", '""', "^", "^^^&&", "~~"])
def test_nothing_is_read_where_nothing_is_said(kind: type[DataType], raw: str) -> None:
    assert field(raw).values("ZPT", 1, kind) == []
    assert field(raw).values("ZZZ", 1, kind) == []


@pytest.mark.parametrize("kind", [Moment, TimeOfDay, Quantity, StructuredNumber])
def test_blanks_are_no_time_and_no_number(kind: type[DataType]) -> None:
    assert field(" ").values("ZPT", 1, kind) == []


def test_identifier_has_its_parts() -> None:
    whole = "1234567^4^M11^ADT01&1.2.840.1&ISO^MR^University&9.8&ISO"
    authority, facility = Authority("ADT01", "1.2.840.1", "ISO"), Authority("University", "9.8", "ISO")
    assert read(whole, Identifier) == Identifier("1234567", "4", "M11", authority, "MR", facility)
    assert read("001^^^&1.2.840.1&ISO^PI", Identifier) == Identifier(
        "001", "", "", Authority("", "1.2.840.1", "ISO"), "PI", Authority()
    )
    assert read("^4^M11^ADT01^MR", Identifier) is None  # a type without a number identifies nobody


def test_identifiers_are_those_of_all_repetitions_that_have_one() -> None:
    found = field("1^^^A^MR~~^^^B^PI~2^^^C^NI").values("ZPT", 1, Identifier)
    assert [(one.value, one.authority.namespace, one.type) for one in found] == [("1", "A", "MR"), ("2", "C", "NI")]


def test_entity_identifier_has_its_authority() -> None:
    assert read("EI12.3^NI2^1.2.3^ISO", EntityIdentifier) == EntityIdentifier(
        "EI12.3", Authority("NI2", "1.2.3", "ISO")
    )


def test_name_has_its_parts() -> None:
    name = read("Martinez y Martinez&y&Martinez&de&Gomez^Maria^A^Jr^Dr^MD^L^I", PersonName)
    family = Family("Martinez y Martinez", "y", "Martinez", "de", "Gomez")
    assert name == PersonName(family, "Maria", "A", "Jr", "Dr", "MD", "L", "I")
    only_given = read("^伟", PersonName)
    assert only_given is not None
    assert (only_given.family, only_given.given) == (Family(), "伟")


def test_staff_name_has_a_number_and_a_name() -> None:
    whole = "1234567^Smith&St&Smith^John^J^III^DR^PHD^ADT01^&1.2.840.19&ISO^L^4^M11^MR"
    staff = read(whole, StaffName)
    authority = Authority("", "1.2.840.19", "ISO")
    name = PersonName(Family("Smith", "St", "Smith"), "John", "J", "III", "DR", "PHD", "L", "")
    assert staff == StaffName(Identifier("1234567", "4", "M11", authority, "MR", Authority()), name)
    number, bare = read("D1", StaffName), read("^Li^Ming", StaffName)
    assert number is not None
    assert bare is not None
    assert (number.name, bare.identifier) == (None, None)


def test_code_has_its_parts() -> None:
    whole = "F-11380^CREATININE^I9^2148-5^CREATININE^LN^1^2.68^said"
    assert read(whole, Coded) == Coded("F-11380", "CREATININE", "I9", "2148-5", "CREATININE", "LN", "1", "2.68", "said")
    assert read("^headache", Coded) == Coded(text="headache")


@pytest.mark.parametrize(
    ("raw", "number", "unit"),
    [
        ("50^min&Minutes&ISO", Decimal("50"), Coded("min", "Minutes", "ISO")),
        ("0.10", Decimal("0.10"), None),
        ("+1.", Decimal("1"), None),
        ("-.5", Decimal("-0.5"), None),
        (" 7 ", Decimal("7"), None),
        ("001", Decimal("1"), None),
    ],
)
def test_quantity_is_exact(raw: str, number: Decimal, unit: Coded | None) -> None:
    assert read(raw, Quantity) == Quantity(number, unit)


def test_quantity_keeps_the_digits_that_it_is_written_with() -> None:
    found = read("0.10", Quantity)
    assert found is not None
    assert str(found.number) == "0.10"


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**30), max_value=10**30))
def test_quantity_is_the_number_that_was_written(number: Decimal) -> None:
    found = read(f"{number:f}", Quantity)
    assert found is not None
    assert str(found.number) == str(Decimal(f"{number:f}"))


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e9", "1,5", "0x1", "1_000", "٣", "--1", ".", "1" * 300])
def test_quantity_is_refused_when_it_is_no_number(raw: str) -> None:
    with pytest.raises(DataError, match="ZPT-1"):
        read(raw, Quantity)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (">^100", StructuredNumber(">", Decimal(100), "", None)),
        ("^100^-^200", StructuredNumber("=", Decimal(100), "-", Decimal(200))),
        ("^1^:^128", StructuredNumber("=", Decimal(1), ":", Decimal(128))),
        ("^2^+", StructuredNumber("=", Decimal(2), "+", None)),
        ("<>^0.50", StructuredNumber("<>", Decimal("0.50"), "", None)),
        ("<", StructuredNumber("<", None, "", None)),
    ],
)
def test_structured_number_has_its_parts(raw: str, value: StructuredNumber) -> None:
    assert read(raw, StructuredNumber) == value


@pytest.mark.parametrize("raw", ["about^1", "^1^to^2", "^one", "^1^-^two"])
def test_structured_number_is_refused_when_a_part_is_none(raw: str) -> None:
    with pytest.raises(DataError, match="ZPT-1"):
        read(raw, StructuredNumber)


def test_parts_are_found_and_unescaped_by_the_messages_own_delimiters() -> None:
    message = field("a!S!b*4**N!F!@1.2@ISO*MR", marks="#*~!@")
    assert message.values("ZPT", 1, Identifier) == [
        Identifier("a*b", "4", "", Authority("N#", "1.2", "ISO"), "MR", Authority())
    ]


def test_corpus_person_is_read_with_its_types(corpus: Path) -> None:
    message = parse(decode_message((corpus / "hl7v2" / "ADT-A04-01.hl7").read_bytes()).text)
    (sent,) = message.values("MSH", 7, Moment)
    assert sent == Moment(dt.datetime(1989, 8, 18, 11, 26), "minute", 0, zone(135))
    identifiers = message.values("PID", 3, Identifier)
    assert [(one.value, one.type) for one in identifiers] == [("PATID1234", "MR"), ("123456789", "SS")]
    assert identifiers[0].authority == Authority("test1", "2.16.1", "HCD")
    name = message.values("PID", 5, PersonName)[0]
    assert (name.family, name.given, name.suffix) == (Family("EVERYMAN", "", "", "", "Aniston"), "ADAM", "III")
