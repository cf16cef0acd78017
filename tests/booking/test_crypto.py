"""Sealed values: they open only where they were put, unaltered, under a key that we have."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from booking.store.crypto import SealBroken, Vault

PLACE = "persons.record.h1"
KEY = bytes(range(32))
VAULT = Vault({"k1": KEY}, b"d" * 32)


def test_value_comes_back_when_it_is_opened_where_it_was_sealed() -> None:
    for plain in (b"", "张伟".encode(), b"x" * 100_000):
        assert VAULT.open(VAULT.seal(plain, PLACE), PLACE) == plain


def test_layout_is_the_documented_one_when_another_reader_opens_it() -> None:
    sealed = VAULT.seal("张伟".encode(), PLACE)
    assert sealed[:4] == b"\x01\x02k1"
    assert AESGCM(KEY).decrypt(sealed[4:16], sealed[16:], PLACE.encode()) == "张伟".encode()


@pytest.mark.parametrize("size", [262_143, 262_144, 262_145, 1_000_000])
def test_layout_is_the_documented_one_when_a_value_is_large(size: int) -> None:
    plain = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sealed = VAULT.seal(plain, PLACE)
    assert AESGCM(KEY).decrypt(sealed[4:16], sealed[16:], PLACE.encode()) == plain
    assert VAULT.open(sealed, PLACE) == plain
    for place in (20, size // 2, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(SealBroken):
            VAULT.open(bytes(altered), PLACE)


def test_same_value_is_sealed_differently_when_it_is_sealed_again() -> None:
    sealed = {VAULT.seal(b"same", PLACE) for _ in range(50)}
    assert len(sealed) == 50
    assert len({s[4:16] for s in sealed}) == 50  # a nonce is never reused


@pytest.mark.parametrize("place", ["persons.record.h2", "bills.record.h1", "persons.other.h1", ""])
def test_value_does_not_open_when_it_was_moved(place: str) -> None:
    with pytest.raises(SealBroken):
        VAULT.open(VAULT.seal(b"secret", PLACE), place)


def test_value_does_not_open_when_any_bit_was_altered() -> None:
    sealed = VAULT.seal(b"secret", PLACE)
    for position in range(len(sealed)):
        for bit in (1, 128):
            altered = bytearray(sealed)
            altered[position] ^= bit
            with pytest.raises(SealBroken):
                VAULT.open(bytes(altered), PLACE)


def test_value_does_not_open_when_it_was_cut() -> None:
    sealed = VAULT.seal(b"secret", PLACE)
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            VAULT.open(sealed[:length], PLACE)


def test_value_does_not_open_when_its_key_is_foreign() -> None:
    with pytest.raises(SealBroken, match="not among the data keys"):
        VAULT.open(Vault({"k2": KEY}, b"d" * 32).seal(b"secret", PLACE), PLACE)
    with pytest.raises(SealBroken, match="altered or belongs elsewhere"):
        VAULT.open(Vault({"k1": b"\x07" * 32}, b"d" * 32).seal(b"secret", PLACE), PLACE)


def test_old_values_open_and_new_ones_use_the_first_key_when_keys_are_rotated() -> None:
    rotated = Vault({"k2": b"\x02" * 32, "k1": KEY}, b"d" * 32)
    assert rotated.open(VAULT.seal(b"old", PLACE), PLACE) == b"old"
    assert rotated.seal(b"new", PLACE)[2:4] == b"k2"


@pytest.mark.parametrize(
    ("keys", "digest_key"), [({}, b"d" * 32), ({"k": b"short"}, b"d" * 32), ({"k": KEY}, b"d" * 31)]
)
def test_vault_is_refused_when_a_key_is_missing_or_short(keys: dict[str, bytes], digest_key: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        Vault(keys, digest_key)


def test_digest_is_for_one_kind_and_hospital_and_key_when_values_are_searched() -> None:
    digest = VAULT.digest("identity", "h1", "id_card:110101199003070038")
    assert digest == VAULT.digest("identity", "h1", "id_card:110101199003070038")
    others = {
        VAULT.digest("mrn", "h1", "id_card:110101199003070038"),
        VAULT.digest("identity", "h2", "id_card:110101199003070038"),
        Vault({"k1": KEY}, b"e" * 32).digest("identity", "h1", "id_card:110101199003070038"),
    }
    assert digest not in others
    assert len(others) == 3


def test_keys_are_not_shown_when_the_vault_is_printed() -> None:
    assert repr(VAULT) == "Vault(keys=['k1'])"
