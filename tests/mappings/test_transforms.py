"""Every transform and join against arithmetic, ISO 8601, HL7 v2.5.1 ch. 2A, GB/T 2261.1 and ISO 4217."""

from __future__ import annotations

import datetime as dt
import string
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappings.context import Failure
from mappings.joins import JOINS
from mappings.transforms import TRANSFORMS
from tests.mappings.dict_profiles import SHANGHAI, context

BERLIN = ZoneInfo("Europe/Berlin")
PLUS_0215 = dt.timezone(dt.timedelta(hours=2, minutes=15))


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


def read(name: str, value: Any, arg: Any = None, **changes: Any) -> Any:
    transform = TRANSFORMS[name]
    assert transform.check_arg(arg) is None
    return transform.apply(value, context(**changes), arg)


def join(name: str, arg: Any = None, **values: Any) -> Any:
    assert JOINS[name].check_arg(arg) is None
    return JOINS[name].apply(context(), arg, **values)


@pytest.mark.parametrize(
    ("name", "value", "arg", "expected"),
    [
        ("text", "  a b ", None, "a b"),
        ("text", "   ", None, None),
        ("int", " 42 ", None, 42),
        ("yuan_to_fen", "7", None, 700),
        ("yuan_to_fen", "7.00", None, 700),
        ("yuan_to_fen", "0.1", None, 10),
        ("yuan_to_fen", "1.15", None, 115),
        ("yuan_to_fen", "-3.20", None, -320),
        ("yuan_to_fen", "7.100", None, 710),
        ("fen", "700", None, 700),
        ("fen", "700.00", None, 700),
        ("unlimited", "-1", {"values": ["-1", 99], "take": 999}, 999),
        ("unlimited", "99", {"values": ["-1", 99], "take": 999}, 999),
        ("unlimited", "098", {"values": ["-1", 99], "take": 999}, 98),
        ("strip_zeros", "000120", None, "120"),
        ("strip_zeros", "000", None, "0"),
        ("boolean", "Y", None, True),
        ("boolean", "否", None, False),
        ("base64", "5byg\n5Lyf", None, "张伟".encode()),
        ("count_list", "5,6,,7 ,", None, 3),
        ("count_list", "5|6", "|", 2),
        ("sex_cn", "0", None, "unknown"),
        ("sex_cn", "1", None, "male"),
        ("sex_cn", "2", None, "female"),
        ("sex_cn", "9", None, "unknown"),
        ("sex_cn", "女", None, "female"),
        ("mask_none", "138****0000", None, None),
        ("mask_none", "13800000000", None, "13800000000"),
        ("reference_id", "Patient/7", None, "7"),
        ("reference_id", "http://h/fhir/Patient/7/_history/2", "Patient", "7"),
        ("reference_id", "Group/7", "Patient", None),
        ("date", "2026-01-05", None, dt.date(2026, 1, 5)),
        ("date", "20260105", None, dt.date(2026, 1, 5)),
        ("date", "2026/1/5", None, dt.date(2026, 1, 5)),
        ("date", "2026-01-05 00:00:00", None, dt.date(2026, 1, 5)),
        ("date", "2026-01-04T16:00:00Z", None, dt.date(2026, 1, 5)),
        ("datetime", "2026-01-05 08:00:00", None, utc(2026, 1, 5, 0, 0)),
        ("datetime", "2026-01-05 08:00", None, utc(2026, 1, 5, 0, 0)),
        ("datetime", "2026/1/5 8:00:00", None, utc(2026, 1, 5, 0, 0)),
        ("datetime", "20260105080000", None, utc(2026, 1, 5, 0, 0)),
        ("datetime", "202601050800", None, utc(2026, 1, 5, 0, 0)),
        ("datetime", "2026-01-05T08:00:00Z", None, utc(2026, 1, 5, 8, 0)),
        ("datetime", "2026-01-05T08:00:00.250-05:00", None, utc(2026, 1, 5, 13, 0, 0, 250_000)),
        ("datetime", "2026-01-05T24:00:00", None, utc(2026, 1, 5, 16, 0)),
        ("datetime", "2026-12-31 24:00", None, utc(2026, 12, 31, 16, 0)),
        ("datetime", "2026-01-05", None, utc(2026, 1, 4, 16, 0)),
        ("hl7_datetime", "20210924093000+0215", None, utc(2021, 9, 24, 7, 15)),
        ("hl7_datetime", "20210924093000.1234-0000", None, utc(2021, 9, 24, 9, 30, 0, 123_400)),
        ("hl7_datetime", "202109240930", {"at_least": "minute"}, utc(2021, 9, 24, 1, 30)),
        ("hl7_datetime", "202109242400", None, utc(2021, 9, 24, 16, 0)),
        ("hl7_datetime", "2021", None, utc(2020, 12, 31, 16, 0)),
        ("hl7_datetime", "20210924^D", None, utc(2021, 9, 23, 16, 0)),
        ("hl7_date", "19800102", None, dt.date(1980, 1, 2)),
        ("hl7_date", "19800102233000-1200", None, dt.date(1980, 1, 2)),
        ("hl7_date", "1980", None, None),
        ("hl7_iso", "20260105", None, "2026-01-05"),
        ("hl7_iso", "202601", None, "2026-01"),
        ("hl7_iso", "2026010508", None, "2026-01-05T08:00"),
        ("hl7_iso", "202601050830+0800", None, "2026-01-05T08:30+08:00"),
        ("hl7_iso", "20260105083015.25", None, "2026-01-05T08:30:15.25"),
        ("hl7_iso", "five days ago", None, "five days ago"),
        ("hl7_time_iso", "0830", None, "08:30"),
        ("hl7_time_iso", "083015.5-0500", None, "08:30:15.5-05:00"),
        ("hl7_time_iso", "8 o'clock", None, "8 o'clock"),
        ("hex", "25504446", None, b"%PDF"),
        ("utf8", "报告", None, b"\xe6\x8a\xa5\xe5\x91\x8a"),
    ],
)
def test_value_is_read_when_its_shape_is(name: str, value: str, arg: Any, expected: Any) -> None:
    assert read(name, value, arg) == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("yuan_to_fen", ["7.005", "1e2", "1,000", "￥7", "", "٣", "NaN", "9" * 16]),
        ("fen", ["7.5", "x"]),
        ("int", ["7.0", "1_000", "٣", "9" * 19]),
        ("boolean", ["maybe", "2"]),
        ("base64", ["5byg5Ly", "*", "é"]),
        ("sex_cn", ["3", "男女"]),
        ("date", ["2026-02-30", "2026-1", "05.01.2026", "0001-01-01", "9999-12-31", "202601"]),
        (
            "datetime",
            ["2026-01-05 25:00", "2026-01-05 24:01", "2026-01-05T08:00:00+15:00", "2026010508", "2026-01-05 08"],
        ),
        ("hl7_datetime", ["2026-01-05", "202", "20261301", "20260105T08", "20260105240001", "20260105080000+08"]),
        ("hl7_date", ["19801301", "1980-01-02"]),
    ],
)
def test_value_is_refused_without_quoting_it_when_its_shape_is_wrong(name: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(Failure) as caught:
            read(name, value)
        assert not value or value not in str(caught.value)


def test_precision_is_demanded_when_the_profile_says_so() -> None:
    with pytest.raises(Failure, match="without its minute"):
        read("hl7_datetime", "20210924", {"at_least": "minute"})


def test_offset_of_the_message_stands_in_when_the_field_has_none() -> None:
    assert read("hl7_datetime", "20210924093000", message_tz=PLUS_0215) == utc(2021, 9, 24, 7, 15)
    assert read("hl7_datetime", "20210924093000+0800", message_tz=PLUS_0215) == utc(2021, 9, 24, 1, 30)
    assert read("hl7_datetime", "20210924093000") == utc(2021, 9, 24, 1, 30)
    assert read("datetime", "2021-09-24 09:30:00", message_tz=PLUS_0215) == utc(2021, 9, 24, 1, 30)


MORNING = dt.datetime(2026, 1, 5, 8, 5, 9, tzinfo=SHANGHAI)


@pytest.mark.parametrize(
    ("name", "value", "arg", "expected"),
    [
        ("date_dash", dt.date(2026, 1, 5), None, "2026-01-05"),
        ("date_dash", utc(2026, 1, 4, 16, 0), None, "2026-01-05"),
        ("date_dash", dt.date(2026, 1, 31), 7, "2026-02-07"),
        ("date_dash", dt.date(2026, 1, 1), -1, "2025-12-31"),
        ("date_compact", dt.date(2026, 1, 5), None, "20260105"),
        ("date_compact", utc(2026, 12, 30, 16, 0), 1, "20270101"),
        ("time_hm", utc(2026, 1, 5, 0, 5, 9), None, "08:05"),
        ("time_hms", MORNING, None, "08:05:09"),
        ("datetime_dash", MORNING, None, "2026-01-05 08:05:09"),
        ("datetime_compact", MORNING, None, "20260105080509"),
        ("hl7_ts", MORNING, None, "20260105080509+0800"),
        ("iso", MORNING, None, "2026-01-05T08:05:09+08:00"),
        ("iso", dt.date(2026, 1, 5), None, "2026-01-05"),
        ("day_start", dt.date(2026, 1, 5), 1, "2026-01-06T00:00:00+08:00"),
        ("fen_to_yuan", 700, None, "7.00"),
        ("fen_to_yuan", -5, None, "-0.05"),
        ("fen_to_decimal", 710, None, Decimal("7.10")),
        ("zero_pad", "42", 5, "00042"),
        ("reference", "7", "Patient", "Patient/7"),
        ("reference", "Patient/7", "Patient", "Patient/7"),
        ("base64_text", "张伟".encode(), None, "5byg5Lyf"),
        ("session_of", utc(2026, 1, 5, 5, 0), {"am": "00:00", "pm": "12:00"}, "pm"),
        ("session_of", utc(2026, 1, 4, 17, 0), {"am": "06:00", "night": "18:00"}, "night"),
    ],
)
def test_value_is_written_when_its_type_is_right(name: str, value: Any, arg: Any, expected: Any) -> None:
    assert read(name, value, arg) == expected


@pytest.mark.parametrize("name", ["date_dash", "time_hm", "datetime_compact", "hl7_ts", "iso", "fen_to_yuan"])
def test_value_is_refused_when_it_is_of_another_type(name: str) -> None:
    with pytest.raises(Failure):
        read(name, "2026-01-05")


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("2026-01-05", "08:00", utc(2026, 1, 5, 0, 0)),
        ("20260105", "0830", utc(2026, 1, 5, 0, 30)),
        ("2026-01-05", "083015", utc(2026, 1, 5, 0, 30, 15)),
        ("2026-01-05", "8:30:15", utc(2026, 1, 5, 0, 30, 15)),
        ("2026-01-31", "24:00", utc(2026, 1, 31, 16, 0)),
        ("2026-01-31", "240000", utc(2026, 1, 31, 16, 0)),
        ("2026-01-05 00:00:00", "08:00", utc(2026, 1, 5, 0, 0)),
        (dt.date(2026, 1, 5), "08:00", utc(2026, 1, 5, 0, 0)),
        (None, "08:00", None),
        ("2026-01-05", None, None),
    ],
)
def test_date_and_time_make_an_instant_when_joined(date: Any, time: Any, expected: Any) -> None:
    assert join("date_and_time", date=date, time=time) == expected


