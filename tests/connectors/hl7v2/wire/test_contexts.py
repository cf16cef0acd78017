"""Contexts of TLS from files: what is taken, what is refused, and when a change is seen."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from connectors.tls import BadTLSFiles, TLSContext, client_context, server_context

from .authority import Authority, Pair


def listener(pair: Pair, told: list[bool], ca_file: Path | None = None) -> TLSContext:
    ca = None if ca_file is None else str(ca_file)
    return server_context(str(pair.cert_file), str(pair.key_file), ca, on_renewed=told.append)


async def test_context_stays_when_no_file_has_changed(tmp_path: Path) -> None:
    told: list[bool] = []
    tls = listener(Authority(tmp_path).sign("his"), told)
    assert await tls.current() is await tls.current()
    assert told == []


async def test_context_is_another_when_the_pair_was_renewed(tmp_path: Path) -> None:
    told: list[bool] = []
    authority = Authority(tmp_path)
    tls = listener(authority.sign("his"), told)
    first = await tls.current()
    authority.sign("his")
    assert await tls.current() is not first
    assert told == [True]


async def test_old_context_stays_when_the_new_pair_is_none_and_the_next_good_one_is_taken(tmp_path: Path) -> None:
    told: list[bool] = []
    authority = Authority(tmp_path)
    pair = authority.sign("his")
    tls = listener(pair, told)
    first = await tls.current()
    other = authority.sign("other")
    pair.cert_file.write_bytes(other.cert_file.read_bytes())  # the key is not there yet
    assert await tls.current() is first
    assert await tls.current() is first
    assert told == [False]  # once for each change
    pair.key_file.write_bytes(other.key_file.read_bytes())
    assert await tls.current() is not first
    assert told == [False, True]
    pair.cert_file.unlink()
    assert isinstance(await tls.current(), ssl.SSLContext)
    assert told == [False, True, False]


async def test_neither_side_speaks_anything_older_than_tls_1_2(tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("his")
    for tls in (listener(pair, []), client_context(on_renewed=lambda good: None)):
        assert (await tls.current()).minimum_version is ssl.TLSVersion.TLSv1_2


async def test_certificate_is_asked_for_only_when_there_is_an_authority_for_peers(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("his")
    assert (await listener(pair, []).current()).verify_mode is ssl.CERT_NONE
    assert (await listener(pair, [], authority.ca_file).current()).verify_mode is ssl.CERT_REQUIRED


async def test_client_checks_certificate_and_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = await client_context(ca_file=str(authority.ca_file), on_renewed=lambda good: None).current()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_files_are_refused_by_name_when_there_is_no_context_in_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.sign("his"), authority.sign("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(BadTLSFiles, match=r"his\.pem.*other\.key"):
        listener(Pair(pair.cert_file, other.key_file), [])
    with pytest.raises(BadTLSFiles, match=r"none\.pem.*No such file"):
        listener(Pair(tmp_path / "none.pem", pair.key_file), [])
    with pytest.raises(BadTLSFiles, match=r"authorities .*empty\.pem"):
        listener(pair, [], empty)
    with pytest.raises(BadTLSFiles, match=r"authorities .*empty\.pem"):
        client_context(ca_file=str(empty), on_renewed=lambda good: None)


def test_key_with_a_password_is_refused_and_not_asked_for_at_the_terminal(tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("his")
    key = serialization.load_pem_private_key(pair.key_file.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pair.key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(BadTLSFiles, match=r"his\.key"):
        listener(pair, [])
