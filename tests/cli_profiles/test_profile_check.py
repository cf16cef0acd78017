"""`hisbridge profile check`: what a profile sends, what it lacks, and where it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from mappings.profile import SHIPPED
from tests.cli_profiles.running import Said, profile

OWN = """\
name: ours
version: 1
protocol: soap
connection:
  namespace: urn:his
  operation: Call
  arguments: {trade: {from: trade}, text: {from: document}}
  reply_root: Reply
  success: [{path: /Reply/Code, values: ["0"]}]
  error_code: [/Reply/Code]
  desk: D7
  password: hunter2
tables:
  codes: {"8": full}
  session: {A: am, P: pm}
verbs:
  fetch_departments:
    capability: native
    codes: codes
    call: {trade: "101"}
    request: {Ask: {Desk: {from: connection.desk}, Pass: {from: connection.password}}}
    reply:
      each: /Reply/Dept
      record: Department
      fields: {id: {from: No}, name: {from: Name}}
  fetch_schedules:
    capability: native
    call: {trade: "102"}
    request: {Ask: {From: {from: date_from, via: date_compact}}}
    reply:
      each: /Reply/Plan
      record: Schedule
      fields:
        id: {from: No}
        date: {from: Day, via: date}
        session: {from: Half, table: session}
        department_id: {from: Dept}
  book:
    capability: native
    key: client
    query_back: key
    call: {trade: "201"}
    request: {Ask: {Key: {from: order_no}, Person: {from: patient.mrn}, Ref: {from: slot.his_refs.ref}}}
