"""Loading profiles: bounds, places of errors, extends, and the checks before the first message."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.port import Verb
from mappings.profile import SHIPPED, ProfileError, load_profile
from mappings.schema import VERBS
from tests.mappings.dict_profiles import profile_of, write_profile

SCHEDULE = """
verbs:
  fetch_schedules:
    capability: native
    reply:
      record: Schedule
      fields:
        id: {from: Code}
        date: {from: Day, via: date}
        session: {value: am}
        department_id: {from: Dep}
"""


def failure(folder: Path, text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        profile_of(folder, text)
    return caught.value


def test_verbs_are_those_of_the_port() -> None:
    assert {verb.value for verb in Verb} == VERBS


def test_profile_is_read_when_it_is_well_formed(tmp_path: Path) -> None:
    profile = profile_of(
        tmp_path,
        """
        connection: {url: "http://his", warm: 12:30}
        tables: {sex: {0: female, 1: male, N: no}, codes: {0000: ok}}
        verbs:
          ping: {capability: off}
          book: {capability: native, query_back: key, key: natural, timeout_s: 3, codes: codes, call: {op: B}}
        """,
    )
    assert profile.tables == {"sex": {"0": "female", "1": "male", "N": "no"}, "codes": {"0000": "ok"}}
    assert profile.connection == {"url": "http://his", "warm": "12:30"}
    assert profile.verbs["ping"].capability == "off"
    book = profile.verbs["book"]
    assert (book.query_back, book.key, book.timeout_s, book.codes, book.call) == (
        "key",
        "natural",
        3.0,
        "codes",
        {"op": "B"},
    )


@pytest.mark.parametrize(
    ("text", "line", "path", "hint"),
    [
        ("verbs:\n  fetch_shedules: {}\n", 5, "verbs.fetch_shedules", "fetch_schedules"),
        ("verbs:\n  book:\n    key: ours\n", 6, "verbs.book.key", "client, natural, none"),
        ("verbs:\n  book:\n    timeout_s: 0\n", 6, "verbs.book.timeout_s", "above 0"),
        ("verbs:\n  book:\n    codes: c\n", 6, "verbs.book.codes", "name of a table"),
        ("verbs:\n  book:\n    requst: {}\n", 6, "verbs.book.requst", "request"),
        ("tables:\n  t: {a: [1]}\n", 5, "tables.t.a", "one plain value"),
        ("inbound:\n  X: {}\n", 5, "inbound.X", "record maps are expected"),
        ("tabels: {}\n", 4, "tabels", "tables"),
        ("tables:\n  t: {a: 1, a: 2}\n", 5, "tables.t.a", "twice"),
        ("connection: !!python/object:os.system {}\n", 4, "", "tags"),
        ("connection: {a: &a [*a]}\n", 4, "connection.a[0]", "itself"),
        ("connection: {a: &a {<<: *a}}\n", 4, "connection.a", "<<"),
        ("connection: [1\n", 5, "", "not valid YAML"),
        ("connection: {<<: 1}\n", 4, "connection", "<<"),
        ("connection: {? [1] : 2}\n", 4, "connection", "key"),
    ],
)
def test_error_names_file_line_and_path_when_the_frame_is_wrong(
    tmp_path: Path, text: str, line: int, path: str, hint: str
) -> None:
    error = failure(tmp_path, text)
    assert error.file == str(tmp_path / "test" / "profile.yaml")
    assert (error.line, error.path) == (line, path)
    assert hint in error.hint
    assert str(error).startswith(f"{error.file}:{line}: ")


@pytest.mark.parametrize(
    ("old", "new", "path", "hint"),
    [
        ("record: Schedule", "record: Shedule", "record", "Schedule"),
        ("id: {from: Code}", "idd: {from: Code}", "fields.idd", "`id`"),
        ("id: {from: Code}", "id: {frm: Code}", "fields.id", "one of from"),
        ("id: {from: Code}", "id: {from: Code, value: 1}", "fields.id", "only one of"),
        ("id: {from: Code}", "id: {from: Code, vai: text}", "fields.id.vai", "via"),
        ("id: {from: Code}", "id: {from: []}", "fields.id.from", "at least one path"),
        ("id: {from: Code}", "id: Code", "fields.id", "a mapping"),
        ("id: {from: Code}", "id: null", "fields", "needs the field `id`"),
        ("via: date}", "via: dat}", "fields.date.via", "date"),
        ("via: date}", "via: {name: date, arg: 3}}", "fields.date.via", "takes no arg"),
        ("via: date}", "via: {name: zero_pad}}", "fields.date.via", "needs arg"),
        ("via: date}", "via: date_and_time}", "fields.date.via", "is a join"),
        ("via: date}", "table: days}", "fields.date.table", "no table days"),
        ("via: date}", "else: keep}", "fields.date.else", "belongs to a table"),
        ("via: date}", "parts: {split: '^', at: -1}}", "fields.date.parts.at", "position from 0"),
        ("via: date}", "parts: {split: ['^', '&'], at: [0]}}", "fields.date.parts", "as many"),
        ("via: date}", "parts: {match: '(?P<a>(x+)+)', group: a}}", "fields.date.parts.match", "repetition"),
        ("via: date}", "parts: {match: '(', group: a}}", "fields.date.parts.match", "regular expression"),
        ("via: date}", "parts: {match: 'a', group: a}}", "fields.date.parts.group", "group"),
        ("from: Day, via: date", "join: {day: Day}, via: date_and_time", "fields.date.join.day", "date"),
        ("from: Day, via: date", "join: {date: Day}, via: date_and_time", "fields.date.join", "time"),
        ("value: am", "value: noon", "fields.session.value", "none of am"),
        ("value: am", "from: S, default: noon", "fields.session.default", "none of am"),
        ("value: am", "variant: X, cases: []", "fields.session.cases", "cases"),
        ("value: am", "keep: {a: b}", "fields.session", "keep"),
        ("value: am", "record: Bill, fields: {}", "fields.session.record", "plain value"),
    ],
)
def test_error_names_the_place_when_a_record_map_is_wrong(
    tmp_path: Path, old: str, new: str, path: str, hint: str
) -> None:
    assert old in SCHEDULE
    text = SCHEDULE.replace(old, new, 1)
    error = failure(tmp_path, text)
    assert error.path == f"verbs.fetch_schedules.reply.{path}"
    assert hint in error.hint
    wanted = next(
        number
        for number, line in enumerate(text.splitlines(), 4)
        if new in line or (path == "fields" and "fields:" in line)
    )
    assert error.line == wanted


def test_error_names_the_word_when_a_table_gives_what_the_field_does_not_take(tmp_path: Path) -> None:
    assert "value: am" in SCHEDULE
    text = "tables: {days: {S: am, X: noon}}\n" + SCHEDULE.replace("value: am", "from: S, table: days", 1)
    error = failure(tmp_path, text)
    assert error.path == "tables.days.X"
    assert "'noon'" in error.hint
    assert "fields.session" in error.hint


def test_bomb_is_refused_when_aliases_multiply(tmp_path: Path) -> None:
    lists = "\n".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 20))
    assert "aliases" in failure(tmp_path, f"connection:\n  l0: &l0 [x]\n{lists}\n").hint


def test_bomb_is_refused_when_merges_multiply(tmp_path: Path) -> None:
    merges = "\n".join(f"  m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 20))
    assert "aliases" in failure(tmp_path, f"connection:\n  m0: &m0 {{}}\n{merges}\n").hint


def test_bomb_is_refused_when_nesting_is_deep(tmp_path: Path) -> None:
    assert "40 levels" in failure(tmp_path, "connection: " + "[" * 100_000).hint


def test_file_is_refused_when_it_is_too_large_or_not_utf8(tmp_path: Path) -> None:
    write_profile(tmp_path, "# " + "x" * 1_000_000)
    with pytest.raises(ProfileError, match="larger than"):
        load_profile("test", profiles_dir=tmp_path)
    (tmp_path / "test" / "profile.yaml").write_bytes("name: test\nref: 东华".encode("gbk"))
    with pytest.raises(ProfileError, match="not UTF-8") as caught:
        load_profile("test", profiles_dir=tmp_path)
    assert caught.value.line == 2


def test_merge_key_gives_way_when_the_mapping_has_its_own(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, "connection:\n  a: &a {x: 1, y: 2}\n  b: {<<: *a, y: 3}\n")
    assert profile.connection["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("spec", ["../test", "Test", "", "te st", "@1"])
def test_name_is_refused_when_it_is_not_a_plain_word(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ProfileError, match="is named by"):
        load_profile(spec, profiles_dir=tmp_path)


def test_profile_is_refused_when_missing_or_of_another_version_or_name(tmp_path: Path) -> None:
    write_profile(tmp_path, "")
    with pytest.raises(ProfileError, match="no profile absent"):
        load_profile("absent", profiles_dir=tmp_path)
    with pytest.raises(ProfileError, match="version 2 was asked for"):
        load_profile("test@2", profiles_dir=tmp_path)
    write_profile(tmp_path, "name: test\nversion: 1\nprotocol: soap\n", "other", head=False)
    with pytest.raises(ProfileError, match="the folder is called other"):
        load_profile("other", profiles_dir=tmp_path)


def test_child_overrides_key_by_key_when_it_extends(tmp_path: Path) -> None:
    write_profile(tmp_path, SCHEDULE + "tables: {t: {a: 1, b: 2}}\nconnection: {x: 1, list: [1, 2]}\n", "parent")
    profile = profile_of(
        tmp_path,
        """
        extends: parent@1
        tables: {t: {b: null, c: 3}}
        connection: {list: [9]}
        verbs:
          fetch_schedules:
            timeout_s: 4
            reply:
              each: Row
              fields: {id: {value: fixed}, date: {from: Datum}, practitioner_id: {from: Doc}}
        """,
    )
    assert profile.tables == {"t": {"a": 1, "c": 3}}
    assert profile.connection == {"x": 1, "list": [9]}
    spec = profile.verbs["fetch_schedules"]
    assert (spec.capability, spec.timeout_s) == ("native", 4.0)
    assert spec.reply is not None
    assert spec.reply["each"] == "Row"
    assert spec.reply["fields"] == {
        "id": {"value": "fixed"},
        "date": {"from": "Datum", "via": "date"},
        "session": {"value": "am"},
        "department_id": {"from": "Dep"},
        "practitioner_id": {"from": "Doc"},
    }


def test_error_names_the_file_that_wrote_the_line_when_profiles_extend(tmp_path: Path) -> None:
    write_profile(tmp_path, SCHEDULE, "parent")
    error = failure(tmp_path, "extends: parent\nverbs: {fetch_schedules: {reply: {fields: {date: {via: nope}}}}}\n")
    assert (Path(error.file).parent.name, error.line) == ("test", 5)
    error = failure(tmp_path, "extends: parent\nverbs: {fetch_schedules: {reply: {fields: {id: null}}}}\n")
    assert "needs the field `id`" in error.hint


def test_circle_is_refused_when_profiles_extend_each_other(tmp_path: Path) -> None:
    write_profile(tmp_path, "extends: test\n", "parent")
    error = failure(tmp_path, "extends: parent\n")
    assert "extends itself" in error.hint
    assert (Path(error.file).parent.name, error.path) == ("parent", "extends")


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in SHIPPED.glob("*/profile.yaml")), ids=lambda path: path.name
)
def test_shipped_profile_loads(folder: Path) -> None:
    assert load_profile(folder.name).name == folder.name


def test_site_profile_extends_the_shipped_one_when_it_has_its_name(tmp_path: Path) -> None:
    shipped = sorted(path.parent.name for path in SHIPPED.glob("*/profile.yaml"))
    assert shipped, "no profile is shipped"
    write_profile(tmp_path, f"name: {shipped[0]}\nversion: 99\nextends: {shipped[0]}\n", shipped[0], head=False)
    profile = load_profile(shipped[0], profiles_dir=tmp_path)
    assert profile.version == 99
    assert profile.verbs.keys() == load_profile(shipped[0]).verbs.keys()
