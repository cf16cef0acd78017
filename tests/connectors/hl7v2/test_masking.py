"""What is shown of a message to whoever must not see patients' data: by allow list, whatever the message looks like."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.harmless import HARMLESS, ORDER_NO, SEGMENTS, TIME
from connectors.hl7v2.masking import is_hl7, message_lines
from tests.patient_texts import assert_absent

ORDER = "17950000001234567890"
SIU = "\r".join(
    (
        "MSH|^~\\&|HIS|H1|HISBRIDGE||20261130070000+0800|SECRETTOKEN|SIU^S12^SIU_S12|MSG00042|P|2.5.1|7||AL|NE|CHN|UNICODE UTF-8",
        f"SCH|{ORDER}^HB|F7788^HIS||||ROUTINE^王医生说要快|痛风复查|FOLLOWUP|15|min|^^15^20261201083000^20261201084500||||||||||||||"
        "Booked",
        "PID|1||M4711^^^H1^MR~440101199001011234^^^^NI||张^伟||19900101|M|||天河路1号^^广州||13812345678|||M||A998877",
        "NK1|1|张^建国|FTH||13900001111",
        "IN1|1|PLAN|粤医保A1",
        "PV1|1|O|内科^203^^H1||||10086^李^医生||||||||||||V5566",
        "RGS|1|A",
        "AIS|1|A|HEARTCHECK^心脏复查|20261201083000|||15|min||Booked",
        "AIP|1|A|10086^李^医生|D",
        "OBX|1|TX|HIV^艾滋病抗体||阳性，请复查|||A|||F|||20261130",
        "NTE|1|L|病人很焦虑，电话13800138000",
        "ZPY|1|张伟|440101199001011234",
    )
)
SECRETS = [
    "SECRETTOKEN", "F7788", "王医生", "痛风", "M4711", "440101199001011234", "张", "伟", "19900101", "天河路", "13812345678",
    "A998877", "建国", "13900001111", "医保", "PLAN", "内科", "203", "10086", "李", "V5566", "HEARTCHECK", "心脏", "HIV", "艾滋",
    "阳性", "焦虑", "13800138000", "FTH", "ROUTINE",
]  # fmt: skip


def masked(data: bytes, charset: str = "UNICODE UTF-8") -> str:
    return "\n".join(line.text for line in message_lines(data, charset=charset, masked=True))


def test_only_what_is_harmless_is_shown_when_a_message_is_masked() -> None:
    shown = masked(SIU.encode()).split("\n")
    assert shown[0] == (
        "MSH|^~\\&|HIS|H1|HISBRIDGE||20261130070000+0800|<5-16>|SIU^S12^SIU_S12|MSG00042|P|2.5.1|7||AL|NE|CHN|UNICODE UTF-8"
    )
    assert shown[1] == (
        f"SCH|{ORDER}^<1-4>|<5-16>^<1-4>||||<5-16>^<5-16>|<1-4>|<5-16>|15|min|^^<1-4>^20261201083000^20261201084500||||||||||||||"
        "Booked"
    )
    assert shown[2].startswith(
        "PID|1||<5-16>^^^<1-4>^<1-4>~<17-64>^^^^<1-4>||<1-4>^<1-4>||<5-16>|<1-4>|||<5-16>^^<1-4>||<5-16>"
    )
    assert shown[7] == "AIS|1|A|<5-16>^<1-4>|20261201083000|||15|min||Booked"
    assert shown[9] == "OBX|1|TX|<1-4>^<5-16>||<5-16>|||<1-4>|||F|||20261130"
    assert shown[11] == "ZPY|<1-4>|<1-4>|<17-64>"


@pytest.mark.parametrize("number", ["110101199003071234", "HIS-11010119900307123X", "13812345678"])
def test_control_id_is_hidden_when_it_may_be_the_number_of_a_person(number: str) -> None:
    told = f"MSH|^~\\&|HIS|H1|HISBRIDGE||20261130070000||ACK|{number}|P|2.5.1\rMSA|AA|{number}\rBTS|1\r"
    shown = masked(told.encode())
    assert number not in shown
    assert shown.splitlines()[1].startswith("MSA|AA|<")
    assert "|202611200112053456|" in masked(told.replace(number, "202611200112053456").encode())


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\n\r\n"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("marks", ["|^~\\&", "#@!%*", "$:;?,"])
def test_nothing_of_a_patient_is_shown_when_a_message_has_another_form(end: str, codec: str, marks: str) -> None:
    text = SIU.translate(str.maketrans("|^~\\&", marks)).replace("\r", end)
    if codec == "gb18030":
        text = text.replace("UNICODE UTF-8", "GB 18030-2000")
    shown = masked(text.encode(codec)).encode()
    assert_absent(shown, SECRETS, "the masked message")
    assert ORDER.encode() in shown  # it was read as a message, and not merely hidden


@pytest.mark.parametrize(
    "data",
    [
        SIU.encode()[:-1] + b"\xff\xfe",
        b"MSH|^~\\&|" + SIU.encode("utf-16-le"),
        SIU.replace("|UNICODE UTF-8", "|ISO IR87").encode(),
        SIU.replace("MSH|^~\\&|", "MSH|||").encode(),
        SIU.replace("MSH|^~\\&|", "MSH").encode(),
        SIU.replace("\rPID|", "\r张伟|").encode(),
        SIU.replace("\rPID|", "\r13812345678|PID|").encode(),
        SIU.encode("gb18030"),  # says that it is UTF-8
        b"FHS|^~\\&|" + SIU.encode(),
        b"BHS|^~\\&|HIS\r" + SIU.encode() + b"\rBTS|1\r",
        "BHS|^~\\&|张伟|13812345678\r张伟 13812345678\r".encode()
        + SIU.encode()
        + b"\r"
        + SIU.encode()
        + "\rFTS|张伟".encode(),
        SIU.replace("\rPID|", "\rWEI|").encode(),
    ],
)
def test_nothing_of_a_patient_is_shown_when_a_message_cannot_be_read_or_is_several(data: bytes) -> None:
    assert_absent(masked(data).encode(), SECRETS, "the masked message")


def test_name_of_a_person_is_hidden_when_it_stands_where_a_segment_begins() -> None:
    shown = masked(SIU.replace("\rPID|", "\rWEI|").encode())
    assert "WEI" not in shown
    assert "???|<1-4>||" in shown


HEAD = "MSH|^~\\&|A|B|C|D|20261130||ADT^A08|1|P|2.5"
NAMELESS = "|PID|1||M47^^^H||ZHANG SAN^LI\r"  # the end of the line was lost: PID-5 stands in MSH-18


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}\rBHS|ZHANG SAN|x\r",
        f"{HEAD}\nFHS|LI\n",
        f"\ufeff{HEAD}{NAMELESS}",
        f"BHS|^~\\&|\r{HEAD}\r{HEAD}{NAMELESS}BTS|2\r",
        f"{HEAD}||||||UNICODE UTF-8~ZHANG SAN\r",
        f"{HEAD}|1||ER|LIU|LI^LIU\r",
    ],
)
def test_name_is_hidden_when_it_stands_where_the_header_says_how_to_read(text: str) -> None:
    assert not re.search("ZHANG|SAN|LI", masked(text.encode()))


def test_field_is_one_mask_when_it_has_more_parts_than_anyone_writes() -> None:
    flood = "MSH|^~\\&|||||||ADT^A08|1|P|2.5.1\rPID|1||" + "~".join(["4711"] * 100_000)
    assert masked(flood.encode()).split("\n")[1] == "PID|1||<1000+>"


def test_value_of_megabytes_takes_a_few_characters_when_it_is_masked() -> None:
    report = "MSH|^~\\&|||||||ORU^R01|1|P|2.5.1\rOBX|1|ED|X||^^PDF^Base64^" + "QUJD" * 1_500_000
    assert masked(report.encode()).split("\n")[1] == "OBX|1|ED|<1-4>||^^<1-4>^<5-16>^<1000+>"


def test_number_of_a_person_does_not_look_like_an_order_or_a_time() -> None:
    for number in ("13812345678", "440101199001011234", "19900101", "1990010112", "0571-88880000", "2024130100000"):
        assert not TIME.fullmatch(number), number
        assert not ORDER_NO.fullmatch(number), number


def test_every_segment_that_shows_something_has_a_name() -> None:
    assert HARMLESS.keys() <= SEGMENTS.keys()
    assert not any(name.startswith("Z") for name in HARMLESS)


# --- whatever is in it ----------------------------------------------------------------------------------------------------

SECRET = "Q9Xw7Lk2Vb5"  # eleven characters that no field of ours may show where a person's are expected
PLACES = [
    f"{segment}-{number}"
    for segment in (
        "PID", "NK1", "GT1", "IN1", "IN2", "MRG", "PV1", "OBX", "NTE", "SCH", "ARQ", "AIP", "AIG", "AIL", "QPD", "QRD",
        "FT1", "STF", "DG1", "AL1", "DSP", "ZZZ", "MSA", "ERR",
    )
    for number in range(1, 31)
]  # fmt: skip


def is_masked(place: str) -> bool:
    """Fields that may show any word of a peer's: control ids."""
    return place not in ("MSA-2",)


