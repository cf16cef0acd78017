"""Accept-Encoding (RFC 9110, section 12.5.3), If-None-Match (section 13.1.2) and Prefer (RFC 7240)."""

from __future__ import annotations

import pytest

from booking.api.negotiation import accepts_gzip, etag_matches, read_wait


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip ; q=0.2", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;Q=1", True),
        ("gzip;q=", False),
        ("gzip;q=much", False),
        ("identity", False),
        ("br, deflate", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0, gzip", True),
        ("gzipped", False),
        ("a," * 3_000 + "gzip", False),
    ],
)
def test_gzip_is_chosen_when_the_caller_takes_it(header: str | None, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    ("header", "etag", "matches"),
    [
        (None, '"1"', False),
        ("", '"1"', False),
        ("*", '"1"', True),
        (" * ", 'W/"1"', True),
        ('"1"', '"1"', True),
        ('"2"', '"1"', False),
        # RFC 9110, section 8.8.3.2: the table of weak comparisons
        ('W/"1"', 'W/"1"', True),
        ('W/"1"', 'W/"2"', False),
        ('W/"1"', '"1"', True),
        ('"1"', 'W/"1"', True),
        # the examples of section 13.1.2
        ('"xyzzy"', '"xyzzy"', True),
        ('"xyzzy", "r2d2xxxx", "c3piozzzz"', '"c3piozzzz"', True),
        ('W/"xyzzy", W/"r2d2xxxx", W/"c3piozzzz"', '"r2d2xxxx"', True),
        ('"a,b", "c"', '"a,b"', True),
        ('"a,b", "c"', '"b"', False),
        ('""', '""', True),
        ('"*"', '"1"', False),
        ('"*"', '"*"', True),
        ("1", '"1"', False),
        ('"1', '"1"', False),
        ('w/"1"', '"1"', False),
        ('"2" "1"', '"1"', False),
        ('"1"x', '"1"', False),
        ('"%s", "1"' % ("a" * 3_000), '"1"', False),
    ],
)
def test_tag_matches_when_the_list_names_it(header: str | None, etag: str, matches: bool) -> None:
    assert etag_matches(header, etag) is matches


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=10", 10),
        ("respond-async, wait=10", 10),  # the example of RFC 7240, section 4.3
        ("Wait=10", 10),  # section 2: names are case-insensitive
        ("wait = 10", 10),
        ('wait="10"', 10),  # section 2: a value may be quoted
        ("wait=10; foo=bar, handling=lenient", 10),
        ("wait=3, wait=20", 3),  # section 2: the first one counts
        ("wait=0", 1),
        ("wait=999999999", 86_400),
        ("wait", None),
        ("wait=", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=soon", None),
        ("await=10", None),
        ("x; wait=10", None),  # a parameter of another preference
        ("a," * 2_000 + "wait=10", None),
    ],
)
def test_wait_is_read_when_the_caller_says_how_long(header: str | None, seconds: int | None) -> None:
    assert read_wait(header) == seconds
