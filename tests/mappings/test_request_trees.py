"""Writing: trees keep their order, absent leaves do what the profile says, and problems hold no value."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from connectors.port import Order
from mappings.canonical import Patient, Payment, Schedule, Session, Sex, Slot
from mappings.engine import MappingError, compile_request
from mappings.profile import ProfileError
from tests.mappings.dict_profiles import NOW, SHANGHAI, context, profile_of, request_tree

START = dt.datetime(2026, 1, 5, 8, 0, tzinfo=SHANGHAI)
ORDER = Order(
    order_no="00000000000000000001",
    schedule=Schedule(id="s1", date=dt.date(2026, 1, 5), session=Session.AM, department_id="100"),
    slot=Slot(
        id="t1",
        schedule_id="s1",
        date=dt.date(2026, 1, 5),
        session=Session.AM,
        starts_at=START,
        ends_at=START + dt.timedelta(minutes=30),
        seats_left=3,
        his_refs={"schedule_item": "100||7"},
    ),
    patient=Patient(name="测试甲", sex=Sex.FEMALE, mrn="42"),
    fee_fen=710,
    his_refs={"transaction_id": "T9"},
)
PAID = Payment(channel="wx", trade_no="W1", amount_fen=710, paid_at=START)


def written(folder: Path, request: str, tables: str = "{}", source: Any = ORDER, **changes: Any) -> Any:
    return request_tree(folder, request, tables).write(source, context(**changes))


def test_tree_keeps_its_order_when_written(tmp_path: Path) -> None:
    tree = written(
        tmp_path,
        """
        Request:
          TradeCode: "1101"
          Zeta: {from: his_refs.transaction_id}
          Alpha: {from: slot.his_refs.schedule_item}
          Copies: 1
          Flag: true
        """,
    )
    assert list(tree["Request"].items()) == [
        ("TradeCode", "1101"),
        ("Zeta", "T9"),
        ("Alpha", "100||7"),
        ("Copies", 1),
        ("Flag", True),
    ]


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        ("{from: fee_fen}", 710),
        ("{from: fee_fen, via: fen_to_yuan}", "7.10"),
        ("{from: fee_fen, via: fen_to_decimal}", Decimal("7.10")),
        ("{from: patient.sex}", "female"),
        ("{from: patient.sex, table: sex}", "2"),
        ("{from: schedule.date}", "2026-01-05"),
        ("{from: schedule.date, via: date_compact}", "20260105"),
        ("{from: schedule.date, table: sex, else: none}", "none"),
        ("{from: slot.starts_at}", "2026-01-05T08:00:00+08:00"),
        ("{from: slot.starts_at, via: time_hm}", "08:00"),
        ("{from: slot.starts_at, via: date_dash}", "2026-01-05"),
        ("{from: slot.starts_at, via: hl7_ts}", "20260105080000+0800"),
        ("{from: patient.mrn, via: {name: zero_pad, arg: 8}}", "00000042"),
        ("{from: patient.mrn, via: {name: reference, arg: Patient}}", "Patient/42"),
        ("{from: [patient.phone, patient.mrn]}", "42"),
        ("{from: hospital.id}", "h1"),
        ("{from: hospital.currency}", "CNY"),
        ("{from: connection.org.code}", "O1"),
        ("{from: now, via: datetime_dash}", "2026-01-05 07:00:00"),
        ("{from: new.uuid}", "u-1"),
        ("{from: page.cursor}", "next"),
        (
            "{join: {start: slot.starts_at, amount: {value: 30}, unit: {value: min}}, via: add_duration}",
            "2026-01-05T08:30:00+08:00",
        ),
        (
            "{join: {a: patient.mrn, b: patient.phone, c: {from: fee_fen, via: fen_to_yuan}}, via: {name: concat, arg: '^'}}",
            "42^7.10",
        ),
        ("{variant: patient.sex, cases: {female: {from: patient.mrn}}, else: x}", "42"),
        ("{variant: patient.sex, cases: {male: x}, else: {nested: [1]}}", {"nested": [1]}),
        ("{keep: {a: patient.mrn, b: patient.phone}}", {"a": "42"}),
        ("{from: patient.phone, default: none}", "none"),
        ("{from: patient.phone, absent: empty}", ""),
        ("{from: patient.phone, absent: clear}", '""'),
        ("{value: 3}", 3),
        ("{value: {from: patient.mrn}}", {"value": "42"}),
        ("{system: phone, value: x}", {"system": "phone", "value": "x"}),
        ("{from: {value: here}}", {"from": "here"}),
        ("{}", {}),
    ],
)
def test_leaf_is_written_when_its_form_is(tmp_path: Path, leaf: str, expected: Any) -> None:
    extra = {"new.uuid": "u-1", "page.cursor": "next"}
    connection = {"org": {"code": "O1"}}
    tree = written(tmp_path, f"Leaf: {leaf}", "{sex: {female: '2'}}", extra=extra, connection=connection)
    assert tree == {"Leaf": expected}
    assert type(tree["Leaf"]) is type(expected)


@pytest.mark.parametrize(
    "leaf",
    [
        "{from: patient.phone}",
        "{from: patient.phone, absent: unchanged}",
        "{from: payment.trade_no}",
        "{from: his_refs.nothing, via: text}",
        "{from: connection.nothing}",
        "{value: null}",
        "null",
        "{a: {b: {from: patient.phone}}}",
        "[{from: patient.phone}]",
        "{each: payment, tree: {a: {from: item.trade_no}}}",
        "{tree: {a: 1}, when: {patient.phone: present}}",
        "{variant: patient.phone, cases: {x: 1}}",
        "{join: {a: patient.phone, b: {value: x}}, via: concat}",
    ],
)
def test_leaf_is_left_out_when_absent(tmp_path: Path, leaf: str) -> None:
    assert written(tmp_path, f"Here: 1\nLeaf: {leaf}") == {"Here": 1}


@pytest.mark.parametrize(
    ("request_", "expected"), [("{a: {from: patient.phone}}", {}), ("[{from: patient.phone}]", [])]
)
def test_root_is_written_when_nothing_is_present(tmp_path: Path, request_: str, expected: Any) -> None:
    assert written(tmp_path, request_) == expected


def test_sub_tree_is_repeated_when_the_request_has_a_list(tmp_path: Path) -> None:
    lines = [{"name": "a", "fen": 150}, {"name": "b"}, {"name": "skip", "fen": 1}]
    tree = """
    - {MSH-9: DFT}
    - each: lines
      when: {item.name: [a, b]}
      tree: {FT1-1: {from: item_no}, FT1-7: {from: item.name}, FT1-11: {from: item.fen, via: fen_to_yuan}, ZZ: {from: order}}
    """
    assert written(tmp_path, tree, source={"lines": lines, "order": "o1"}) == [
        {"MSH-9": "DFT"},
        {"FT1-1": 1, "FT1-7": "a", "FT1-11": "1.50", "ZZ": "o1"},
        {"FT1-1": 2, "FT1-7": "b", "ZZ": "o1"},
    ]


def test_sub_tree_is_written_once_when_the_item_is_single(tmp_path: Path) -> None:
    order = Order(
        order_no="1", schedule=ORDER.schedule, slot=ORDER.slot, patient=ORDER.patient, fee_fen=710, payment=PAID
    )
    request = """
    Details: {each: payment, tree: {No: {from: item_no}, Trade: {from: item.trade_no}}}
    Paid: {tree: {Sum: {from: payment.amount_fen, via: fen_to_yuan}}, when: {payment.channel: wx}}
    """
    assert written(tmp_path, request, source=order) == {"Details": [{"No": 1, "Trade": "W1"}], "Paid": {"Sum": "7.10"}}


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        ("{from: patient.nmae}", "Patient has no field nmae"),
        ("{from: patient.name.first}", "asked of a plain value"),
        ("{from: patient}", "not a single value"),
        ("{from: patient.name, table: sex}", "table sex does not have"),
        ("{from: patient.name, via: date_dash}", "not a date"),
        ("{from: patient.name, via: fen_to_yuan}", "whole number of fen"),
        ("{from: new.control_id}", "connector makes"),
        ("{tree: {a: 1}, when: {patient.nmae: present}}", "Patient has no field nmae"),
        ("{variant: patient, cases: {a: 1}}", "not a single value"),
    ],
)
def test_problem_holds_no_value_when_a_leaf_cannot_be_written(tmp_path: Path, leaf: str, reason: str) -> None:
    with pytest.raises(MappingError) as caught:
        written(tmp_path, f"Leaf: {leaf}", "{sex: {female: '2'}}")
    assert reason in caught.value.problem.reason
    assert caught.value.problem.path.startswith("verbs.register.request.Leaf")
    assert caught.value.problem.line > 0
    assert "测试甲" not in str(caught.value)


@pytest.mark.parametrize(
    ("leaf", "path", "hint"),
    [
        ("{from: order_no, vai: text}", "Leaf.vai", "via"),
        ("{from: order_no, value: 1}", "Leaf", "only one of"),
        ("{from: 'a b'}", "Leaf.from", "name is expected"),
        ("{from: []}", "Leaf.from", "at least one"),
        ("{from: hospital.name}", "Leaf.from", "id, currency"),
        ("{from: order_no, absent: nil}", "Leaf.absent", "omit"),
        ("{from: order_no, default: [1]}", "Leaf.default", "plain value"),
        ("{join: {a: order_no}}", "Leaf.via", "via: NAME"),
        ("{join: [], via: concat}", "Leaf.join", "mapping"),
        ("{each: order_no, tree: {}, wen: 1}", "Leaf.wen", "when"),
        ("{variant: order_no}", "Leaf.cases", "cases"),
        ("{keep: []}", "Leaf.keep", "mapping"),
    ],
)
def test_error_names_the_place_when_a_tree_is_wrong(tmp_path: Path, leaf: str, path: str, hint: str) -> None:
    with pytest.raises(ProfileError) as caught:
        written(tmp_path, f"Leaf: {leaf}")
    assert caught.value.path == f"verbs.register.request.{path}"
    assert caught.value.line == 8
    assert hint in caught.value.hint


def test_names_are_checked_at_once_when_the_request_type_is_known(tmp_path: Path) -> None:
    text = "verbs:\n  register:\n    request: {a: {from: slot.his_refs.x}, b: {from: patient.nmae}}\n"
    profile = profile_of(tmp_path, text)
    with pytest.raises(ProfileError, match="Patient has no field nmae"):
        compile_request(profile, "verbs.register.request", profile.verbs["register"].request, Order)


def test_now_is_the_hospitals_when_read(tmp_path: Path) -> None:
    assert written(tmp_path, "{a: {from: now}}", now=NOW.astimezone(dt.UTC)) == {"a": "2026-01-05T07:00:00+08:00"}
