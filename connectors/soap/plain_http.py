"""The HTTP bindings that services offer beside SOAP: arguments in the URL or in a form (WSDL 1.1 chapter 4)."""

from __future__ import annotations

from urllib.parse import urlencode

from lxml import etree

from connectors.soap.client import Sent
from connectors.soap.options import Transport
from connectors.soap.xml import XmlError, parse

MAX_URL = 8000
"""Characters: what servers take at most in a request line is between 8 and 16 KB."""


def as_http(transport: Transport, address: str, operation: str, arguments: dict[str, str], encoding: str) -> Sent:
    """The call as GET or as a form. Raises UnicodeEncodeError, and ValueError for a URL that servers would cut."""
    query = urlencode(arguments, encoding=encoding, errors="strict")
    url = f"{address.rstrip('/')}/{operation}"
    if transport is Transport.FORM:
        kind = f"application/x-www-form-urlencoded; charset={encoding}"
        return Sent(method="POST", url=url, body=query.encode("ascii"), headers={"Content-Type": kind})
    url = f"{url}{'&' if '?' in url else '?'}{query}"
    if len(url) > MAX_URL:
        raise ValueError("the request is too long for a URL: use the form transport")
    return Sent(method="GET", url=url)


def unwrapped(text: str, max_chars: int) -> str:
    """The text of an answer: what .NET puts into `<string>`, else the body as it is."""
    if "<string" not in text[:1000]:
        return text
    try:
        root = parse(text, max_chars=max_chars)
    except XmlError:
        return text
    if etree.QName(root).localname != "string":
        return text
    return root.text or ""
