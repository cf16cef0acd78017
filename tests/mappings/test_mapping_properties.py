"""Whatever is written into a profile or sent by a HIS: an answer or an error of ours, never a crash, never a value told."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mappings.engine import MappingError, compile_record_map, compile_request
from mappings.joins import JOINS
from mappings.profile import ProfileError, load_profile
from mappings.schema import build_profile
from mappings.transforms import TRANSFORMS
from mappings.values import RECORDS
from tests.mappings.dict_profiles import DictPaths, context

VOCABULARY = """from value join keep variant lookup record each fields when parts table else via default absent ref cases
in key split at match group name arg tree present id date session Schedule Report observations his_refs order_no patient
t codes text fail omit ^ (?P<a>x)"""
WORDS = st.sampled_from([*re.split(r"\s+", VOCABULARY), *sorted(TRANSFORMS), *sorted(JOINS)])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 99), st.floats(allow_nan=False), WORDS, st.text(max_size=8)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["from", "value", "via", "table", "parts", "default", "join", "variant", "cases", "else", "keep", "record"]
    ),
    ANYTHING,
    min_size=1,
    max_size=3,
)
PROFILE = build_profile({"name": "p", "version": 1, "protocol": "soap", "tables": {"t": {"a": 1}}}, {}, "p.yaml")


PATHS = st.sampled_from(["a", "b", "/a", "/list", "list/a", "."])
ARGS = {
    "unlimited": {"values": ["-1"], "take": 9},
    "reference": "Patient",
    "zero_pad": 5,
    "session_of": {"am": "06:00"},
}
VIAS = st.sampled_from(sorted(TRANSFORMS)).map(lambda name: {"name": name, "arg": ARGS.get(name)})
PARTS = st.sampled_from(
    [{"split": "-", "at": 1}, {"split": ["a", "1"], "at": [0, 1]}, {"match": "(?P<x>[a-z])", "group": "x"}]
)
TABLE = st.fixed_dictionaries({"from": PATHS, "table": st.just("t")}, optional={"else": SCALARS, "via": VIAS})
JOINED = st.sampled_from(sorted(JOINS)).flatmap(
    lambda name: st.fixed_dictionaries(
        {"join": st.fixed_dictionaries(dict.fromkeys(JOINS[name].sources or ("x", "y"), PATHS)), "via": st.just(name)}
    )
)
PLAIN = st.fixed_dictionaries({"from": PATHS | st.lists(PATHS, min_size=1)}, optional={"parts": PARTS, "via": VIAS})
LEAVES = PLAIN | TABLE | JOINED
SOUND = LEAVES | st.builds(
    lambda key, leaf, other: {"variant": key, "cases": {"a": leaf, "1": None}, "else": other}, PATHS, LEAVES, LEAVES
)
SOUND |= st.builds(lambda at, key, leaf: {"lookup": at, "in": "/list", "key": key} | leaf, PATHS, PATHS, LEAVES)
SENT = st.sampled_from(
    ["", " ", "a", "1", "0", "a-1", "2026-01-05", "20260105080000", "7.005", "USD", "s", "M30", "张"]
)
SOURCES = st.fixed_dictionaries(
    {},
    optional={"a": SENT, "b": SENT, "list": st.lists(st.dictionaries(st.sampled_from(["a", "b"]), SENT), max_size=3)},
)


@st.composite
def record_maps(draw: st.DrawFn, fields: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Maps that name a real record, its required fields and some others, with `fields` in them."""
    record = draw(
        st.sampled_from(["Department", "Practitioner", "Settlement", "Schedule", "Slot", "BillItem", "StatementLine"])
    )
    given_ = [
        field.name
        for field in msgspec.structs.fields(RECORDS[record])
        if field.name != "his_refs" and (field.required or draw(st.booleans()))
    ]
    spec: dict[str, Any] = {"record": record, "fields": {name: draw(fields) for name in given_}}
    return spec | draw(st.sampled_from([{}, {"each": "/list"}, {"when": {"a": "present"}}, {"when": {"b": ["a", 1]}}]))