@pytest.mark.parametrize(
    ("time", "opens", "closes", "day"),
    [
        ("20:00", "20:00", "02:00", 5),
        ("23:59", "20:00", "02:00", 5),
        ("00:00", "20:00", "02:00", 6),
        ("02:00", "20:00", "02:00", 6),
        ("0030", "2000", "0200", 6),
        ("00:00", "20:00", "00:00", 6),
        ("07:50", "08:00", "12:00", 5),  # before it opens, and nothing runs over midnight
        ("08:00", "08:00", "08:00", 5),
        ("02:00", None, "02:00", 5),
        ("02:00", "20:00", None, 5),
    ],
)
def test_later_part_of_a_session_over_midnight_is_on_the_next_day(
    time: str, opens: str | None, closes: str | None, day: int
) -> None:
    moment = join("date_and_time", date="2026-01-05", time=time, opens=opens, closes=closes)
    assert moment.day == day


@pytest.mark.parametrize(
    ("amount", "unit", "arg", "minutes"),
    [
        ("60", "s", None, 1),
        ("60^s", None, None, 1),
        ("30", "min", None, 30),
        ("30", "M", None, 30),
        ("M30", None, None, 30),
        ("H2", None, None, 120),
        ("1.5", "h", None, 90),
        ("2", "d", None, 2880),
        ("1", "WK", None, 10_080),
        ("20", None, {"unit": "min"}, 20),
        ("20", "min^minute^UCUM", None, 20),
        ("30", "分钟", None, 30),
    ],
)
def test_duration_is_added_when_its_unit_is_known(amount: str, unit: str | None, arg: Any, minutes: int) -> None:
    for start in ("20260105080000", "2026-01-05 08:00:00", utc(2026, 1, 5, 0, 0)):
        ends = join("add_duration", arg, start=start, amount=amount, unit=unit)
        assert ends == utc(2026, 1, 5, 0, 0) + dt.timedelta(minutes=minutes)


