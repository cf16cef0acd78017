"""Heads rendered by us."""

from __future__ import annotations

import pytest

from booking.api.wire import make_ready


def test_head_is_the_status_line_and_the_fields_when_made() -> None:
    ready = make_ready(b"{}", status=201, headers={"Content-Type": "application/json", "ETag": '"1"'})
    assert ready.head == (
        b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nETag: "1"\r\nContent-Length: 2\r\n'
    )
    assert (ready.status, ready.body) == (201, b"{}")


@pytest.mark.parametrize("status", [204, 304])
def test_length_and_body_are_left_out_when_the_status_has_none(status: int) -> None:
    ready = make_ready(b"{}", status=status, headers={})
    assert b"Content-Length" not in ready.head
    assert ready.body == b""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nSet-Cookie: b"),
        ("X", "a\nb"),
        ("X", "a\0b"),
        ("X", "\x7f"),
        ("X\r\nY", "a"),
        ("X:", "a"),
        ("X Y", "a"),
        ("", "a"),
    ],
)
def test_field_is_refused_and_not_repeated_when_it_would_break_the_head(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="control character") as raised:
        make_ready(headers={name: value})
    assert "Set-Cookie" not in str(raised.value)


def test_status_is_refused_when_http_has_none_like_it() -> None:
    with pytest.raises(ValueError, match="799"):
        make_ready(status=799, headers={})
