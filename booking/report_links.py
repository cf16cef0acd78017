"""Documents that a report names by an address (images, PDFs at a PACS or a report server): which of them are fetched. Pure.

The address comes in a message or a reply, and is called from within the hospital's network. So only what lies below one of the
addresses in `[hospital.<id>.reports] links` is asked for; what could be read as another address is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from yarl import URL

_UP = re.compile(r"(^|[/\\])\.\.?([/\\]|$)")


def link_of(address: str | None, links: Sequence[str]) -> URL | None:
    """The address as it is asked for; None where it is none, or lies below none of `links`."""
    url = None if address is None else _read(address)
    if url is None:
        return None
    for link in links:
        base = _read(link)
        if base is not None and _server(url) == _server(base) and url.raw_path.startswith(base.raw_path):
            return url
    return None


def _server(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.host, url.port


def _read(address: str) -> URL | None:
    if not address.isprintable():
        return None
    try:
        url = URL(address).with_fragment(None)
        path, again = url.path, URL(url.path, encoded=True).path  # some servers read an escape twice
    except ValueError:
        return None
    if url.scheme not in ("http", "https") or not url.host or url.user is not None or url.password is not None:
        return None
    return None if _UP.search(path) or _UP.search(again) else url


def link_problems(links: Sequence[str]) -> Iterator[str]:
    """What cannot be meant."""
    for link in links:
        url = _read(link)
        if url is None or not url.raw_path.endswith("/") or url.raw_query_string:
            yield "expected addresses that end with a slash, for example http://pacs.hospital/images/"
            return
