"""Keys, scopes and hospitals."""

from __future__ import annotations

import asyncio

import pytest

from booking.api.auth import PATIENCE_S, ApiClient, Authenticator, digest_api_key, new_api_key
from booking.api.problems import ApiProblem
from tests.booking.api.portal import BOOKINGS, KEY, Keys, Portal

LIST = f"{BOOKINGS}?from=2026-01-05"


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic ZGVtbzpkZW1v", "Bearer wrong", "Bearer café", f"Bearer {'x' * 600}", KEY],
)
async def test_request_is_unauthenticated_when_the_key_is_not_good(portal: Portal, authorization: str) -> None:
    async with portal.session.get(LIST, headers={"Authorization": authorization}) as response:
        problem = await response.json(content_type=None)
        assert (response.status, problem["code"]) == (401, "unauthenticated")
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        assert "wrong" not in str(problem)


async def test_request_is_forbidden_when_the_scope_is_missing(portal: Portal) -> None:
    status, problem = await portal.get(LIST, Authorization="Bearer hb_reader_x")
    assert (status, problem["code"], problem["extra"]) == (403, "forbidden_scope", {"scopes": ["booking"]})


async def test_scheme_is_recognised_when_written_in_small_letters(portal: Portal) -> None:
    status, _ = await portal.get(LIST, Authorization=f"bearer {KEY}")
    assert status == 200


async def test_store_is_asked_once_when_many_requests_come_with_one_key(portal: Portal) -> None:
    results = await asyncio.gather(*(portal.get(LIST) for _ in range(20)))
    assert {status for status, _ in results} == {200}
    assert portal.keys.lookups == 1


async def test_key_stops_working_when_revoked_and_the_time_is_over() -> None:
    now_s = [0.0]
    keys = Keys()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    assert (await authenticator.authenticate(f"Bearer {KEY}")).id == "portal"
    keys.clients.clear()
    now_s[0] = 9.9
    assert (await authenticator.authenticate(f"Bearer {KEY}")).id == "portal"
    now_s[0] = 10.0
    with pytest.raises(ApiProblem, match="unauthenticated"):
        await authenticator.authenticate(f"Bearer {KEY}")


async def test_key_is_asked_for_again_when_forgotten() -> None:
    keys = Keys()
    authenticator = Authenticator(keys)
    await authenticator.authenticate(f"Bearer {KEY}")
    assert authenticator.recall(f"Bearer {KEY}") is not None
    authenticator.forget()
    assert authenticator.recall(f"Bearer {KEY}") is None
    keys.clients.clear()
    with pytest.raises(ApiProblem, match="unauthenticated"):
        await authenticator.authenticate(f"Bearer {KEY}")


async def test_nothing_is_recalled_when_the_key_is_unknown_or_its_time_is_over() -> None:
    now_s = [0.0]
    authenticator = Authenticator(Keys(), ttl_s=10.0, clock=lambda: now_s[0])
    with pytest.raises(ApiProblem):
        await authenticator.authenticate("Bearer guess")
    assert authenticator.recall("Bearer guess") is None
    assert authenticator.recall(None) is None
    await authenticator.authenticate(f"Bearer {KEY}")
    now_s[0] = 10.0
    assert authenticator.recall(f"Bearer {KEY}") is None


async def test_headers_that_are_remembered_stay_bounded_when_one_key_is_spelt_in_many_ways() -> None:
    authenticator = Authenticator(Keys(), size=10)
    for blanks in range(1, 100):
        await authenticator.authenticate(f"Bearer{' ' * blanks}{KEY}")
    assert len(authenticator._by_header) <= 10


async def test_known_keys_stay_cached_when_somebody_guesses() -> None:
    keys = Keys()
    authenticator = Authenticator(keys, size=10)
    await authenticator.authenticate(f"Bearer {KEY}")
    for n in range(100):
        with pytest.raises(ApiProblem):
            await authenticator.authenticate(f"Bearer guess-{n}")
    before = keys.lookups
    await authenticator.authenticate(f"Bearer {KEY}")
    assert keys.lookups == before


async def test_next_request_asks_again_when_the_store_failed() -> None:
    class Flaky(Keys):
        async def lookup(self, digest: str) -> ApiClient | None:
            if self.lookups == 0:
                self.lookups += 1
                raise ConnectionError("store down")
            return await super().lookup(digest)

    authenticator = Authenticator(Flaky())
    with pytest.raises(ConnectionError):
        await authenticator.authenticate(f"Bearer {KEY}")
    assert (await authenticator.authenticate(f"Bearer {KEY}")).id == "portal"


def test_keys_differ_and_carry_their_client_when_made() -> None:
    first, second = new_api_key("portal"), new_api_key("portal")
    assert first.startswith("hb_portal_")
    assert first != second
    assert len(first) >= len("hb_portal_") + 43  # 256 bits in base64url


