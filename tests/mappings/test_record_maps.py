"""Reading: every form of a field, what is absent, what fails, and that problems hold no value."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from mappings.canonical import (
    Bill,
    BillItem,
    Department,
    Identifier,
    Observation,
    Patient,
    PatientChanged,
    Registration,
    RegistrationStatus,
    Schedule,
    Session,
    Sex,
)
from mappings.engine import MappingError, compile_record_map
from mappings.profile import ProfileError
from tests.mappings.dict_profiles import SHANGHAI, DictPaths, context, profile_of, reply_map

SCHEDULES = """
each: /Rows/Row
record: Schedule
fields:
  id: {from: Code}
  date: {from: Day, via: date}
  session: {from: Part, table: session}
  department_id: {from: Dept}
  fee_fen: {from: [Fee, RegFee], via: yuan_to_fen}
  his_refs: {keep: {item: Code, room: Room, order: [A, B], channel: {value: app}}}
"""
TABLE = "{session: {S: am, X: pm}}"


def schedule_row(**changes: Any) -> dict[str, Any]:
    return {"Code": "100||7", "Day": "20260105", "Part": "S", "Dept": "100", "RegFee": "7"} | changes


def department(folder: Path, name_field: str, tables: str = "{}", **source: Any) -> str | None:
    """The name that `name_field` reads from `source`; the field is given a default so that absence shows."""
    spec = f"record: Department\nfields:\n  id: {{value: d}}\n  name: {{value: n}}\n  campus: {name_field}\n"
    record: Department = reply_map(folder, spec, tables).read_one(source, context())
    return record.campus


def test_record_is_read_when_all_is_there(tmp_path: Path) -> None:
    reply = {"Rows": {"Row": [schedule_row(B="b2", Fee="")]}}
    mapped = reply_map(tmp_path, SCHEDULES, TABLE).read(reply, context())
    assert mapped.problems == ()
    assert mapped.records == (
        Schedule(
            id="100||7",
            date=dt.date(2026, 1, 5),
            session=Session.AM,
            department_id="100",
            fee_fen=700,
            his_refs={"item": "100||7", "order": "b2", "channel": "app"},
        ),
    )


@pytest.mark.parametrize(
    ("changes", "field", "source", "reason"),
    [
        ({"Part": "SECRET-Q"}, "session", "Part", "is a code that table session does not have"),
        ({"Day": "SECRET-1"}, "date", "Day", "is not a date (yyyy-MM-dd or yyyyMMdd)"),
        ({"Day": "20260230"}, "date", "Day", "is a date that does not exist"),
        ({"Dept": "  "}, "department_id", "Dept", "is absent, and the record needs it"),
        ({"Fee": "7.005SECRET"}, "fee_fen", "Fee | RegFee", "is not an amount in yuan"),
    ],
)
def test_other_records_come_when_one_fails(
    tmp_path: Path, changes: dict[str, str], field: str, source: str, reason: str
) -> None:
    rows = [schedule_row(Code="1"), schedule_row(**changes), schedule_row(Code="3")]
    records = reply_map(tmp_path, SCHEDULES, TABLE)
    mapped = records.read({"Rows": {"Row": rows}}, context())
    assert [record.id for record in mapped.records] == ["1", "3"]
    (problem,) = mapped.problems
    assert problem.path == f"verbs.fetch_schedules.reply.fields.{field}"
    assert (problem.profile, problem.source, problem.reason) == ("test", source, reason)
    assert problem.file == str(tmp_path / "test" / "profile.yaml")
    assert f"{field}:" in Path(problem.file).read_text().splitlines()[problem.line - 1]
    assert "SECRET" not in str(problem)
    with pytest.raises(MappingError) as caught:
        records.read_one({"Rows": {"Row": rows}}, context())
    assert caught.value.problem == problem
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("count", [0, 2])
def test_one_record_is_refused_when_there_are_none_or_several(tmp_path: Path, count: int) -> None:
    rows = {"Rows": {"Row": [schedule_row()] * count}}
    with pytest.raises(MappingError, match=f"{count} are there"):
        reply_map(tmp_path, SCHEDULES, TABLE).read_one(rows, context())


@pytest.mark.parametrize(
    ("field", "source", "expected"),
    [
        ("{from: A}", {"A": "x"}, "x"),
        ("{from: A}", {"A": ["", " ", "x"]}, "x"),
        ("{from: A}", {}, None),
        ("{from: A, default: none}", {"A": ""}, "none"),
        ("{from: A, default: 3}", {}, "3"),
        ("{from: A, parts: {split: ['^', '!'], at: [1, 0]}}", {"A": "a^b!c^d"}, "b"),
        ("{from: A, parts: {split: '^', at: 2}, default: short}", {"A": "a^b"}, "short"),
        ("{from: A, parts: {split: '||', at: 0}, via: strip_zeros}", {"A": "00100||7"}, "100"),
        ("{from: A, parts: {match: '^(?P<c>[A-Z]+)-', group: c}}", {"A": "ROOM-5"}, "ROOM"),
        ("{from: A, parts: {match: '^(?P<c>[A-Z]+)-', group: c}}", {"A": "5"}, None),
        ("{from: A, table: t}", {"A": "1"}, "one"),
        ("{from: A, table: t}", {"A": " 1 "}, "one"),
        ("{from: A, table: t, else: keep}", {"A": "2"}, "2"),
        ("{from: A, table: t, else: other}", {"A": "2"}, "other"),
        ("{from: A, table: t, else: null}", {"A": "2"}, None),
        ("{from: A, parts: {split: '-', at: 1}, table: t, via: text}", {"A": "x-1"}, "one"),
        ("{from: A, table: t, default: zero}", {}, "zero"),
        ("{join: {a: A, b: B, c: {value: z}}, via: {name: concat, arg: '-'}}", {"A": "x"}, "x-z"),
        ("{join: {a: A, c: {value: z}}, via: concat, default: d}", {}, "d"),
        ("{join: {a: {from: A, parts: {split: '^', at: 1}}, b: [B, C]}, via: concat}", {"A": "x^y", "C": "c"}, "yc"),
        ("{variant: K, cases: {NM: {from: N}, TX: null}, else: {from: O}}", {"K": "NM", "N": "1", "O": "2"}, "1"),
        ("{variant: K, cases: {NM: {from: N}, TX: null}, else: {from: O}}", {"K": "TX", "N": "1", "O": "2"}, None),
        ("{variant: K, cases: {NM: {from: N}}, else: {from: O}}", {"O": "2"}, "2"),
        ("{variant: K, cases: {NM: {from: N}}, default: d}", {"K": "XX"}, "d"),
        ("{value: fixed, ref: the manual}", {}, "fixed"),
        ("{value: 7}", {}, "7"),
    ],
)
def test_field_is_read_when_its_form_is(
    tmp_path: Path, field: str, source: dict[str, Any], expected: str | None
) -> None:
    assert department(tmp_path, field, "{t: {1: one}}", **source) == expected


def test_match_is_refused_when_the_text_is_long(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="longer than the 1000 characters"):
        department(tmp_path, "{from: A, parts: {match: '(?P<c>x)', group: c}}", A="x" * 1001)


BUNDLE = {
    "patients": [{"id": "p1", "name": "甲"}, {"id": "p2", "name": "乙", "sex": "2"}, {"id": "p2", "name": "丙"}],
    "events": [{"who": "p2"}, {"who": "p9"}, {}],
}


def test_reference_is_followed_when_the_reply_holds_it(tmp_path: Path) -> None:
    spec = """
    each: /events
    record: Department
    fields:
      id: {lookup: who, in: /patients, key: id, from: sex, via: sex_cn, default: unknown}
      name: {lookup: who, in: /patients, key: id, from: name, default: nobody}
    """
    mapped = reply_map(tmp_path, spec).read(BUNDLE, context())
    assert [(record.id, record.name) for record in mapped.records] == [
        ("female", "乙"),
        ("unknown", "nobody"),
        ("unknown", "nobody"),
    ]


def test_record_is_looked_up_when_an_event_refers_to_it(tmp_path: Path) -> None:
    spec = """
    each: /events
    when: {who: [p2]}
    record: PatientChanged
    fields:
      patient: {lookup: who, in: /patients, key: id, record: Patient, fields: {name: {from: name}, sex: {from: sex, via: sex_cn}}}
    """
    mapped = reply_map(tmp_path, spec).read(BUNDLE, context())
    assert mapped.records == (PatientChanged(patient=Patient(name="乙", sex=Sex.FEMALE)),)


BILL = """
record: Bill
fields:
  id: {from: No}
  amount_fen: {join: {amount: Sum/Value, currency: Sum/Unit}, via: money}
  currency: {join: {code: Sum/Unit}, via: currency}
  items:
    each: Items/Item
    when: {Kind: [CG, 1]}
    record: BillItem
    fields: {name: {from: Name}, amount_fen: {from: Amount, via: yuan_to_fen}}
