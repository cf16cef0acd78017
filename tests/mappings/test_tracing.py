"""Where values come from: the traced reading says the same as the one that connectors make, and where it has it from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mappings.engine import compile_record_map
from mappings.tracing import Traced, TracedField, trace_records
from mappings.yaml_source import ProfileError
from tests.mappings.dict_profiles import DictPaths, context, profile_of

PROFILE = """\
tables:
  session: {A: am, P: pm}
verbs:
  fetch_schedules:
    reply:
      each: plans
      when: {state: {not: [gone]}}
      record: Schedule
      fields:
        id: {from: no}
        date: {from: [day, date], via: date}
        session: {from: half, table: session}
        department_id: {value: D1}
        fee_fen: {variant: kind, cases: {free: {value: 0}}, else: {from: fee, via: fen}}
        practitioner_name: {lookup: doc, in: /doctors, key: no, from: name}
        his_refs: {keep: {room: room}}
  fetch_bills:
    reply:
      each: bills
      record: Bill
      fields:
        id: {from: no}
        amount_fen: {from: sum, via: fen}
        currency: {value: CNY}
        items: {each: rows, record: BillItem, fields: {name: {from: name}, amount_fen: {from: fen, via: fen}}}
"""
PLAN = {"no": "1", "date": "2026-01-05", "half": "A", "fee": "700", "doc": "7", "room": "2F"}
REPLY: dict[str, Any] = {"doctors": [{"no": "7", "name": "样例"}, {"no": "8", "name": "others"}]}


def traced(folder: Path, reply: dict[str, Any], verb: str = "fetch_schedules") -> Traced:
    profile = profile_of(folder, PROFILE)
    spec = profile.verbs[verb].reply
    assert spec is not None
    path = f"verbs.{verb}.reply"
    found = trace_records(profile, path, spec, DictPaths(), reply, context())
    whole = compile_record_map(profile, path, spec, DictPaths()).read(reply, context())
    plain = [one for one in found.records if not one.problems]
    assert [one.record(**{f.name: f.value for f in one.fields if f.value is not None}) for one in plain] == list(
        whole.records
    )
    return found


def field_of(found: Traced, name: str) -> TracedField:
    return next(one for one in found.records[0].fields if one.name == name)


def test_every_field_names_its_place_and_what_it_read(tmp_path: Path) -> None:
    found = traced(tmp_path, {"plans": [PLAN], **REPLY})
    (record,) = found.records
    assert record.node is PLAN
    day = field_of(found, "date")
    assert day.path == "verbs.fetch_schedules.reply.fields.date"
    assert [(read.path, read.nodes) for read in day.reads] == [("day", []), ("date", ["2026-01-05"])]
    assert (field_of(found, "department_id").value, field_of(found, "department_id").reads) == ("D1", [])
    assert [node for read in field_of(found, "practitioner_name").reads for node in read.nodes if node == "样例"] == [
        "样例"
    ]


def test_paths_that_were_not_needed_are_among_the_nodes(tmp_path: Path) -> None:
    found = traced(tmp_path, {"plans": [{**PLAN, "day": "20260105", "kind": "free"}], **REPLY})
    assert [read.path for read in field_of(found, "date").reads] == ["day"]
    assert field_of(found, "date").nodes == ["20260105", "2026-01-05"]
    assert field_of(found, "fee_fen").value == 0
    assert "700" in field_of(found, "fee_fen").nodes


def test_all_fields_are_told_when_several_fail(tmp_path: Path) -> None:
    found = traced(tmp_path, {"plans": [{**PLAN, "half": "Z", "date": "tomorrow", "no": ""}], **REPLY})
    (record,) = found.records
    assert [problem.path.rpartition(".")[2] for problem in record.problems] == ["id", "date", "session"]
    assert record.problems[0].reason == "is absent, and the record needs it"
    assert record.problems[0].source == "no"
    assert field_of(found, "fee_fen").value == 700


def test_reads_of_each_and_when_are_apart_from_those_of_fields(tmp_path: Path) -> None:
    found = traced(tmp_path, {"plans": [PLAN, {**PLAN, "state": "gone"}], **REPLY})
    assert len(found.records) == 1
    assert [read.path for read in found.reads] == ["plans", "state", "state"]


def test_records_inside_records_stand_at_their_field(tmp_path: Path) -> None:
    rows = [{"name": "a", "fen": "10"}, {"name": "b", "fen": "x"}]
    found = traced(tmp_path, {"bills": [{"no": "B1", "sum": "30", "rows": rows}]}, "fetch_bills")
    (bill,) = found.records
    items = next(one for one in bill.fields if one.name == "items")
    assert [one.record.__name__ for one in items.records] == ["BillItem", "BillItem"]
    assert [len(one.problems) for one in items.records] == [0, 1]
    assert bill.problems == []


def test_broken_map_is_refused_as_ever(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, PROFILE)
    spec = {"record": "Schedule", "fields": {"idd": {"from": "no"}}}
    with pytest.raises(ProfileError, match="did you mean `id`"):
        trace_records(profile, "verbs.fetch_schedules.reply", spec, DictPaths(), {}, context())
