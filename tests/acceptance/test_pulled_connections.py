"""A connection to the hospital pulled in the middle of each step of a booking: hospital and booking say the same in the end.

Places: before the request's first byte, inside it, after it, inside its answer, after it; torn or closed in turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.installation import Installation, lay_out, postgres_store, run_service, until
from tests.acceptance.scissors import Place, Scissors
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSPITAL = "hl7-demo"
PLACES = list(Place)
LONG_S = 60.0  # two looks back, `his_settle_s`, and a message sent once more, on a busy machine


@asynccontextmanager
async def proxied(folder: Path, store: dict[str, str] | None) -> AsyncIterator[tuple[Installation, Scissors]]:
    """An installation whose HL7 hospital is reached through the proxy."""
    async with lay_out(folder, store=store, seats=20) as site:
        his_port = site.clinics[HOSPITAL].simulator.port
        async with Scissors(his_port).running() as proxy:
            text = site.config.read_text(encoding="utf-8")
            assert text.count(f"port = {his_port}\n") == 1
            site.config.write_text(text.replace(f"port = {his_port}\n", f"port = {proxy.port}\n"), encoding="utf-8")
            async with run_service(site):
                yield site, proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def walked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Installation, Scissors]]:
    folder = tmp_path_factory.mktemp("pulled")
    if request.param == "sqlite":
        async with proxied(folder, None) as both:
            yield both
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        async with postgres_store(server) as store, proxied(folder, store) as both:
            yield both


async def becomes(site: Installation, booking: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    return await site.becomes(HOSPITAL, booking, within_s=LONG_S, **wanted)


async def at_the_hospital(site: Installation, booking: dict[str, Any]) -> list[str]:
    return [visit["state"] for visit in await site.clinics[HOSPITAL].visits(booking["order_no"])]


async def seats(site: Installation) -> tuple[int, int]:
    """Seats left in all, as the hospital counts them and as we show them."""
    items = (await site.portal().get(f"/v1/hospitals/{HOSPITAL}/slots"))["items"]
    simulator = site.clinics[HOSPITAL].simulator
    return sum(part.left for part in simulator.hospital.segments.values()), sum(
        int(slot["remaining"]) for slot in items
    )


async def test_booking_and_hospital_agree_when_the_connection_is_pulled_at_each_place(
    walked: tuple[Installation, Scissors],
) -> None:
    """Locked, registered and cancelled, with the first message of each step pulled."""
    site, proxy = walked
    proxy.cut_next("S01", *PLACES)
    held = [await site.hold(HOSPITAL) for _ in PLACES]
    locked = await asyncio.gather(*(becomes(site, one, his_state="locked", payable=True) for one in held))
    for one in locked:
        assert await at_the_hospital(site, one) == ["locked"]
        place = next(
            place for order_no, trigger, place in proxy.done if (order_no, trigger) == (one["order_no"], "S01")
        )
        proxy.cut(one["order_no"], "S03", place)
    await asyncio.gather(*(site.pay(HOSPITAL, one) for one in locked))
    await asyncio.gather(*(becomes(site, one, state="booked", his_state="registered") for one in locked))
    for one in locked:
        assert await at_the_hospital(site, one) == ["registered"]
    living = [v for v in (await site.clinics[HOSPITAL].state())["visits"] if v["state"] != "released"]
    assert sorted(visit["key"] for visit in living) == sorted(one["order_no"] for one in locked)

    for one, place in zip(locked, PLACES, strict=True):
        proxy.cut(one["order_no"], "S04", place)
    await asyncio.gather(*(site.cancel(HOSPITAL, one) for one in locked))
    over = await asyncio.gather(*(becomes(site, one, state="cancelled", his_state="released") for one in locked))
    for one in over:
        assert await at_the_hospital(site, one) == ["released"]
        assert [(r["status"], r["amount_fen"]) for r in one["refunds"]] == [("refund_due", one["fee_fen"])]

    pulled = Counter((trigger, place) for _, trigger, place in proxy.done)
    assert pulled == {(trigger, place): 1 for trigger in ("S01", "S03", "S04") for place in PLACES}
    await until(lambda: seats(site), lambda found: found[0] == found[1] > 0, what="the same seats on both sides")


async def test_seat_is_given_back_once_when_the_connection_is_pulled_at_its_unlock(
    walked: tuple[Installation, Scissors],
) -> None:
    site, proxy = walked
    held = [await site.hold(HOSPITAL) for _ in PLACES]
    locked = await asyncio.gather(*(becomes(site, one, his_state="locked") for one in held))
    before, _ = await seats(site)
    for one, place in zip(locked, PLACES, strict=True):
        proxy.cut(one["order_no"], "S04", place)
    await asyncio.gather(*(site.cancel(HOSPITAL, one) for one in locked))
    await asyncio.gather(*(becomes(site, one, state="cancelled", his_state="released") for one in locked))
    for one in locked:
        assert await at_the_hospital(site, one) == ["released"]
    left = before + len(PLACES)
    await until(lambda: seats(site), lambda found: found == (left, left), what="every seat on sale again")


async def test_messages_of_one_booking_stay_in_order_when_those_of_others_overtake_them(
    walked: tuple[Installation, Scissors],
) -> None:
    """Two connections. The answer to one lock is long in coming: another booking's lock passes it, its own unlock does not."""
    site, proxy = walked
    patients = [await site.patient(HOSPITAL) for _ in range(2)]
    with proxy.answers_held("S01") as waiting:
        first = await site.hold(HOSPITAL, patient_id=patients[0])
        await waiting()
        await site.cancel(HOSPITAL, first)
        second = await site.hold(HOSPITAL, patient_id=patients[1])
        await becomes(site, second, his_state="locked")
        assert sent(proxy, first) == ["S01"]
    await becomes(site, first, state="cancelled", his_state="released")
    assert sent(proxy, first) == ["S01", "S04"]
    assert await at_the_hospital(site, first) == ["released"]
    assert await at_the_hospital(site, second) == ["locked"]


def sent(proxy: Scissors, booking: dict[str, Any]) -> list[str]:
    """The triggers of what reached the hospital of one booking, without looks back."""
    return [trigger for order_no, trigger in proxy.passed if order_no == booking["order_no"] and trigger != "S25"]
