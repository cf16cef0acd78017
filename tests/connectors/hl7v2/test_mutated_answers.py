"""Whatever bytes a HIS answers with: an outcome, in time, and never one that it did not give."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.hl7v2 import er7
from connectors.hl7v2.client import NoAnswer
from tests.connectors.hl7v2.scripted import FakeHis, ack, make_pool, number_of, request

PIECES = st.sampled_from(
    [
        b"\x0b",
        b"\x1c\r",
        b"\x1c",
        b"\r",
        b"\n",
        b"MSH|^~\\&|",
        b"MSA|AA|",
        b"MSA|AR|@ID@",
        b"@ID@",
        b"FHS|",
        b"BTS|1",
        b"\xff\xfe",
        b"|",
        b"^",
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer with some of its bytes replaced, left out, repeated or put in."""
    data = bytearray(ack("@ID@", body="ERR||PID^1^3|101\r"))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        data[start:stop] = draw(st.one_of(PIECES, st.binary(max_size=6))) * draw(st.integers(1, 3))
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(answers(), min_size=1, max_size=3))
def test_request_ends_and_is_credited_with_nothing_else_when_the_answer_is_mutated(sent: list[bytes]) -> None:
    asyncio.run(_ask(sent))


async def _ask(sent: list[bytes]) -> None:
    async def his(payload: bytes, writer: asyncio.StreamWriter) -> None:
        for data in sent:
            writer.write(data.replace(b"@ID@", number_of(payload).encode()))
            await writer.drain()
        writer.write_eof()

    async with FakeHis(his).listening() as fake:
        pool = make_pool(fake.port, [])
        [result] = await asyncio.gather(pool.request(request("M4711"), 5.0), return_exceptions=True)
        await pool.close()
        if isinstance(result, er7.Message):
            assert result.value("MSA", 2).strip() == "M4711"
        else:
            assert isinstance(result, NoAnswer)
            assert str(result) != "no answer within the time-out"  # the HIS has closed: there is nothing to wait for
