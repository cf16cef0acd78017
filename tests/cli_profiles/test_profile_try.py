"""`hisbridge profile try`: every field of a reply, where it stands, and what nothing reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli_profiles.running import Said, enveloped, profile

SCHEDULES = """<Response><ResultCode>0</ResultCode><ResultContent/><RecordCount>2</RecordCount><Schedules>
<Schedule><ScheduleItemCode>100||7</ScheduleItemCode><ServiceDate>2026-01-05</ServiceDate><SessionCode>S</SessionCode>
 <DepartmentCode>100</DepartmentCode><DoctorCode>D1</DoctorCode><Fee>7</Fee><RegFee>1</RegFee><ScheduleStatus>N</ScheduleStatus></Schedule>
<Schedule><ScheduleItemCode>100||8</ScheduleItemCode><ServiceDate>2026-01-06</ServiceDate><SessionCode>Z</SessionCode>
 <DepartmentCode>100</DepartmentCode><DoctorCode>D2</DoctorCode><Fee>9</Fee><RegFee>1</RegFee><ScheduleStatus>N</ScheduleStatus></Schedule>
</Schedules></Response>"""


def tried(tmp_path: Path, reply: str | bytes, *words: str, name: str = "dhc") -> Said:
    sample = tmp_path / "reply.xml"
    sample.write_bytes(reply.encode() if isinstance(reply, str) else reply)
    return profile("try", name, "--sample", sample, "--profiles-dir", tmp_path, *words)


@pytest.mark.parametrize("around", [str, enveloped], ids=["bare", "envelope"])
def test_every_field_is_shown_with_its_place(tmp_path: Path, around: Callable[[str], str]) -> None:
    said = tried(tmp_path, around(SCHEDULES.replace(">Z<", ">X<")))
    assert said.code == 0
    assert said.line("call:").split()[1:] == ["verbs.fetch_schedules,", "QueryAdmSchedule", "1004"]
    assert said.line("judged:").split()[1:] == ["done"]
    lines = [line.split() for line in said.out.splitlines()]
    assert ["id", "100||7", "/Response/Schedules/Schedule[1]/ScheduleItemCode"] in lines
    assert ["session", "pm", "/Response/Schedules/Schedule[2]/SessionCode"] in lines
    assert ["fee_fen", "700", "/Response/Schedules/Schedule[1]/Fee"] in lines
    assert ["location", "-", "nothing", "at", "AdmitAddress"] in lines
    assert ["quota", "-", "no", "field", "of", "the", "map", "fills", "it"] in lines


def test_what_nothing_reads_is_counted(tmp_path: Path) -> None:
    said = tried(tmp_path, SCHEDULES)
    left = said.out.partition("Left unmapped: 2\n")[2].split("\n")
    assert left[:2] == ["  /Response/RecordCount", "  /Response/Schedules/Schedule/RegFee (2 times)"]


def test_problem_has_file_line_path_and_hint_when_a_code_is_unknown(tmp_path: Path) -> None:
    said = tried(tmp_path, SCHEDULES)
    assert said.code == 1
    problem = said.line("verbs.fetch_schedules.reply.fields.session (from SessionCode)")
    place, _, text = problem.strip().partition(": ")
    file, _, line = place.rpartition(":")
    assert "session: {from: SessionCode, table: session}" in Path(file).read_text("utf-8").splitlines()[int(line) - 1]
    assert text.endswith("is a code that table session does not have")
    assert "hint: add the code to `tables: {session: {CODE: WORD}}`" in said.out
    assert ["session", "!", "Z", "/Response/Schedules/Schedule[2]/SessionCode"] in [
        x.split() for x in said.out.splitlines()
    ]


def test_refusal_is_judged_by_the_profiles_rules(tmp_path: Path) -> None:
    reply = "<Response><ResultCode>-1001</ResultCode><ResultContent>号源已满</ResultContent></Response>"
    said = tried(tmp_path, reply, "--verb", "lock_slot")
    assert said.code == 1
    assert "not done: full (号源已满)" in said.line("judged:")
    assert "Left unmapped: nothing" in said.out


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("未知服务", "not done: invalid_request (未知服务)"),
        ("<html><body>502</body></html>", "cannot be read"),
        ("<Response><ResultCode>0</ResultCode>", "cannot be read"),
        (b"\x00\xff\x1c\x80", "cannot be read"),
        ("<Response><Other/></Response>", "not done: unknown"),
    ],
)
def test_odd_reply_is_told_for_what_it_is(tmp_path: Path, reply: str | bytes, told: str) -> None:
    said = tried(tmp_path, reply, "--verb", "fetch_departments")
    assert said.code == 1
    assert told in said.line("judged:")


def test_bytes_are_decoded_as_a_reply_would_be(tmp_path: Path) -> None:
    reply = (
        '<?xml version="1.0" encoding="UTF-8"?><Response><ResultCode>0</ResultCode><Departments><Department>'
        "<DepartmentCode>100</DepartmentCode><DepartmentName>内科</DepartmentName></Department></Departments></Response>"
    )
    said = tried(tmp_path, reply.encode("gbk"))
    assert "gb18030" in said.line("read as:")
    assert "not as declared" in said.line("read as:")
    assert ["name", "内科", "/Response/Departments/Department/DepartmentName"] in [
        x.split() for x in said.out.splitlines()
    ]


def test_nested_records_are_shown_inside_theirs(tmp_path: Path) -> None:
    (tmp_path / "his").mkdir()
    (tmp_path / "his" / "profile.yaml").write_text(
        """\
