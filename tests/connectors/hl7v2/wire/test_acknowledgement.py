"""Which answer is due, and how it looks: HL7 v2.5.1 ch. 2.9.2 and 2.9.3, tables 0008, 0155 and 0357; older versions too."""

from __future__ import annotations

import pytest

from .rows import AGAIN, NEVER, PID, STORED, Answer, Await, Row, accepted, adt, framed, sent
from .runner import check, play

PLACE = "MSH^1^9"
REFUSED = {"inbound_messages/refused": 1}
UNREADABLE = {"inbound_messages/unreadable": 1}


def conditions(accept: str, application: str, result: object, codes: str) -> Row:
    """One line of tables 0008 and 0155: what the peer asks for, what became of the message, and the answers in order."""
    name = f"{accept or 'empty'}/{application or 'empty'}, {result!r:.12}: {codes or 'none'}"
    bad = result is not STORED
    answers = tuple(Answer(code, "M1", "207" if bad else None) for code in codes.split())
    message = framed(adt("M1", accept=accept, application=application))
    counted = REFUSED if bad else {}
    return Row(
        name,
        "acknowledgement",
        (message,),
        answers,
        handled=("M1",),
        counted=counted,
        results={"M1": (result,)},  # type: ignore[dict-item]
    )


def rejected(name: str, message: str | bytes, code: str, location: str | None = None, **more: object) -> Row:
    named = str(more.pop("named", "M1"))
    counted = more.pop("counted", REFUSED)
    answer = Answer("AR", named, code, location)
    return Row(name, "acknowledgement", (framed(message),), (answer,), counted=counted, **more)  # type: ignore[arg-type]


def versioned(version: str, kind: str, *fields: tuple[str, int, int, str], mode: str = "P") -> Row:
    """The form of an answer, by the version of the message."""
    message = adt("M1", mode=mode).replace("2.5.1", version)
    bad = mode != "P"
    whole = (("MSH", 9, 1, "ACK"), ("MSH", 9, 2, "A08"), ("MSH", 9, 3, kind), *fields)
    error, place = ("202", "MSH^1^11") if bad and version >= "2.5" else (None, None)
    answer = Answer("AR" if bad else "AA", "M1", error, place, fields=whole)
    counted, handled = (REFUSED, ()) if bad else ({}, ("M1",))
    name = f"version {version or 'empty'}{', rejected' if bad else ''}"
    return Row(name, "acknowledgement", (framed(message),), (answer,), handled=handled, counted=counted)


BHS = "BHS|^~\\&|HIS|H1|HB|X|20260105080000||||B7\r"
MFN = (
    "MSH|^~\\&|HIS|H1|HB|X|20260105080000||MFN^M02^MFN_M02|M1|P|2.5.1\r"
    "MFI|PRA^Practitioner^HL70175||UPD|||{level}\r"
    "MFE|MAD|R1|20260105|D1^李^99|CE\rSTF|D1|D1|李^明\r"
    "MFE|MUP|R2|20260105|D2|CE\rSTF|D2|D2|王^芳\r"
)
MFK = (("MSH", 9, 1, "MFK"), ("MSH", 9, 2, "M02"), ("MSH", 9, 3, "MFK_M01"), ("MFI", 1, 1, "PRA"), ("MFI", 6, 1, "AL"))
FIRST_RECORD = (("MFA", 1, 1, "MAD"), ("MFA", 2, 1, "R1"), ("MFA", 4, 1, "S"), ("MFA", 5, 1, "D1"), ("MFA", 6, 1, "CE"))