"""


def checked(tmp_path: Path, text: str, *words: str) -> Said:
    file = tmp_path / "ours" / "profile.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")
    return profile("check", "ours", "--profiles-dir", tmp_path, "--config", tmp_path / "none.toml", *words)


@pytest.mark.parametrize("name", sorted(file.parent.name for file in SHIPPED.glob("*/profile.yaml")))
def test_shipped_profile_has_no_errors(tmp_path: Path, name: str) -> None:
    said = profile("check", name, "--profiles-dir", tmp_path, "--config", tmp_path / "none.toml", "--requests")
    assert said.code == 0, said.out
    assert "error" not in said.out.replace("entered_in_error", "").replace("No errors.", "")


def test_every_call_is_shown_as_it_would_be_sent(tmp_path: Path) -> None:
    said = checked(tmp_path, OWN)
    assert said.code == 0, said.out + said.err
    assert 'SOAPAction: "urn:his/Call"' in said.out
    sent = [line for line in said.out.splitlines() if "<trade>" in line]
    assert len(sent) == 3
    assert "<trade>101</trade><text>&lt;Ask&gt;&lt;Desk&gt;D7&lt;/Desk&gt;" in sent[0]
    assert "&lt;Ref&gt;REF&lt;/Ref&gt;" in sent[2]


def test_password_among_the_settings_is_hidden(tmp_path: Path) -> None:
    said = checked(tmp_path, OWN)
    assert "hunter2" not in said.out
    assert "&lt;Pass&gt;***&lt;/Pass&gt;" in said.out


def test_verbs_are_told_by_what_the_profile_says_of_them(tmp_path: Path) -> None:
    said = checked(tmp_path, OWN, "--no-requests")
    assert "\nnative: fetch_departments, fetch_schedules, book\npushed: -\noff:    ping, " in said.out


def test_what_no_map_fills_is_told_and_is_no_error(tmp_path: Path) -> None:
    said = checked(tmp_path, OWN, "--no-requests")
    assert said.code == 0
    assert said.line("fetch_departments, Department:").strip() == "fetch_departments, Department: parent_id, campus"


def test_write_that_cannot_be_looked_up_is_told(tmp_path: Path) -> None:
    said = checked(tmp_path, OWN, "--no-requests")
    line = OWN.splitlines().index("    query_back: key") + 1
    told = said.line("verbs.book.query_back").strip()
    assert told.startswith(f"{tmp_path / 'ours' / 'profile.yaml'}:{line}: verbs.book.query_back: query_back: key, and ")
    assert "fetch_registration is off" in told


def test_what_nothing_reads_is_told_with_its_line(tmp_path: Path) -> None:
    text = OWN.replace(DESK, DESK + "  replyroot: R\n").replace("tables:\n", "tables:\n  sex: {M: male}\n")
    said = checked(tmp_path, text, "--no-requests")
    assert said.code == 0
    file = tmp_path / "ours" / "profile.yaml"
    assert f"{file}:12: connection.replyroot: nothing reads this" in said.out
    assert f"{file}:15: tables.sex: nothing reads this table" in said.out


def test_listener_that_takes_what_was_overheard_is_told(tmp_path: Path) -> None:
    open_ = "name: ours\nversion: 1\nprotocol: soap\nextends: jkt12320@1\nconnection: {server: {fresh: null}}\n"
    said = checked(tmp_path, open_, "--no-requests")
    assert said.code == 0, said.out
    assert "connection.server: no `fresh`" in said.line("overheard")
    assert "overheard" not in checked(tmp_path, open_.replace("{fresh: null}", "{}"), "--no-requests").out


@pytest.mark.parametrize(
    ("leaf", "hint"),
    [
        ("{from: connection.dessk, absent: omit}", "did you mean `connection.desk`?"),
        ("{from: [connection.site_no, connection.desk]}", "in `connection`, or in the settings of a site"),
    ],
)
def test_setting_that_is_set_nowhere_is_told_with_its_line(tmp_path: Path, leaf: str, hint: str) -> None:
    text = OWN.replace("Desk: {from: connection.desk}", f"Desk: {leaf}")
    said = checked(tmp_path, text, "--no-requests")
    assert said.code == 0
    line = next(number for number, one in enumerate(text.splitlines(), 1) if leaf in one)
    told = said.line("is set nowhere").strip()
    assert told.startswith(
        f"{tmp_path / 'ours' / 'profile.yaml'}:{line}: verbs.fetch_departments.request.Ask.Desk.from"
    )
    assert told.endswith(hint)
    assert "is set nowhere" not in checked(tmp_path, OWN).out


DESK = "  desk: D7\n"
SUCCESS = '  success: [{path: /Reply/Code, values: ["0"]}]\n'
# what is changed, into what, a text of the line that must be named, the YAML path, the hint
BROKEN = {
    "unknown key": ("    codes: codes\n", "    code: codes\n", " code: codes",
        "fetch_departments.code", "did you mean `codes`?"),
    "unknown table": ("table: session}", "table: sessions}", "table: sessions", "session.table", "did you mean `session`?"),
    "unknown transform": ("via: date}", "via: dat}", "via: dat}", "date.via", "no transform dat: did you mean `date`?"),
    "unknown field": ("name: {from: Name}", "nam: {from: Name}", "nam: {", "fields.nam", "did you mean `name`?"),
    "missing field": ("        department_id: {from: Dept}\n", "", "record: Schedule", "reply.fields", "needs the field"),
    "unknown verb": ("fetch_schedules:", "fetch_schedule:", "fetch_schedule:", "verbs.fetch_schedule", "did you mean"),
    "bad path": ("from: No}, name", "from: 'No['}, name", "from: 'No['", "fields.id.from", "not a path of soap"),
    "no word of the field": ("P: pm}", "P: afternoon}", "P: afternoon",
        "tables.session.P", "is none of am, pm, night, all_day"),
    "no rejection code": ('{"8": full}', '{"8": fulll}', "fulll", "tables.codes.8", "fulll is not a rejection code"),
    "no field of a request": ("patient.mrn", "patient.mnr", "patient.mnr", "Ask.Person", "Patient has no field mnr"),
    "twice": (DESK, DESK + "  desk: D8\n", "desk: D8", "connection.desk", "this key appears twice"),
    "no success rule": (SUCCESS, "", "connection:", "connection.success", "how success is told"),
    "bad success rule": ('values: ["0"]', 'values: "0"', "success:", "connection.success[0]", "a success rule is {path: XPATH"),
    "bad argument": ("{from: document}", "{form: document}", "form: document", "connection.arguments.text", "one text"),
    "no list": ("error_code: [/Reply/Code]", "error_code: /Reply/Code", "error_code",
        "connection.error_code", "error_code: [/Reply/Code]"),
    "no list of success": (SUCCESS, "  success: {path: /Reply/Code, values: [0]}\n", "success:",
        "connection.success", "success: a list"),
    "no list of texts": (DESK, DESK + "  error_texts: {full: 已满}\n", "full: 已满",
        "connection.error_texts.full", "[已满]"),
    "retryable": (DESK, DESK + "  retryable: [bsy]\n", "bsy", "connection.retryable[0]", "bsy is not a rejection code"),
    "no encoding": (DESK, DESK + "  encoding: gb-2312\n", "gb-2312", "connection.encoding", "no encoding gb-2312"),
    "no text codec": (DESK, DESK + "  encoding: base64\n", "base64", "connection.encoding", "no encoding base64"),
    "root is a path": ("reply_root: Reply", "reply_root: /Reply", "reply_root",
        "connection.reply_root", "the name of an element"),
    "soap action": (DESK, DESK + "  soap_action: '{op}'\n", "soap_action",
        "connection.soap_action", "{namespace} and {operation}"),
    "truth": (DESK, DESK + "  cdata: yes\n", "cdata: yes", "connection.cdata", "Expected true or false"),
    "missing part": (DESK, DESK + "  layers: [{cdata: [A]}]\n", "layers", "connection.layers[0]", "it needs `tree`"),
    "full-width colon": (DESK, "  desk：D7\n", "desk：", "", "the line has a full-width ："),
    "full-width colon in a list of keys": ("fields: {id: {from: No}, name", "fields: {id： x, name",
                                           "id：", "fields.id：", "full-width one"),
    "full-width colon in braces": ("name: {from: Name}", "name：{from: Name}", "name：", "", "the line has a full-width ："),
    "no space": ("name: {from: Name}", "name: {from:Name}", "from:Name", "fields.name", "a space after the colon"),
    "two roots": ("request: {Ask: {Desk", "request: {B: 1, Ask: {Desk", "B: 1",
        "verbs.fetch_departments", "one root element, and it has 2"),
    "when": ('call: {trade: "102"}', 'call: {cases: [{when: {dept_id: present}, trade: "9", request: {R: 1}}]}',
             "dept_id", "fetch_schedules.call.cases[0]", "there is no dept_id: did you mean `department_id`?"),
    "when of a record": ('call: {trade: "201"}', 'call: {cases: [{when: {patient.nme: present}, trade: "9", request: {R: 1}}]}',
                         "patient.nme", "book.call.cases[0]", "when: patient.nme: there is no nme"),
    "indentation": (DESK, "   desk: D7\n", "   desk: D7", "", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_error_has_file_line_path_and_hint_when_the_profile_is_broken(
    tmp_path: Path, broken: tuple[str, str, str, str, str]
) -> None:
    before, after, marked, path, hint = broken
    assert OWN.count(before) == 1
    text = OWN.replace(before, after)
    line = next(number for number, one in enumerate(text.splitlines(), 1) if marked in one)
    line += path == "reply.fields"  # what is missing has no line: that of the mapping counts
    said = checked(tmp_path, text, "--no-requests")
    assert said.code == 1
    (told,) = [line for line in said.out.splitlines() if "error: " in line]
    assert f"{tmp_path / 'ours' / 'profile.yaml'}:{line}: " in told
    assert path in told
    assert hint in said.out


HARDLY_MEANT = {
    "amount without a unit": ("department_id: {from: Dept}", "department_id: {from: Dept}\n        fee_fen: {from: Fee}",
        "fee_fen", "in which unit"),
    "relative each": ("each: /Reply/Dept", "each: Reply/Dept", "each: Reply/Dept", "inside the root <Reply>: `/Reply/Dept`"),
    "capability": ('    capability: native\n    call: {trade: "102"}', '    call: {trade: "102"}', "fetch_schedules:",
                   "it does not say `capability: native`"),
    "argument": ("text: {from: document}", "text: document", "arguments:", "is `{from: document}` meant?"),
    "no document": ("text: {from: document}", "text: {from: connection.desk}",
        "arguments:", "no argument carries the request's document"),
    "a key close to another": (DESK, DESK + "  reply_rot: R\n", "reply_rot", "did you mean `reply_root`?"),
}  # fmt: skip


@pytest.mark.parametrize("case", HARDLY_MEANT.values(), ids=HARDLY_MEANT)
def test_what_is_hardly_meant_is_told_with_its_line(tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    before, after, marked, hint = case
    assert OWN.count(before) == 1
    text = OWN.replace(before, after)
    line = next(number for number, one in enumerate(text.splitlines(), 1) if marked in one)
    said = checked(tmp_path, text, "--no-requests")
    assert said.code == 0, said.out
    assert f"{tmp_path / 'ours' / 'profile.yaml'}:{line}: " in said.line(hint)
    assert hint not in checked(tmp_path, OWN, "--no-requests").out


def test_profile_that_is_not_there_is_looked_for_by_name(tmp_path: Path) -> None:
    said = profile("check", "theirs", "--profiles-dir", tmp_path, "--config", tmp_path / "none.toml")
    assert said.code == 1
    assert f"no profile theirs: looked for {tmp_path / 'theirs' / 'profile.yaml'}" in said.out


def test_all_profiles_and_all_hospitals_are_checked_when_none_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        extra = "" if name == "one" else "tables: {session: {Z: evening}}\n"
        (folder / name / "profile.yaml").write_text(
            f"name: {name}\nversion: 1\nprotocol: soap\nextends: dhc@1\n{extra}", "utf-8"
        )
    config = tmp_path / "hisbridge.toml"
    config.write_text(
        'profiles_dir = "profiles"\n[secrets]\ndata_key_file = "data.key"\ndigest_key_file = "digest.key"\n'
        '[hospital.first]\nname = "一院"\n[hospital.first.connector.his]\nprotocol = "soap"\nprofile = "one"\n',
        "utf-8",
    )
    said = profile("check", "--config", config)
    assert said.code == 1
    assert "== one" in said.out
    assert f"{folder / 'two' / 'profile.yaml'}:5: tables.session.Z: 'evening'" in said.out
    assert "== hospital first\nerror: " in said.out
    assert "set `endpoint` or `wsdl`" in said.out
    assert said.out.endswith("2 errors.\n")


@pytest.mark.parametrize(
    ("before", "after", "line", "says"),
    [
        ("from: date_from", "from: datefrom", "from: datefrom", "asked with has no datefrom: it has date_from"),
        ("  reply_root: Reply", "  reply_form: jsn", "reply_form", "connection.reply_form: Invalid enum value 'jsn': one of xml"),
        ("  desk: D7", "\tdesk: D7", "\tdesk", "the line has a tab"),
        ("{id: {from: No}", "{id: {form: No}", "form: No", "fields.id: no key form: did you mean `from`?"),
    ],
)  # fmt: skip
def test_a_slip_is_told_with_its_line_and_what_was_meant(
    tmp_path: Path, before: str, after: str, line: str, says: str
) -> None:
    text = OWN.replace(before, after, 1)
    assert text != OWN
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "profile.yaml").write_text(text, encoding="utf-8")
    said = profile("check", "ours", "--profiles-dir", tmp_path)
    assert said.code == 1
    number = next(at for at, one in enumerate(text.splitlines(), 1) if line in one)
    assert f"profile.yaml:{number}:" in said.line(says)