name: his
version: 1
protocol: soap
connection: {namespace: urn:his, operation: Do, success: [{path: /R/@ok, values: ["1"]}], reply_root: R}
verbs:
  fetch_bills:
    capability: native
    request: {Q: {No: {from: mrn}}}
    reply:
      each: /R/Bill
      record: Bill
      fields:
        id: {from: "@no"}
        amount_fen: {from: Sum, via: fen}
        currency: {value: CNY}
        items: {each: Item, record: BillItem, fields: {name: {from: "."}, amount_fen: {from: "@fen", via: fen}}}
""",
        "utf-8",
    )
    reply = (
        '<R ok="1" at="9"><Bill no="B1"><Sum>30</Sum><Item fen="10">a</Item><Item fen="20" unit="x">b</Item></Bill></R>'
    )
    said = tried(tmp_path, reply, name="his")
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert ["BillItem", "1.2"] in lines
    assert ["id", "B1", "/R/Bill/@no"] in lines
    assert ["amount_fen", "20", "/R/Bill/Item[2]/@fen"] in lines
    assert ["currency", "CNY", "the", "profile's", "own", "value"] in lines
    assert said.out.endswith("Left unmapped: 2\n  /R/@at\n  /R/Bill/Item/@unit\n")


def test_what_a_request_must_repeat_is_marked_as_the_requests(tmp_path: Path) -> None:
    reply = """<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>
    <StartTime>08:00</StartTime><EndTime>08:30</EndTime><AvailableLeftNum>3</AvailableLeftNum></TimeRange></TimeRanges></Response>"""
    said = tried(tmp_path, reply, "--verb", "fetch_slots", "--case", "1")
    assert said.code == 0, said.out
    assert "/Response/Schedule/ServiceDate (of the request)" in said.out
    assert "Left unmapped: nothing" in said.out


def test_values_are_hidden_when_they_shall_be(tmp_path: Path) -> None:
    reply = """<Response><ResultCode>0</ResultCode><PatInfos><PatInfo><PatientID>000123</PatientID>
    <PatientName>欧阳静怡</PatientName><IDNo>110101199003070000</IDNo></PatInfo></PatInfos></Response>"""
    assert "欧阳静怡" in tried(tmp_path, reply).out
    masked = tried(tmp_path, reply, "--masked")
    assert masked.code == 0
    assert "000123" not in masked.out
    assert "欧阳" not in masked.out
    assert "110101" not in masked.out
    assert "Patient 1" in masked.out


def test_message_that_is_told_to_us_is_shown_too(tmp_path: Path) -> None:
    said = tried(
        tmp_path,
        "MSH|^~\\&|HIS|H1|HISBRIDGE||20261130070000+0800||SIU^S12^SIU_S12|C1|P|2.5.1||||||UNICODE UTF-8\r"
        "SCH|17950000001234567890|F-1||||ROUTINE|||15|min|^^15^20301201083000^20301201084500||||||||||||||Booked\r"
        "PID|1||MRN1^^^H1^MR||Li^A\rRGS|1|A\rAIS|1|A|203^X|20301201083000|||15|min||Booked\r",
        name="hl7v2",
    )
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert ["order_no", "17950000001234567890", "at", "SCH-1.1"] in lines
    assert ["status", "registered", "at", "SCH-25"] in lines
    assert ["PID-5"] in lines


def test_resource_of_fhir_is_shown_too(tmp_path: Path) -> None:
    patient = {"resourceType": "Patient", "id": "p1", "name": [{"text": "样例"}], "gender": "female"}
    said = tried(
        tmp_path,
        json.dumps({"resourceType": "Bundle", "entry": [{"resource": patient}]}),
        "--verb",
        "find_patient",
        name="fhir_r4",
    )
    assert ["name", "样例"] in [line.split()[:2] for line in said.out.splitlines()]


def test_key_is_asked_for_when_the_profile_needs_one(tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir()
    (tmp_path / "sealed" / "profile.yaml").write_text(
        "name: sealed\nversion: 1\nprotocol: soap\nextends: dhc@1\nconnection:\n"
        "  opens: [{path: //Body, root: B, cipher: {name: aes-ecb, key: payload_key}}]\n",
        "utf-8",
    )
    said = tried(tmp_path, SCHEDULES, name="sealed")
    assert said.code == 2
    assert "the secret payload_key is not set" in said.err
    assert "profile.yaml:6: connection.opens[0].cipher" in said.err
    assert "--secret payload_key=FILE" in said.err
    (tmp_path / "payload.key").write_bytes(b"0123456789abcdef")
    assert tried(tmp_path, SCHEDULES, "--secret", f"payload_key={tmp_path / 'payload.key'}", name="sealed").code == 1


def test_key_of_requests_only_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir()
    (tmp_path / "sealed" / "profile.yaml").write_text(
        "name: sealed\nversion: 1\nprotocol: soap\nextends: dhc@1\nconnection:\n"
        "  header: {Key: {from: secret.header_key}}\n  security: {username: u, password: soap_password}\n"
        "  layers: [{tree: {R: {D: {from: document}}}, cipher: {name: aes-cbc, key: out_key, iv: out_iv}}]\n",
        "utf-8",
    )
    said = tried(tmp_path, SCHEDULES.replace(">Z<", ">X<"), name="sealed")
    assert said.code == 0, said.err
    assert "judged:  done" in said.out


def test_sentence_of_the_hospital_is_hidden_but_for_the_profiles_own_words_when_values_are(tmp_path: Path) -> None:
    reply = "<Response><ResultCode>-1001</ResultCode><ResultContent>欧阳静怡的号源已满</ResultContent></Response>"
    words = ("--verb", "lock_slot")
    assert "not done: full (欧阳静怡的号源已满)" in tried(tmp_path, reply, *words).line("judged:")
    said = tried(tmp_path, reply, *words, "--masked")
    assert "not done: full (<5-16>已满)" in said.line("judged:")
    unknown = tried(tmp_path, reply.replace("-1001", "-77").replace("的号源已满", "静怡"), *words, "--masked")
    assert "not done: refused (-77: <5-16>)" in unknown.line("judged:")


def test_verb_that_the_dialect_has_not_is_refused(tmp_path: Path) -> None:
    said = tried(tmp_path, SCHEDULES, "--verb", "fetch_attachment")
    assert said.code == 2
    assert "does not offer fetch_attachment" in said.err


FIELDS = """\
name: his
version: 1
protocol: soap
connection: {namespace: urn:his, operation: Do, success: [{path: /R/@ok, values: ["1"]}], reply_root: R}
tables: {session: {A: am}}
verbs:
  fetch_slots:
    capability: native
    request: {Q: 1}
    reply:
      each: /R/S
      record: Slot
      fields:
        id: {from: "@no"}
        schedule_id: {from: Plan}
        date: {from: Day}
        session: {from: Half}
        starts_at: {from: Start, via: datetime}
        ends_at: {from: End}
        seats_left: {from: Left}
        status: {value: open}
