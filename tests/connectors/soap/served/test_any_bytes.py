"""Whatever comes is answered, and nothing that the HIS has not signed is ever handed on."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from connectors.soap.answers import Answer
from connectors.soap.receiver import Receiver
from mappings.canonical import ScheduleStopped, StopScope

from .his import Desk, call, document, envelope, made, sealed

ORDER = "20260105000000000001"
GOOD = call("5001", f"<ORDER_ID>{ORDER}</ORDER_ID>")
STOP = ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER)
OTHER = f"<REQ><ORDER_ID>{ORDER[:-1]}9</ORDER_ID></REQ>"
STATUSES = {200, 500, 400}


@pytest.fixture(scope="module")
def receiver() -> Receiver:
    with tempfile.TemporaryDirectory() as folder:
        connector = made(Path(folder))
    assert connector._serving is not None
    return connector._serving._receiver


def answered(receiver: Receiver, body: bytes, charset: str | None = None) -> tuple[Answer, Desk]:
    desk = Desk()
    receiver.handler = desk.handle
    return asyncio.run(receiver.answer(body, charset, "127.0.0.1:1")), desk


def is_envelope(answer: Answer) -> bool:
    return etree.QName(etree.fromstring(answer.body)).localname == "Envelope"


@given(body=st.binary(max_size=300), charset=st.sampled_from([None, "utf-8", "gbk", "utf-16", "nonsense", "zlib"]))
@example(body=b"<", charset=None)
@example(body="\ufeff".encode(), charset="utf-8")
def test_bytes_are_answered_when_they_are_anything(receiver: Receiver, body: bytes, charset: str | None) -> None:
    answer, desk = answered(receiver, body, charset)
    assert answer.status in STATUSES
    assert is_envelope(answer)
    assert desk.asked == 0


@given(text=st.text(max_size=200))
def test_argument_is_answered_when_it_is_any_text(receiver: Receiver, text: str) -> None:
    element = etree.Element("xml")
    try:
        element.text = text
    except ValueError:  # XML cannot carry it
        return
    answer, desk = answered(receiver, envelope(etree.tostring(element, encoding="unicode")).encode())
    assert (answer.status, is_envelope(answer), desk.asked) == (200, True, 0)


@given(
    at=st.integers(0, len(GOOD)), cut=st.integers(0, 40), put=st.one_of(st.binary(max_size=20), st.sampled_from(
        [b"&lt;FUN_CODE&gt;5002&lt;/FUN_CODE&gt;", OTHER.encode(), b"&lt;!--", b"]]&gt;", b"&lt;ROOT&gt;", b"<xml/>", b"&amp;"]
    )),
)  # fmt: skip
def test_only_what_was_signed_is_told_when_a_good_call_is_changed(
    receiver: Receiver, at: int, cut: int, put: bytes
) -> None:
    answer, desk = answered(receiver, GOOD[:at] + put + GOOD[at + cut :])
    assert answer.status in STATUSES
    assert is_envelope(answer)
    assert desk.events in ([], [STOP])
    assert [inbound.message_type for inbound in desk.taken] in ([], ["5001"])


@given(inside=st.sampled_from(["ROOT", "FUN_CODE", "USER_ID", "SIGN", "REQ_ENCRYPTED", "NEW"]), first=st.booleans())
def test_only_what_was_signed_is_told_when_elements_are_added(receiver: Receiver, inside: str, first: bool) -> None:
    """What is added is what an attacker would have us read: another trade, another payload."""
    root = etree.fromstring(document("5001", f"<ORDER_ID>{ORDER}</ORDER_ID>"))
    for extra in (
        OTHER,
        f"<{inside}>5002</{inside}>",
        f"<{inside}>{sealed(OTHER)}</{inside}>",
        f"<{inside}>{OTHER}</{inside}>",
    ):
        for parent in root.iter():
            changed = etree.fromstring(etree.tostring(root))
            place = changed if parent is root else changed.find(str(parent.tag))
            assert place is not None
            place.insert(0 if first else len(place), etree.fromstring(extra))
            text = etree.tostring(changed, encoding="unicode")
            answer, desk = answered(receiver, envelope(f"<xml><![CDATA[{text}]]></xml>").encode())
            assert desk.events in ([], [STOP]), text
            assert answer.status == 200


def test_good_call_is_told_when_nothing_is_changed(receiver: Receiver) -> None:
    answer, desk = answered(receiver, GOOD)
    assert (answer.status, desk.events) == (200, [STOP])