@pytest.mark.parametrize(("amount", "unit"), [("60", None), ("60", "mol"), ("-5", "min"), ("366", "wk"), ("x", "s")])
def test_duration_is_refused_when_it_cannot_be_known(amount: str, unit: str | None) -> None:
    with pytest.raises(Failure):
        join("add_duration", start="20260105080000", amount=amount, unit=unit)


def test_duration_is_elapsed_time_when_the_clocks_change() -> None:
    # Berlin, 2026-03-29: 02:00 becomes 03:00.
    ctx = context(zone=BERLIN)
    ends = JOINS["add_duration"].apply(ctx, None, start="2026-03-29 01:30:00", amount="60", unit="min")
    assert ends == utc(2026, 3, 29, 1, 30)
    assert ends.isoformat() == "2026-03-29T03:30:00+02:00"


def test_currency_is_the_hospitals_when_none_is_sent() -> None:
    assert join("currency", code=None) == "CNY"
    assert join("currency", code="usd ") == "USD"
    with pytest.raises(Failure):
        join("currency", code="$")


def test_money_is_refused_when_it_has_too_many_decimals() -> None:
    with pytest.raises(Failure, match="more decimals than JPY"):
        join("money", amount="1.5", currency="JPY")


def test_money_is_summed_when_the_currencies_agree() -> None:
    assert join("money_sum", amounts="100\n120.50", currencies="USD\nUSD") == 22_050
    assert join("money_sum", amounts="100\n120.50", credits="20.25", currencies="USD\nUSD\nUSD") == 20_025
    assert join("money_sum", credits="20.25") == -2_025
    with pytest.raises(Failure, match="below zero"):
        join("money_sum", amounts="100", credits="-20")