@given(
    place=st.sampled_from([place for place in PLACES if is_masked(place)]),
    around=st.text(st.sampled_from("^~&\\|" + string.ascii_letters + "张伟\t "), max_size=12),
    tail=st.text(st.sampled_from("^~&\\|" + string.digits), max_size=12),
)
def test_value_is_never_shown_when_it_stands_in_any_field_of_a_person(place: str, around: str, tail: str) -> None:
    segment, _, number = place.partition("-")
    line = f"{segment}{'|' * int(number)}{around.replace('|', '^')}{SECRET}{tail}"
    message = f"MSH|^~\\&|A|B|C|D|20261130||ADT^A08|1|P|2.5.1\r{line}\r"
    shown = masked(message.encode())
    assert SECRET not in shown
    assert re.search(r"<[\d+-]+>", shown)


@given(st.binary(max_size=300))
def test_nothing_is_raised_and_no_text_shown_when_bytes_are_anything(data: bytes) -> None:
    for body in (data, b"MSH|^~\\&|" + data, b"MSH" + data, b"BHS|^~\\&|" + data):
        for line in message_lines(body, charset="UNICODE UTF-8", masked=True):
            assert isinstance(line.text, str)
        message_lines(body, charset="GBK", masked=False)


def test_every_message_of_the_corpus_is_masked(corpus: Path) -> None:
    files = [file for file in corpus.rglob("*") if file.is_file() and is_hl7(file.read_bytes())]
    assert len(files) >= 12
    for file in files:
        text = file.read_bytes().decode("utf-8-sig", "replace")
        shown = masked(file.read_bytes())
        for line in re.split(r"[\r\n]+", text):
            if line.startswith("PID|"):
                names = [part for part in re.split(r"[|^~&]", line.split("|")[5]) if len(part) > 3]
                assert_absent(shown.encode(), names, file.name)