def test_digest_is_sha256_when_a_key_is_stored() -> None:
    # FIPS 180-4, the example message "abc"
    assert digest_api_key("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class Unsteady(Keys):
    """Keys in a store that can be away."""

    away = False

    async def lookup(self, digest: str) -> ApiClient | None:
        found = await super().lookup(digest)
        if self.away:
            raise ConnectionError("store down")
        return found


async def settle() -> None:
    """Let look-ups beside the requests end: they wait for nothing."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_key_in_use_is_looked_up_again_beside_its_requests() -> None:
    now_s, keys = [0.0], Keys()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    await authenticator.authenticate(f"Bearer {KEY}")
    for now_s[0] in (4.9, 5.0, 9.9, 10.0, 14.9):  # each before its time is over, so that nobody waits
        assert authenticator.recall(f"Bearer {KEY}") is not None
        await settle()
    # At 5.0, from then on at 10.0; the others come within half of the time after the last look.
    assert keys.lookups == 3


async def test_key_stops_working_when_the_look_beside_finds_it_revoked() -> None:
    now_s, keys = [0.0], Keys()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    await authenticator.authenticate(f"Bearer {KEY}")
    keys.clients.clear()
    now_s[0] = 5.0
    assert authenticator.recall(f"Bearer {KEY}") is not None
    await settle()
    assert authenticator.recall(f"Bearer {KEY}") is None
    with pytest.raises(ApiProblem, match="unauthenticated"):
        await authenticator.authenticate(f"Bearer {KEY}")


async def test_known_key_works_on_for_a_minute_when_the_store_is_away(capfd: pytest.CaptureFixture[str]) -> None:
    now_s, keys = [0.0], Unsteady()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    await authenticator.authenticate(f"Bearer {KEY}")
    keys.away = True
    for now_s[0] in (6.0, 11.0, 40.0, 69.9):
        assert (await authenticator.authenticate(f"Bearer {KEY}")).id == "portal"
        await settle()
    assert '"event":"key_not_looked_up"' in capfd.readouterr().err  # somebody may want to know why
    now_s[0] = 72.0  # 10 s, and 60 s, and what the last answer was good for
    with pytest.raises(ConnectionError):
        await authenticator.authenticate(f"Bearer {KEY}")
    keys.away = False
    assert (await authenticator.authenticate(f"Bearer {KEY}")).id == "portal"


async def test_nobody_gets_in_when_the_store_is_away_and_the_key_is_not_known() -> None:
    keys = Unsteady()
    keys.away = True
    with pytest.raises(ConnectionError):
        await Authenticator(keys).authenticate(f"Bearer {KEY}")


async def test_revoked_key_does_not_come_back_when_the_store_goes_away() -> None:
    now_s, keys = [0.0], Unsteady()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    await authenticator.authenticate(f"Bearer {KEY}")
    keys.clients.clear()
    now_s[0] = 10.0
    with pytest.raises(ApiProblem):
        await authenticator.authenticate(f"Bearer {KEY}")
    keys.away, now_s[0] = True, 21.0
    with pytest.raises(ConnectionError):
        await authenticator.authenticate(f"Bearer {KEY}")


class Frozen(Keys):
    """Keys in a store that takes a question and does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.thaws = asyncio.Event()
        self.thaws.set()

    async def lookup(self, digest: str) -> ApiClient | None:
        await self.thaws.wait()
        return await super().lookup(digest)


async def test_known_key_works_on_when_the_store_takes_the_question_and_says_nothing() -> None:
    """A database that is frozen, not gone, answers with a time-out of half a minute: lists from memory must not wait for it."""
    now_s, keys = [0.0], Frozen()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    await authenticator.authenticate(f"Bearer {KEY}")
    keys.thaws.clear()
    now_s[0] = 11.0
    assert (await asyncio.wait_for(authenticator.authenticate(f"Bearer {KEY}"), 10)).id == "portal"
    for now_s[0] in (12.5, 40.0, 69.9):  # nobody waits for that look-up a second time
        assert authenticator.recall(f"Bearer {KEY}") is not None
    now_s[0] = 70.0  # 10 s, and 60 s
    assert authenticator.recall(f"Bearer {KEY}") is None
    waiting = asyncio.create_task(authenticator.authenticate(f"Bearer {KEY}"))
    assert not (await asyncio.wait([waiting], timeout=2 * PATIENCE_S))[0]
    keys.thaws.set()
    assert (await waiting).id == "portal"


async def test_key_stops_working_when_it_was_revoked_while_the_store_said_nothing() -> None:
    now_s, keys = [0.0], Frozen()
    authenticator = Authenticator(keys, ttl_s=10.0, clock=lambda: now_s[0])
    await authenticator.authenticate(f"Bearer {KEY}")
    keys.thaws.clear()
    now_s[0] = 11.0
    assert (await asyncio.wait_for(authenticator.authenticate(f"Bearer {KEY}"), 10)).id == "portal"
    keys.clients.clear()
    keys.thaws.set()
    await settle()
    now_s[0] = 12.0
    authenticator.recall(f"Bearer {KEY}")
    await settle()
    assert authenticator.recall(f"Bearer {KEY}") is None
    with pytest.raises(ApiProblem, match="unauthenticated"):
        await authenticator.authenticate(f"Bearer {KEY}")


async def test_unknown_key_waits_for_the_store_when_it_says_nothing() -> None:
    keys = Frozen()
    keys.thaws.clear()
    waiting = asyncio.create_task(Authenticator(keys).authenticate("Bearer guess"))
    assert not (await asyncio.wait([waiting], timeout=2 * PATIENCE_S))[0]
    keys.thaws.set()
    with pytest.raises(ApiProblem, match="unauthenticated"):
        await waiting
