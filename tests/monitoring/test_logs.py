"""One JSON line an event, whoever logs, and no patient data in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from lxml import etree

from monitoring.logs import configure_logging, get_logger

ID_NUMBER = "110101199003071233"
PHONE = "13812345678"


class Person(msgspec.Struct):
    name: str


class Log:
    def __init__(self) -> None:
        self.stream = io.BytesIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue().decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """Logging configured into memory, and the process's logging put back afterwards."""
    root = logging.getLogger()
    structlog_before = structlog.get_config()
    before = (list(root.handlers), root.level, sys.excepthook, threading.excepthook)
    log = Log()
    configure_logging("info", stream=log.stream)
    yield log
    root.handlers[:], level, sys.excepthook, threading.excepthook = before
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.configure(**structlog_before)


def test_event_is_one_json_line_when_logged(log: Log) -> None:
    get_logger("booking.holds").info("hold_accepted", hospital="hl7-demo", order_no="20260105000000012345", seats=3)
    (event,) = log.events
    assert event["event"] == "hold_accepted"
    assert event["level"] == "info"
    assert event["logger"] == "booking.holds"
    assert (event["hospital"], event["order_no"], event["seats"]) == ("hl7-demo", "20260105000000012345", 3)
    assert event["at"].endswith("Z")


def test_nothing_is_written_when_below_the_level(log: Log) -> None:
    get_logger("x").debug("too_fine")
    assert log.text == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "张三丰"},
        {"patient": {"anything": "三丰"}},
        {"note": {"deep": [{"name": "张三丰"}]}},
        {"raw": "MSH|三丰"},
        {"body": "三丰".encode()},
        {"who": Person("张三丰")},
        {"error": ValueError("name='张三丰'")},
        {"address": "三丰路 1"},
    ],
)
def test_patient_is_hidden_when_logged_by_any_key(log: Log, fields: dict[str, Any]) -> None:
    get_logger("x").info("seen", **fields)
    assert "三丰" not in log.text
    assert len(log.events) == 1


@pytest.mark.parametrize(
    "value", [PHONE, f"tel {PHONE}", int(PHONE), [PHONE], {PHONE: 1}, ID_NUMBER, {"a": {"b": ID_NUMBER}}]
)
def test_number_of_a_person_is_hidden_when_under_a_harmless_key(log: Log, value: Any) -> None:
    get_logger("x").info("seen", note=value)
    assert PHONE not in log.text
    assert ID_NUMBER not in log.text


def test_exception_text_is_masked_when_logged_with_its_cause(log: Log) -> None:
    try:
        try:
            raise ValueError(f"no such person {ID_NUMBER}")
        except ValueError as cause:
            raise RuntimeError(f"called {PHONE}") from cause
    except RuntimeError:
        get_logger("x").exception("failed")
    (event,) = log.events
    assert event["error"] == "RuntimeError"
    assert "ValueError" in event["exception"]
    assert "138****5678" in event["exception"]
    assert ID_NUMBER not in log.text
    assert PHONE not in log.text


def test_text_of_a_parser_error_is_hidden_when_it_quotes_a_message(log: Log) -> None:
    document = "<a><张三丰></a>"
    with pytest.raises(etree.XMLSyntaxError, match="三丰") as caught:
        etree.fromstring(document)
    get_logger("x").error("unreadable", exc_info=caught.value, reason=caught.value)
    assert "三丰" not in log.text
    assert log.events[0]["error"] == "XMLSyntaxError"


def test_library_is_masked_and_structured_when_it_uses_the_standard_module(log: Log) -> None:
    logging.getLogger("some.library").error("for %s failed", PHONE, exc_info=ValueError(ID_NUMBER))
    (event,) = log.events
    assert event["event"] == "for 138****5678 failed"
    assert (event["logger"], event["level"], event["error"]) == ("some.library", "error", "ValueError")
    assert ID_NUMBER not in log.text


async def test_asyncio_error_is_masked_when_a_callback_fails(log: Log) -> None:
    def fail() -> None:
        raise ValueError(ID_NUMBER)

    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0.01)
    (event,) = log.events
    assert (event["logger"], event["error"]) == ("asyncio", "ValueError")
    assert ID_NUMBER not in log.text


def test_uncaught_error_is_one_masked_line_when_a_thread_dies(log: Log) -> None:
    def fail() -> None:
        raise ValueError(ID_NUMBER)

    # pytest puts its own hook in for each test; ours is called as the interpreter would.
    configure_logging(stream=log.stream)
    hook = threading.excepthook
    try:
        fail()
    except ValueError as error:
        hook(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))
    (event,) = log.events
    assert (event["event"], event["level"]) == ("uncaught_exception", "critical")
    assert ID_NUMBER not in log.text


def test_string_is_cut_when_very_long(log: Log) -> None:
    get_logger("x").info("long", note="a" * 100_000)
    assert len(log.text) < 3_000


def test_bytes_are_counted_not_shown_when_logged(log: Log) -> None:
    get_logger("x").info("got", frame=b"secret")
    assert log.events[0]["frame"] == "<6 bytes>"


def test_patient_is_hidden_when_logging_was_never_configured() -> None:
    code = "from monitoring.logs import get_logger; get_logger('x').info('seen', name='\\u5f20\\u4e09\\u4e30')"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=root)
    assert json.loads(done.stderr)["name"] == "张**"
    assert done.stdout == b""