"""
GOOD = """<S no="1"><Plan>7</Plan><Day>2026-01-05</Day><Half>am</Half><Start>2026-01-05 08:00</Start>
<End>2026-01-05T08:30:00+08:00</End><Left>3</Left></S>"""


@pytest.mark.parametrize(
    ("before", "after", "reason", "hint"),
    [
        ("<Plan>7</Plan>", "", "is absent, and the record needs it", 'look for the value under "left unmapped"'),
        (">2026-01-05<", ">20260105<", "is not a date", "`via: date` reads 2026-01-05, 2026/1/5 and 20260105"),
        (">am<", ">A<", "is none of am, pm", "translate the HIS's codes with `table: NAME` to one of am, pm"),
        (">2026-01-05 08:00<", ">today<", "is not", ""),
        ("+08:00", "", "is not an instant with an offset", "`via: datetime`, or `join: {date: PATH, time: PATH}`"),
        (">3<", ">3.5<", "is not a whole number", "an amount in yuan needs `via: yuan_to_fen`"),
    ],
)
def test_hint_says_what_to_do_when_a_value_has_another_form(
    tmp_path: Path, before: str, after: str, reason: str, hint: str
) -> None:
    (tmp_path / "his").mkdir()
    (tmp_path / "his" / "profile.yaml").write_text(FIELDS, "utf-8")
    assert tried(tmp_path, f'<R ok="1">{GOOD}</R>', name="his").code == 0
    assert GOOD.count(before) == 1
    said = tried(tmp_path, f'<R ok="1">{GOOD.replace(before, after)}</R>', name="his")
    assert said.code == 1
    assert reason in said.line("verbs.fetch_slots.reply.fields.")
    assert hint in said.out


def test_settings_of_a_hospital_count_when_it_is_named(tmp_path: Path) -> None:
    """Its own success rule; and the instant is that of its zone."""
    (tmp_path / "his").mkdir()
    (tmp_path / "his" / "profile.yaml").write_text(FIELDS, "utf-8")
    config = tmp_path / "hisbridge.toml"
    config.write_text(
        'profiles_dir = "."\n[secrets]\ndata_key_file = "data.key"\ndigest_key_file = "digest.key"\n'
        '[hospital.far]\nname = "乌鲁木齐"\ntime_zone = "Asia/Urumqi"\n'
        '[hospital.far.connector.his]\nprotocol = "soap"\nprofile = "his"\nendpoint = "http://127.0.0.1:9/"\n'
        'settings = {success = [{path = "/R/@ok", values = ["yes"]}]}\n',
        "utf-8",
    )
    sample = tmp_path / "reply.xml"
    sample.write_text(f'<R ok="yes">{GOOD}</R>', "utf-8")
    words = ("try", "his", "--sample", sample, "--config", config)
    assert "not done: refused" in profile(*words).line("judged:")
    said = profile(*words, "--hospital", "far")
    assert said.code == 0, said.out
    assert ["starts_at", "2026-01-05T08:00:00+06:00"] in [line.split()[:2] for line in said.out.splitlines()]
    unknown = profile(*words, "--hospital", "near")
    assert (unknown.code, "there is no hospital near" in unknown.err) == (2, True)
    checked = profile("check", "his", "--config", config, "--hospital", "far")
    assert checked.code == 0
    assert "POST http://127.0.0.1:9/" in checked.out