ROWS = (
    conditions("", "", STORED, "AA"),
    conditions("", "", AGAIN, "AE"),
    conditions("", "", NEVER, "AR"),
    conditions("AL", "AL", STORED, "CA AA"),
    conditions("AL", "AL", AGAIN, "CE"),
    conditions("AL", "AL", NEVER, "CR"),
    conditions("AL", "NE", STORED, "CA"),
    conditions("NE", "AL", STORED, "AA"),
    conditions("NE", "NE", STORED, ""),
    conditions("NE", "NE", NEVER, ""),
    conditions("ER", "ER", STORED, ""),
    conditions("ER", "ER", AGAIN, "CE"),
    conditions("SU", "SU", STORED, "CA AA"),
    conditions("SU", "SU", NEVER, ""),
    conditions("SU", "ER", NEVER, "AR"),
    conditions("al", "ne", STORED, "CA"),
    conditions("YES", "", STORED, "CA"),
    conditions("", "ON", AGAIN, "AE"),
    Row(
        "an answer to who wants none, where the site says always",
        "acknowledgement",
        (framed(adt("M1", accept="NE", application="NE")),),
        accepted("M1"),
        handled=("M1",),
        options={"ack": "always"},
    ),
    Row(
        "a refusal to who wants none, where the site says always",
        "acknowledgement",
        (framed(adt("M1", accept="NE", application="NE")), Await(1), framed(adt("M2", accept="SU", application="NE"))),
        (Answer("AR", "M1", "207"), Answer("AE", "M2", "207")),
        handled=("M1", "M2"),
        counted={"inbound_messages/refused": 2},
        results={"M1": (NEVER,), "M2": (AGAIN,)},
        options={"ack": "always"},
    ),
    Row(
        "an answer to who wants to know of errors only, where the site says always",
        "acknowledgement",
        (framed(adt("M1", accept="ER", application="ER")),),
        accepted("M1"),
        handled=("M1",),
        options={"ack": "always"},
    ),
    Row(
        "an error of ours is to be tried again",
        "acknowledgement",
        (sent("M1"), Await(1), sent("M1")),
        (Answer("AE", "M1", "207"), Answer("AA", "M1")),
        handled=("M1", "M1"),
        counted={"inbound_messages/failed": 1},
        results={"M1": (RuntimeError("gone"), STORED)},
    ),
    rejected("another processing id", adt("M1", mode="T"), "202", "MSH^1^11"),
    rejected("no processing id", adt("M1", mode=""), "202", "MSH^1^11"),
    Row(
        "a processing id that the site lists",
        "acknowledgement",
        (framed(adt("M1", mode="T")),),
        (Answer("AA", "M1", fields=(("MSH", 11, 1, "T"),)),),
        handled=("M1",),
        options={"accept_processing_ids": ["P", "T"]},
    ),
    rejected("an event that nobody maps", adt("M1", kind="ADT^A99"), "201", PLACE),
    rejected("a type that nobody maps", adt("M1", kind="ZZZ^Z01"), "200", PLACE),
    rejected("a request, which is ours to make", adt("M1", kind="SRM^S01^SRM_S01"), "200", PLACE),
    rejected("a query, which is ours to ask", adt("M1", kind="QBP^Q22^QBP_Q21"), "200", PLACE),
    Row(
        "a type that the site ignores",
        "acknowledgement",
        (framed(adt("M1", kind="ADT^A01^ADT_A01")),),
        (Answer("AA", "M1", fields=(("MSH", 9, 2, "A01"),)),),
        counted={"inbound_messages/ignored": 1},
        options={"ignore": ["ADT^A01"]},
    ),
    rejected("a type of one component", adt("M1", kind="ADT"), "201", PLACE),
    Row(
        "a type of one component, with the event in EVN as before v2.3",
        "acknowledgement",
        (framed(adt("M1", kind="ADT", body=f"EVN|A08|20260105\r{PID}").replace("2.5.1", "2.2")),),
        (Answer("AA", "M1", fields=(("MSH", 9, 1, "ACK"), ("MSH", 9, 2, ""))),),
        handled=("M1",),
    ),
    rejected("no type", adt("M1", kind=""), "101", PLACE),
    rejected("no control id", adt(""), "101", "MSH^1^10", named=""),
    rejected("a version of v3", adt("M1").replace("2.5.1", "3.0"), "203", "MSH^1^12"),
    rejected("no segment", adt("M1") + "this is no segment\r", "100"),
    rejected("no header", PID, "100", named="", counted=UNREADABLE),
    versioned("2.1", "", ("MSH", 12, 1, "2.1")),
    versioned("2.3", "", ("MSH", 12, 1, "2.3")),
    versioned("2.3.1", "ACK", ("MSH", 12, 1, "2.3.1")),
    versioned("2.8", "ACK", ("MSH", 12, 1, "2.8")),
    versioned("", "ACK", ("MSH", 12, 1, "2.5.1")),
    versioned(
        "2.3",
        "",
        ("ERR", 1, 1, "MSH"),
        ("ERR", 1, 2, "1"),
        ("ERR", 1, 3, "11"),
        ("ERR", 1, 4, "202"),
        ("MSA", 3, 1, "Unsupported processing id"),
        mode="T",
    ),
    versioned("2.4", "ACK", ("ERR", 1, 4, "202"), ("ERR", 4, 1, ""), mode="T"),
    versioned("2.5", "ACK", ("ERR", 1, 1, ""), ("ERR", 4, 1, "E"), ("MSA", 3, 1, ""), mode="T"),
    Row(
        "a master file",
        "acknowledgement",
        (framed(MFN.format(level="AL")),),
        (Answer("AA", "M1", fields=(*MFK, *FIRST_RECORD)),),
        handled=("M1",),
    ),
    Row(
        "a master file that could not be stored, whose peer wants to know of errors only",
        "acknowledgement",
        (framed(MFN.format(level="ER")),),
        (Answer("AE", "M1", "207", fields=(("MSH", 9, 1, "MFK"), ("MFA", 4, 1, "U"))),),
        handled=("M1",),
        counted=REFUSED,
        results={"M1": (AGAIN,)},
    ),
    Row(
        "a master file whose peer wants to know of no record",
        "acknowledgement",
        (framed(MFN.format(level="NE")),),
        (Answer("AA", "M1", fields=(("MSH", 9, 1, "MFK"), ("MFA", 1, 1, ""))),),
        handled=("M1",),
    ),
    Row(
        "a master file with a commit stage",
        "acknowledgement",
        (framed(MFN.format(level="AL").replace("2.5.1\r", "2.5.1|||AL|AL\r")),),
        (Answer("CA", "M1", fields=(("MSH", 9, 1, "ACK"),)), Answer("AA", "M1", fields=MFK)),
        handled=("M1",),
    ),
    Row(
        "an acknowledgement is not acknowledged",
        "acknowledgement",
        (framed("MSH|^~\\&|HIS|H|||20260105||ACK^A08^ACK|9|P|2.5.1\rMSA|AA|1\r"),),
        counted={"inbound_messages/ignored": 1},
    ),
    Row(
        "an acknowledgement that cannot be decoded is not acknowledged",
        "acknowledgement",
        (framed("MSH|^~\\&|HIS|H|||20260105||ACK^A08^ACK|9|P|2.5.1||||||KLINGON\rMSA|AA|1\r"),),
        counted={"inbound_messages/ignored": 1},
    ),
    Row(
        "an acknowledgement with something in it that is no segment is not acknowledged",
        "acknowledgement",
        (framed("MSH|^~\\&|HIS|H|||20260105||ACK^A08^ACK|9|P|2.5.1\rMSA|AA|1\rthis is no segment\r"),),
        counted={"inbound_messages/ignored": 1},
    ),
    Row(
        "an acknowledgement that is too large is not acknowledged",
        "acknowledgement",
        (framed("MSH|^~\\&|HIS|H|||20260105||ACK^A08^ACK|9|P|2.5.1\rMSA|AA|1\rNTE|1||" + "x" * 5000 + "\r"),),
        counted={"inbound_messages/ignored": 1},
        options={"max_message_bytes": 3000},
    ),
    Row(
        "a batch of two, one of which is rejected",
        "acknowledgement",
        (framed(BHS + adt("M1") + adt("M2", mode="T") + adt("M3") + "BTS|3\r"),),
        (Answer("AA", "M1", "202", "MSH^1^11", fields=(("BHS", 11, 1, "B7"), ("BTS", 1, 1, "3"))),),
        handled=("M1", "M3"),
        counted=REFUSED,
    ),
    Row(
        "a batch with something in it that is no message",
        "acknowledgement",
        (framed(BHS + adt("M1") + "MSH|broken\r" + adt("M3") + "BTS|3\r"),),
        (Answer("AA", "M1", "100", fields=(("BTS", 1, 1, "3"),)),),
        handled=("M1", "M3"),
        counted=UNREADABLE,
    ),
    Row(
        "an empty batch",
        "acknowledgement",
        (framed(f"{BHS}BTS|0\r"),),
        (Answer("", "", fields=(("BHS", 11, 1, "B7"), ("BTS", 1, 1, "0"))),),
    ),
    Row(
        "a batch that counts wrongly",
        "acknowledgement",
        (framed(BHS + adt("M1") + "BTS|2\r"),),
        (Answer("AA", "M1", fields=(("BTS", 1, 1, "1"), ("BTS", 2, 1, "BTS-1 says 2 and 1 messages came"))),),
        handled=("M1",),
        counted={"inbound_oddities/batch_count": 1},
    ),
    Row(
        "a batch whose messages ask for no answer",
        "acknowledgement",
        (framed(BHS + adt("M1", accept="NE", application="NE") + "BTS|1\r"),),
        handled=("M1",),
    ),
    Row(
        "a file of batches",
        "acknowledgement",
        (
            framed(
                BHS.replace("BHS", "FHS") + (BHS + adt("M1") + "BTS|1\r") + (BHS + adt("M2") + "BTS|1\r") + "FTS|2\r"
            ),
        ),
        (Answer("AA", "M1", fields=(("FHS", 11, 1, "B7"), ("FTS", 1, 1, "2"))),),
        handled=("M1", "M2"),
    ),
    Row(
        "two messages in one frame without a batch around them",
        "acknowledgement",
        (framed(adt("M1") + adt("M2")),),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
    ),
    Row(
        "more messages in one frame than are taken",
        "acknowledgement",
        (framed(BHS + adt("M1", body="") * 10_001),),
        (Answer("AR", "M1", "207"),),
        counted=REFUSED,
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))