"""


def test_nested_records_are_read_when_the_parent_has_a_list(tmp_path: Path) -> None:
    items = [
        {"Kind": "CG", "Name": "X", "Amount": "1.50"},
        {"Kind": "PY", "Name": "paid", "Amount": "9"},
        {"Kind": "1", "Name": "bad", "Amount": "SECRET"},
        {"Name": "no kind", "Amount": "9"},
    ]
    source = {"No": "b1", "Sum": {"Value": "100", "Unit": "USD"}, "Items": {"Item": items}}
    mapped = reply_map(tmp_path, BILL).read(source, context())
    assert mapped.records == (
        Bill(id="b1", amount_fen=10_000, currency="USD", items=(BillItem(name="X", amount_fen=150),)),
    )
    assert [problem.path for problem in mapped.problems] == [
        "verbs.fetch_schedules.reply.fields.items.fields.amount_fen"
    ]


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("7", None, (700, "CNY")),
        ("500", "JPY", (500, "JPY")),
        ("1.234", "KWD", (1234, "KWD")),
        ("0.1", "usd", (10, "USD")),
    ],
)
def test_money_has_its_own_minor_unit_when_a_currency_is_sent(
    tmp_path: Path, amount: str, currency: str | None, expected: tuple[int, str]
) -> None:
    source = {"No": "b1", "Sum": {"Value": amount, **({"Unit": currency} if currency else {})}}
    bill: Bill = reply_map(tmp_path, BILL).read_one(source, context())
    assert (bill.amount_fen, bill.currency) == expected


def test_each_within_each_is_read_when_groups_nest(tmp_path: Path) -> None:
    spec = """
    each: /orders
    record: Report
    fields:
      id: {from: id}
      kind: {value: lab}
      status: {from: status, table: t, else: entered_in_error, default: unknown}
      observations:
        each: obx
        record: Observation
        fields: {name: {from: name}, value: {variant: type, cases: {NM: {from: nm}}}}
    """
    source = {
        "orders": [
            {"id": "1", "obx": [{"name": "K", "type": "NM", "nm": "4.1"}]},
            {"id": "2", "status": "F", "obx": []},
        ]
    }
    mapped = reply_map(tmp_path, spec, "{t: {F: final}}").read(source, context())
    assert [record.observations for record in mapped.records] == [(Observation(name="K", value="4.1"),), ()]
    assert [str(record.status) for record in mapped.records] == ["unknown", "final"]


def test_single_nested_record_is_absent_when_its_condition_fails(tmp_path: Path) -> None:
    spec = """
    record: Patient
    when: {name: present}
    fields:
      name: {from: name}
      identifiers: {each: ids, record: Identifier, fields: {value: {from: v}, type: {from: t}}}
    """
    records = reply_map(tmp_path, spec)
    assert records.read({"nothing": "here"}, context()).records == ()
    expected = Patient(name="甲", identifiers=(Identifier(value="1", type="MR"),))
    assert records.read_one({"name": "甲", "ids": [{"v": "1", "t": "MR"}]}, context()) == expected


@pytest.mark.parametrize(
    ("when", "kept"),
    [
        ("{t: {not: [ED, RP]}}", ["1", "2"]),
        ("{t: {not: ED}}", ["1", "2", "4"]),
        ("{t: {not: present}}", ["2"]),
        ("{t: {not: [ED]}, v: present}", ["1", "2", "4"]),
    ],
)
def test_nodes_are_left_out_when_they_have_what_they_must_not(tmp_path: Path, when: str, kept: list[str]) -> None:
    spec = f"{{each: ids, record: Identifier, when: {when}, fields: {{value: {{from: v}}}}}}"
    rows = [{"v": "1", "t": "NM"}, {"v": "2"}, {"v": "3", "t": "ED"}, {"v": "4", "t": "RP"}]
    mapped = reply_map(tmp_path, spec).read({"ids": rows}, context())
    assert [record.value for record in mapped.records] == kept


@pytest.mark.parametrize("words", ["{not: []}", "{not: {not: x}}", "{nor: x}", "{not: x, other: y}"])
def test_condition_is_refused_when_it_is_none(tmp_path: Path, words: str) -> None:
    spec = f"{{each: ids, record: Identifier, when: {{t: {words}}}, fields: {{value: {{from: v}}}}}}"
    with pytest.raises(ProfileError, match="a list of values"):
        reply_map(tmp_path, spec)


def test_values_take_the_type_of_their_field_when_read(tmp_path: Path) -> None:
    spec = """
    record: Registration
    fields:
      status: {value: locked}
      starts_at: {join: {date: day, time: at}, via: date_and_time}
      ends_at: {from: end}
      fee_fen: {from: fee}
    """
    records = reply_map(tmp_path, spec)
    read = records.read_one(
        {"day": "2026-01-05", "at": "24:00", "end": "2026-01-06T00:30:00+08:00", "fee": "7"}, context()
    )
    assert read == Registration(
        status=RegistrationStatus.LOCKED,
        starts_at=dt.datetime(2026, 1, 6, tzinfo=SHANGHAI),
        ends_at=dt.datetime(2026, 1, 6, 0, 30, tzinfo=SHANGHAI),
        fee_fen=7,
    )
    with pytest.raises(MappingError, match="is not an instant with an offset"):
        records.read_one({"end": "2026-01-06T00:30:00"}, context())
    with pytest.raises(MappingError, match="not a whole number"):
        records.read_one({"fee": "7.0"}, context())


def test_path_is_refused_when_the_language_refuses_it(tmp_path: Path) -> None:
    profile = profile_of(
        tmp_path, "inbound:\n  X: [{record: Department, fields: {id: {from: a!}, name: {value: n}}}]\n"
    )
    with pytest.raises(ProfileError) as caught:
        compile_record_map(profile, "inbound.X[0]", profile.inbound["X"][0], DictPaths())
    assert (caught.value.line, caught.value.path) == (5, "inbound.X[0].fields.id.from")
    assert "exclamation mark" in caught.value.hint