@settings(max_examples=200, deadline=None)
@given(spec=record_maps(SOUND), source=SOURCES)
def test_reply_is_mapped_or_reported_when_it_is_anything(spec: dict[str, Any], source: dict[str, Any]) -> None:
    try:
        mapped = compile_record_map(PROFILE, "verbs.book.reply", spec, DictPaths()).read(source, context())
    except ProfileError:
        reject()  # a table whose words the field does not take
    nodes = source.get("list", []) if "each" in spec else [source]
    assert len(mapped.records) + len(mapped.problems) <= len(nodes)
    if "when" not in spec:
        assert len(mapped.records) + len(mapped.problems) == len(nodes)


@settings(max_examples=200, deadline=None)
@given(spec=ANYTHING | record_maps(FIELDS), source=ANYTHING)
def test_record_map_compiles_or_is_refused_when_it_is_anything(spec: Any, source: Any) -> None:
    try:
        records = compile_record_map(PROFILE, "verbs.book.reply", spec, DictPaths())
    except ProfileError:
        return
    records.read(source, context())


@settings(max_examples=200, deadline=None)
@given(spec=ANYTHING, source=st.dictionaries(WORDS, ANYTHING, max_size=3))
def test_request_compiles_or_is_refused_when_it_is_anything(spec: Any, source: dict[str, Any]) -> None:
    try:
        tree = compile_request(PROFILE, "verbs.book.request", spec)
    except ProfileError:
        return
    try:
        tree.write(source, context())
    except MappingError:
        return


def load(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "p"
        place.mkdir()
        (place / "profile.yaml").write_bytes(text)
        try:
            load_profile("p", profiles_dir=Path(folder))
        except ProfileError:
            return


YAML_PIECES = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            ": ",
            ", ",
            "\n",
            "  ",
            "- ",
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "|",
            ">",
            '"',
            "'",
            "?",
            "%",
            "\\U",
        ]
    )
    | WORDS,
    max_size=25,
).map(lambda pieces: "".join(pieces).encode())


@settings(deadline=None)
@given(YAML_PIECES | st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_profile_loads_or_is_refused_when_the_file_is_anything(text: bytes) -> None:
    load(text)
    load(b"name: p\nversion: 1\nprotocol: soap\nconnection:\n  " + text)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["tables", "connection", "verbs", "inbound", "extends", "ref"]), ANYTHING, max_size=4
    )
)
def test_profile_loads_or_is_refused_when_its_sections_are_anything(sections: dict[str, Any]) -> None:
    load(msgspec.json.encode({"name": "p", "version": 1, "protocol": "soap"} | sections))


SECRETS = st.text("ABCXYZ0123456789-:", min_size=12, max_size=20)


@settings(deadline=None)
@given(
    values=st.lists(SECRETS, min_size=3, max_size=3),
    field=st.sampled_from(
        [
            {"from": "a", "via": "yuan_to_fen"},
            {"from": "a", "table": "t"},
            {"join": {"amount": "a", "currency": "b"}, "via": "money"},
            {"from": ["a", "b"]},
            {"from": "a", "parts": {"split": "-", "at": 1}},
            {"variant": "b", "cases": {"x": {"value": 1}}, "else": {"from": "c", "via": "int"}},
        ]
    ),
)
def test_problem_tells_no_value_when_a_record_fails(values: list[str], field: dict[str, Any]) -> None:
    spec = {"record": "BillItem", "fields": {"name": {"value": "n"}, "amount_fen": field}}
    records = compile_record_map(PROFILE, "verbs.fetch_bills.reply", spec, DictPaths())
    mapped = records.read(dict(zip("abc", values, strict=True)), context())
    told = msgspec.json.encode(mapped.problems).decode() + "".join(str(problem) for problem in mapped.problems)
    assert not any(value in told for value in values)
