"""Errors on the wire (RFC 9457) and the table behind them."""

from __future__ import annotations

import asyncio
import io
import json
import re

import msgspec
import pytest

from booking.api.problems import PROBLEMS, ApiProblem, answer_problem, describe_problem, prefers_chinese
from monitoring.logs import GATHER_S, configure_logging
from tests.booking.api.portal import Portal


async def test_problem_has_every_member_when_a_rule_refuses(portal: Portal) -> None:
    status, problem = await portal.post({"slot_id": "sold-out"})
    assert status == 409
    assert re.fullmatch(r"urn:hisbridge:request:[0-9a-f-]{36}", problem.pop("instance"))
    assert problem == {
        "type": "/docs/errors#slot_sold_out",
        "title": "No seat is left in this slot",
        "title_en": "No seat is left in this slot",
        "title_zh": "该号源已约满",
        "status": 409,
        "code": "slot_sold_out",
        "retryable": False,
    }


async def test_title_is_chinese_when_the_caller_prefers_it(portal: Portal) -> None:
    _, problem = await portal.post({"slot_id": "sold-out"}, **{"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert problem["title"] == "该号源已约满"


@pytest.mark.parametrize(
    ("accept_language", "chinese"),
    [
        ("", False),
        ("zh", True),
        ("zh-Hant-TW", True),
        ("en, zh;q=0.9", False),
        ("zh;q=0.2, en;q=0.1", True),
        ("de, *;q=0.5", False),
        ("zh;q=0", False),
        ("zh, en", True),
        ("en, zh", False),
        ("zh;q=banana", False),
    ],
)
def test_language_is_chosen_by_rank_when_several_are_accepted(accept_language: str, chinese: bool) -> None:
    assert prefers_chinese(accept_language) is chinese


async def test_bug_is_answered_without_its_text_and_logged_masked_when_a_handler_fails(
    portal: Portal, capfd: pytest.CaptureFixture[str]
) -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    status, problem = await portal.post({"slot_id": "bug"})
    assert (status, problem["code"], problem["retryable"]) == (500, "internal_error", True)
    assert "张三丰" not in json.dumps(problem, ensure_ascii=False)
    await asyncio.sleep(2 * GATHER_S)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    failed = next(line for line in lines if line["event"] == "request_failed")
    assert problem["instance"].endswith(failed["request_id"])
    assert failed["error"] == "ValueError"
    assert "110101199003071233" not in log.getvalue().decode()
    access = next(line for line in lines if line["event"] == "request")
    assert (access["route"], access["status"], access["code"], access["client"], access["hospital"]) == (
        "/v1/hospitals/{hospital_id}/bookings",
        500,
        "internal_error",
        "portal",
        "hl7-demo",
    )


async def test_domain_error_is_translated_when_the_application_knows_it(portal: Portal) -> None:
    status, problem = await portal.post({"slot_id": "store-down"})
    assert (status, problem["code"]) == (503, "store_unavailable")


def test_table_is_complete_when_read() -> None:
    for problem in PROBLEMS.values():
        assert 400 <= problem.status < 600, problem.code
        assert re.fullmatch(r"[a-z_]+", problem.code)
        for text in (problem.title_en, problem.title_zh, problem.do_en, problem.do_zh):
            assert text.strip(), problem.code
        assert re.search(r"[\u4e00-\u9fff]", problem.title_zh), problem.code
        assert not re.search(r"[\u4e00-\u9fff]", problem.title_en + problem.do_en), problem.code
        if problem.status in (429, 503):
            assert problem.retryable, problem.code


@pytest.mark.parametrize("accept_language", ["", "zh-CN", "en"])
@pytest.mark.parametrize("detail", [None, "", "plain", 'quotes " and \\ and \n and \x7f', "号源已约满"])
def test_ready_made_document_equals_the_encoded_one_when_only_its_holes_are_filled(
    accept_language: str, detail: str | None
) -> None:
    for code in PROBLEMS:
        problem = ApiProblem(code, detail)
        said = describe_problem(problem, request_id="r-1", accept_language=accept_language)
        if not detail:
            said = msgspec.structs.replace(said, detail=None)
        answer = answer_problem(problem, request_id="r-1", accept_language=accept_language)
        assert answer.body == msgspec.json.encode(said)
        assert answer.status == said.status


def test_delay_and_headers_are_in_the_head_when_given() -> None:
    problem = ApiProblem("overloaded", retry_after_s=7, headers={"X-More": "1"})
    lines = answer_problem(problem, request_id="r-1").head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert {"Retry-After: 7", "X-More: 1", "Content-Language: en", "Cache-Control: no-store"} <= set(lines)


def test_unknown_code_is_a_bug_when_raised() -> None:
    with pytest.raises(KeyError):
        ApiProblem("no_such_code")
