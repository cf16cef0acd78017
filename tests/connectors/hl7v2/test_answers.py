"""What came from the HIS, by its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.answers import REMEMBERED_IDS, Glance, SentIds, Stray, glance, messages_in

HEAD = b"MSH|^~\\&|HIS|H1|HB||20260105080000||ACK|9|P|2.5.1"


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (HEAD + b"\rMSA|AA|M1\r", Glance(True, True, "M1")),
        (HEAD + b"\nMSA|AA|M1\n", Glance(True, True, "M1")),
        (HEAD + b"\r\nSFT|x\r\nMSA|AA|M1|text\r\n", Glance(True, True, "M1")),
        (b"\xef\xbb\xbf" + HEAD + b"\rMSA|AE|M1", Glance(True, True, "M1")),
        (HEAD.replace(b"|", b"$") + b"\rMSA$AA$M1$x\r", Glance(True, True, "M1")),
        (HEAD + b"\rMSA|AR||unreadable\r", Glance(True, True, "")),
        (HEAD + b"\rMSA|AR\r", Glance(True, True, "")),
        (HEAD + b"\rMSA", Glance(True, True, "")),
        (HEAD + b"\rPID|1\r", Glance(True)),
        (HEAD + b"\rNTE|1||see MSA|AA|M1\r", Glance(True)),  # a text, not a segment
        (HEAD + b"\rMSAX|AA|M1\r", Glance(True)),
        (HEAD + b"\rMSA|AA|M1 \r", Glance(True, True, "M1")),
        (b"<html>MSA|AA|M1</html>", Glance(False)),
        (b"", Glance(False)),
        (b"MSH", Glance(False)),
    ],
)
def test_answer_is_known_by_its_first_bytes(data: bytes, seen: Glance) -> None:
    assert glance(data) == seen


@given(st.binary(max_size=400), st.sampled_from([b"", HEAD, HEAD + b"\r", HEAD + b"\rMSA", b"FHS|^~\\&\r"]))
def test_nothing_fails_when_the_bytes_are_arbitrary(tail: bytes, head: bytes) -> None:
    data = head + tail
    seen = glance(data)
    assert seen.is_message or not seen.is_answer
    assert all(part in data or b"BTS" in data or b"FHS" in data for part in messages_in(data))


def test_messages_of_a_batch_are_told_apart() -> None:
    one, other = HEAD + b"\rMSA|AA|M1\r", HEAD + b"\rMSA|AA|M2\r"
    assert messages_in(one) == [one]
    assert messages_in(b"\xef\xbb\xbf" + one) == [b"\xef\xbb\xbf" + one]
    assert [part.strip() for part in messages_in(one + other)] == [one.strip(), other.strip()]
    batch = b"FHS|^~\\&|HIS\rBHS|^~\\&|HIS\r" + one + other + b"BTS|2\rFTS|1\r"
    assert [part.strip() for part in messages_in(batch)] == [one.strip(), other.strip()]


def test_stray_answer_is_named_by_what_became_of_its_request() -> None:
    sent = SentIds()
    for number in range(REMEMBERED_IDS + 1):
        sent.add(f"M{number}")
    sent.note_answer("M5")
    assert [sent.stray(name) for name in ("M0", "M1", "M5", "X")] == [
        Stray.FOREIGN,  # so long ago that it is forgotten
        Stray.LATE,
        Stray.DUPLICATE,
        Stray.FOREIGN,
    ]
