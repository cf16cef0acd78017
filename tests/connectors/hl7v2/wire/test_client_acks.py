"""What answers a request of ours, and what does not: HL7 v2.5.1 ch. 2.9 and 2.14.8, tables 0008, 0155 and 0357."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.simulators.mllp import END, START

from .his import DONE, Hear, HearAck, HisRow, answer, check, framed, plain, play, rejected, unknown
from .rows import Close, Pause

GROUP = "acknowledgement"
TIMED_OUT = unknown("no answer within the time-out")
QUICK = {"max_message_bytes": 10_000}


def err(**fields: str) -> str:
    """An ERR segment from `f3="207"`."""
    last = max(int(name[1:]) for name in fields)
    return "|".join(["ERR", *(fields.get(f"f{n}", "") for n in range(1, last + 1))]) + "\r"


def one(name: str, *acts: bytes | Pause | HearAck, outcome: str = DONE, **more: object) -> HisRow:
    """One request, and what the HIS does when it has heard it."""
    given: dict[str, object] = {"heard": 1, "connections": 1, **more}
    return HisRow(name, GROUP, ((Hear(), *acts),), (outcome,), **given)  # type: ignore[arg-type]


READ = (
    one("AA that names the request", answer()),
    one("AA in three pieces", answer()[:5], answer()[5:70], answer()[70:]),
    one("AA with LF as the end of segments", framed(plain().replace(b"\r", b"\n"))),
    one("AA behind a byte-order mark", framed(b"\xef\xbb\xbf" + plain())),
    one("AA without the CR of its frame", answer()[:-1]),
    one("AA behind line ends in its frame", framed(b"\r\n" + plain())),
    one("an answer to somebody else and then ours", answer(named="X1") + answer(), counted={"foreign": 1}),
    one("a page of HTML and then the answer", framed(b"<html>503</html>") + answer(), counted={"garbage": 1}),
    one("an empty frame and then the answer", START + END + answer()),
    one("bytes outside a frame and then the answer", b"hello" + answer(), counted={"garbage": 1}),
    one(
        "a message of the HIS's own and then the answer",
        framed(b"MSH|^~\\&|HIS|H1|HB||||ADT^A08|9|P|2.5.1\rPID|1\r") + answer(),
        counted={"foreign": 1},
    ),
    one("nothing", outcome=TIMED_OUT),
    one("only an answer to somebody else", answer(named="X1"), outcome=TIMED_OUT, counted={"foreign": 1}),
    one("an answer that names us with a blank more", answer(named=" @ID@ ")),
    one("MSA-1 that is none of table 0008", answer("OK"), outcome=unknown("MSA-1 is none of table 0008")),
    one("two answers in one frame, ours the second", framed(plain(named="X1") + plain()), counted={"foreign": 1}),
    one("our answer in a batch", framed(b"FHS|^~\\&|HIS\rBHS|^~\\&|HIS\r" + plain() + b"BTS|1\rFTS|1\r")),
)

# An answer of 20,000 bytes where 10,000 are taken; of a character set that has no such byte.
LARGE = b"ZZZ|" + b"x" * 20_000 + b"\r"
BAD_BYTES = plain().replace(b"2.5.1|||", b"2.5.1||||||ASCII") + b"NTE|1||\xff\xff\r"

UNREADABLE = (
    one(
        "an answer larger than what is taken",
        framed(plain() + LARGE),
        outcome=unknown("the answer is larger than max_message_bytes"),
        counted={"too_large": 1},
        options=QUICK,
    ),
    one(
        "somebody else's, larger than what is taken, and then ours",
        framed(plain(named="X1") + LARGE) + answer(),
        counted={"too_large": 1},
        options=QUICK,
    ),
    one(
        "an answer that cannot be decoded",
        framed(BAD_BYTES),
        outcome=unknown("the answer cannot be decoded"),
        counted={"garbage": 1},
    ),
    one(
        "somebody else's that cannot be decoded, and then ours",
        framed(BAD_BYTES.replace(b"@ID@", b"X1")) + answer(),
        counted={"garbage": 1},
    ),
    one(
        "a refusal that names nothing",
        answer("AR", ""),
        outcome=unknown("the answer names no message (MSA-2 is empty)"),
        counted={"foreign": 1},
    ),
    one(
        "an answer whose MSA has no MSA-2 at all",
        framed(b"MSH|^~\\&|HIS|H1|HB||||ACK|9|P|2.5.1\rMSA|AE\r"),
        outcome=unknown("the answer names no message (MSA-2 is empty)"),
        counted={"foreign": 1},
    ),
)

REFUSED = (
    one(
        "AE 206, record locked: later", answer("AE", body=err(f3="206")), outcome=rejected("busy", "AE 206", again=True)
    ),
    one("AR 206: final, whatever it means", answer("AR", body=err(f3="206")), outcome=rejected("refused", "AR 206")),
    one("CR 206: final", answer("CR", body=err(f3="206")), outcome=rejected("refused", "CR 206")),
    one("AE 207 says nothing of what was done", answer("AE", body=err(f3="207")), outcome=unknown("AE 207")),
    one("AE without a code", answer("AE"), outcome=unknown("AE")),
    one("AR without a code", answer("AR"), outcome=rejected("refused", "AR")),
    one(
        "AE with a code that the site retries",
        answer("AE", body=err(f3="207", f5="LOCKED")),
        outcome=rejected("busy", "AE LOCKED", again=True),
        options={"retry_errors": ["LOCKED"]},
    ),
    one(
        "AR with a code that the site retries",
        answer("AR", body=err(f5="LOCKED")),
        outcome=rejected("refused", "AR LOCKED"),
        options={"retry_errors": ["LOCKED"]},
    ),
    one(
        "AE 101 with its place",
        answer("AE", body=err(f2="PID^1^3^1^4", f3="101")),
        outcome=rejected("invalid_request", "AE 101 at PID-3.4"),
    ),
    one(
        "AE with two places",
        answer("AE", body=err(f2="PID^1^3~FT1^2^11", f3="101")),
        outcome=rejected("invalid_request", "AE 101 at PID-3, FT1(2)-11"),
    ),
    one(
        "AE in the form before v2.5",
        answer("AE", body=err(f1="FT1^1^2^205&Duplicate key&HL70357")),
        outcome=rejected("already_exists", "AE 205 at FT1-2"),
    ),
    one(
        "AE with the code in MSA-6",
        framed(plain("AE").rstrip(b"\r") + b"||||204\r"),
        outcome=rejected("not_found", "AE 204"),
    ),
    one(
        "AE with a name where a code belongs",
        answer("AE", body=err(f2="Zhang Wei^1^3", f5="Zhang Wei unknown", f3="204")),
        outcome=rejected("not_found", "AE 204"),
    ),
)

ENHANCED = (
    one("CA and then AA", answer("CA") + answer(), mode=("AL", "AL")),
    one(
        "CA and nothing more",
        answer("CA"),
        mode=("AL", "AL"),
        outcome=unknown("only a commit acknowledgement came within the time-out"),
    ),
    one("CA where no more is asked for", answer("CA"), mode=("AL", "NE")),
    one(
        "CE: not stored",
        answer("CE", body=err(f3="206")),
        mode=("AL", "AL"),
        outcome=rejected("busy", "CE 206", again=True),
    ),
    one(
        "AA that wants a commit acknowledgement",
        answer("CA") + answer(own_id="H7", accept="AL"),
        HearAck(),
        mode=("AL", "AL"),
        acks=(("CA", "H7"),),
    ),
    one("AA that wants one of errors only", answer("CA") + answer(own_id="H7", accept="ER"), mode=("AL", "AL")),
    one("AA that wants one in original mode, which has none", answer(own_id="H7", accept="AL")),
)

LATER = (
    HisRow(
        "the answer twice",
        GROUP,
        ((Hear(), answer() + answer(), Hear(), answer()),),
        (DONE, DONE),
        2,
        1,
        {"duplicate": 1},
    ),
    HisRow(
        "an AR to the request before, which was given up, and then our AA",
        GROUP,
        ((Hear(),), (Hear(), answer("AR", "@LAST@") + answer())),
        (TIMED_OUT, DONE),
        heard=2,
        connections=2,
        counted={"late": 1},
    ),
    HisRow(
        "an AA twice, because the HIS has not seen our commit acknowledgement",
        GROUP,
        (
            (
                Hear(),
                answer(own_id="H7", accept="AL"),
                HearAck(),
                answer(own_id="H7", accept="AL"),
                HearAck(),
                Hear(),
                answer(),
            ),
        ),
        (DONE, DONE),
        heard=2,
        connections=1,
        counted={"duplicate": 1},
        acks=(("CA", "H7"), ("CA", "H7")),
        mode=("AL", "AL"),
        pauses_s=0.2,
    ),
    HisRow(
        "an answer, and the connection closed behind it",
        GROUP,
        ((Hear(), answer(), Close()),),
        (DONE, DONE),
        2,
        2,
        pauses_s=0.2,
    ),
)


@pytest.mark.parametrize("row", [*READ, *UNREADABLE, *REFUSED, *ENHANCED, *LATER], ids=str)
async def test_request_has_its_outcome_when_the_his_answers_like_this(row: HisRow, tmp_path: Path) -> None:
    check(row, await play(row, tmp_path))
