"""W3C Trace Context, level 1: the cases of sections 3.2 and 3.3, and those of its test suite that concern what is read."""

from __future__ import annotations

import asyncio

import pytest

from monitoring.trace_context import TraceContext, here, nobodys, read_context, read_traceparent

TRACE, SPAN = "12345678901234567890123456789012", "1234567890123456"
GOOD = f"00-{TRACE}-{SPAN}-01"
STATE_CHARACTERS = "".join(chr(n) for n in range(0x20, 0x7F) if chr(n) not in ",=")
KEY_CHARACTERS = "".join(chr(n) for n in range(ord("a"), ord("z") + 1)) + "0123456789_-*/"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),  # level 2's random flag: unknown flags are ignored
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a later version: what we know of it
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
        (f" \t {GOOD} \t", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),  # the recommendation's own
    ],
)
def test_traceparent_is_taken_up_when_it_is_well_formed(value: str, sampled: bool) -> None:
    context = read_context([value])
    assert context is not None
    assert (context.trace_id, context.span_id) == tuple(value.strip().split("-")[1:3])
    assert context.sampled is sampled


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01.",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has four fields
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like",
        f".0-{TRACE}-{SPAN}-01",
        f"0.-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-.{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}3-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-.{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN}7-01",
        f"00-{TRACE}-{SPAN[:-1]}-01",
        f"00-{TRACE}-{SPAN}-.0",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",  # upper case is not allowed
        f"00-{TRACE}-{SPAN}-0A",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{'１' * 32}-{SPAN}-01",  # digits, and not of ASCII
    ],
)
def test_traceparent_is_ignored_when_it_breaks_a_rule(value: str) -> None:
    assert read_context([value], ["foo=1"]) is None


def test_traceparent_is_ignored_when_there_are_two_or_none() -> None:
    assert read_context([GOOD, f"00-{TRACE[:-1]}1-{SPAN}-01"]) is None
    assert read_context([], ["foo=1"]) is None


@pytest.mark.parametrize("number", ["110101199003070038", "13800001111"])
def test_id_is_ignored_when_it_is_a_number_of_a_patient_filled_up(number: str) -> None:
    """No generator of random ids makes one; and it would stand in every log line and on the collector's disk."""
    assert read_context([f"00-{number:0>32}-{SPAN}-01"]) is None
    if len(number) <= 16:
        assert read_context([f"00-{TRACE}-{number:0>16}-01"]) is None


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([], ""),
        ([""], ""),
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["\t foo=1 \t"], "foo=1"),
        ([f"{KEY_CHARACTERS}={STATE_CHARACTERS[1:]}"], f"{KEY_CHARACTERS}={STATE_CHARACTERS[1:]}"),
        (
            [f"{KEY_CHARACTERS}@a-z0-9_-*/={STATE_CHARACTERS[1:]}"],
            f"{KEY_CHARACTERS}@a-z0-9_-*/={STATE_CHARACTERS[1:]}",
        ),
        ([f"{'z' * 256}=1"], f"{'z' * 256}=1"),
        ([f"{'t' * 241}@{'v' * 14}=1"], f"{'t' * 241}@{'v' * 14}=1"),
        ([",".join(f"bar{n:02}=1" for n in range(32))], ",".join(f"bar{n:02}=1" for n in range(32))),
        ([",".join(f"bar{n:02}=1" for n in range(33))], ""),
        (["foo =1"], ""),
        (["FOO=1"], ""),
        (["foo.bar=1"], ""),
        (["foo@=1,bar=2"], ""),
        (["@foo=1,bar=2"], ""),
        (["foo@@bar=1,bar=2"], ""),
        (["foo@bar@baz=1,bar=2"], ""),
        (["foo=1", f"{'z' * 257}=1"], ""),
        (["foo=1", f"{'t' * 242}@v=1"], ""),
        (["foo=1", f"t@{'v' * 15}=1"], ""),
        (["foo=bar=baz"], ""),
        (["foo=,bar=3"], ""),
        (["foo=1,bar"], ""),
        ([f"foo={'v' * 256}"], f"foo={'v' * 256}"),
        ([f"foo={'v' * 257}"], ""),
        (["foo=é"], ""),
    ],
)
def test_tracestate_is_passed_on_when_it_keeps_the_rules(values: list[str], kept: str) -> None:
    context = read_context([f"00-{TRACE}-{SPAN}-00"], values)
    assert context is not None
    assert context.state == kept


def test_tracestate_loses_its_last_members_when_it_is_longer_than_must_be_passed_on() -> None:
    """512 characters of a combined header are to be passed on (section 3.3.1.5): 5 members of 100 and 4 commas are 504."""
    members = [f"v{n}=".ljust(100, "x") for n in range(32)]
    context = read_context([GOOD], [",".join(members[:20]), ",".join(members[20:])])
    assert context is not None
    assert context.state == ",".join(members[:5])


@pytest.mark.parametrize("sampled", [True, False])
def test_context_survives_when_it_is_stored_and_read(sampled: bool) -> None:
    context = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled)
    assert read_traceparent(context.traceparent) == context
    assert len(context.traceparent) == 55
    assert read_traceparent(None) is None


async def test_task_works_for_nobody_when_it_outlives_what_began_it() -> None:
    async def look() -> TraceContext | None:
        return here.get()

    token = here.set(TraceContext(TRACE, SPAN, True))
    try:
        assert await asyncio.create_task(look(), context=nobodys()) is None
        assert await asyncio.create_task(look()) == TraceContext(TRACE, SPAN, True)
    finally:
        here.reset(token)