def test_fees_are_added_when_a_hospital_tells_them_apart() -> None:
    assert join("sum", reg="100", treat="600") == 700
    assert join("sum", reg="100", treat=None) == 100
    assert join("sum", reg=None, treat=None) is None
    with pytest.raises(Failure):
        join("sum", reg="1.005")


def test_seats_left_are_the_quota_less_what_is_taken() -> None:
    assert join("difference", of="20", less="17") == 3
    assert join("difference", of="20", less=None) == 20
    assert join("difference", of=None, less="17") is None
    assert join("difference", of="17", less="20") == -3
    assert join("difference", {"at_least": 0}, of="17", less="20") == 0
    assert join("difference", {"at_least": 0}, of="17", less="16.0") == 1
    for of, less in (("many", "1"), ("20", "1.5")):
        with pytest.raises(Failure):
            join("difference", of=of, less=less)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (dt.date(2026, 1, 5), dt.datetime(2026, 1, 4, 16, 30, tzinfo=dt.UTC), "1"),  # 00:30 of the 5th in Shanghai
        (dt.date(2026, 1, 5), dt.datetime(2026, 1, 4, 15, 30, tzinfo=dt.UTC), "2"),
        ("2026-01-05", "20260105", "1"),
        (None, "20260105", None),
    ],
)
def test_same_day_is_the_hospitals_when_days_are_compared(first: Any, second: Any, expected: Any) -> None:
    assert join("same_day", {"same": 1, "other": "2"}, first=first, second=second) == expected


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12))
def test_yuan_come_back_when_written_and_read(fen: int) -> None:
    assert read("yuan_to_fen", read("fen_to_yuan", fen)) == fen


INSTANTS = st.datetimes(dt.datetime(1900, 1, 2), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))


@settings(deadline=None)
@given(INSTANTS.map(lambda moment: moment.replace(microsecond=0)))
def test_instant_comes_back_when_written_and_read(moment: dt.datetime) -> None:
    assert read("datetime", read("iso", moment, zone=dt.UTC)) == moment
    late = moment.replace(year=max(moment.year, 1992))  # since then China's offset has been a whole number of minutes
    assert read("hl7_datetime", read("hl7_ts", late), zone=BERLIN) == late


ARGS = {
    "unlimited": {"values": ["-1"], "take": 9},
    "reference": "Patient",
    "zero_pad": 5,
    "session_of": {"am": "00:00", "pm": "12:00"},
}
HIS_TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(string.digits + "-+:.TZ/^ ", max_size=24),
    st.integers(0, 10**15).map(str),
    st.decimals(allow_nan=True).map(str),
)


def failure_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Failure as failure:
        return str(failure)
    return ""


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@settings(max_examples=40, deadline=None)
@given(value=HIS_TEXTS)
def test_transform_answers_or_fails_when_given_any_text(name: str, value: str) -> None:
    told = failure_of(lambda: read(name, value, ARGS.get(name)))
    assert len(value) < 8 or value not in told


@pytest.mark.parametrize("name", sorted(name for name, entry in JOINS.items() if entry.sources))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_join_answers_or_fails_when_given_any_texts(name: str, data: st.DataObject) -> None:
    values = {source: data.draw(st.none() | HIS_TEXTS) for source in JOINS[name].sources or ()}
    told = failure_of(lambda: join(name, **values))
    assert not any(value and len(value) >= 8 and value in told for value in values.values())
