"""What was wrong with a request that is not HTTP, told in our words: the parser's own quote what was sent.

The parser (llhttp, by aiohttp) has no codes that aiohttp hands on, only texts. Their beginnings are matched; one that we do not
know, of a later version say, gets `UNKNOWN`, and nothing of it is repeated.
"""

from __future__ import annotations

from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, HttpProcessingError, InvalidURLError, LineTooLong

UNKNOWN = "The head or the framing of the body is not as RFC 9112 has it."
LINE_TOO_LONG = "A line of the head is too long."

_LINES_END = "A line of the head does not end with CR LF."
_CHUNKS = "The chunks of the body are not as RFC 9112, section 7.1 has them."
_LENGTHS = "Content-Length is there twice, or is not a number that we can take."
_NAMES = "A header line has no name before a colon, or a name with a character that names cannot have."

_BEGINNINGS: tuple[tuple[str, str], ...] = (
    ("Received HTTPS traffic", "This port speaks plain HTTP, and TLS came: use http://, or the port of what ends TLS."),
    ("Missing 'Host'", "The header Host is missing."),
    ("Duplicate 'Host'", "The header Host is there twice."),
    ("Duplicate Content-Length", _LENGTHS),
    ("Invalid character in Content-Length", _LENGTHS),
    ("Content-Length overflow", _LENGTHS),
    ("Duplicate '", "A header that may be there once is there twice."),
    ("Too many headers", "There are more headers than the 128 that we take."),
    ("Invalid header value char", "The value of a header has a control character."),
    ("Invalid header", _NAMES),
    ("Unexpected whitespace after header value", "A header goes on in a second line, which RFC 9112 has ended."),
    ("Transfer-Encoding can't be present with Content-Length", "Content-Length and Transfer-Encoding are both there."),
    ("Content-Length can't be present with Transfer-Encoding", "Content-Length and Transfer-Encoding are both there."),
    ("Request has invalid `Transfer-Encoding`", "Transfer-Encoding is not chunked."),
    ("Invalid `Transfer-Encoding`", "Transfer-Encoding is not chunked."),
    ("Pause on PRI", "HTTP/2 came without being asked for: this port speaks HTTP/1.1."),
    ("Missing expected CR after header", _LINES_END),
    ("Missing expected LF after header", _LINES_END),
    ("Expected LF after headers", _LINES_END),
    ("Invalid character in chunk", _CHUNKS),
    ("Missing expected CR after chunk", _CHUNKS),
    ("Expected LF after chunk", _CHUNKS),
    ("Chunk size overflow", _CHUNKS),
)  # fmt: skip

_KINDS: tuple[tuple[type[HttpProcessingError], str], ...] = (
    (LineTooLong, LINE_TOO_LONG),
    (BadHttpMethod, "The request does not begin with an HTTP method in capital letters."),
    (InvalidURLError, "The target of the request line is neither a path nor a URL that we can read."),
    (BadStatusLine, "The request line is not a method, a target and HTTP/1.1, parted by single spaces and ended by CR LF."),
)  # fmt: skip


def told_of(error: BaseException | None) -> str:
    """One sentence, with nothing in it of what was sent."""
    if not isinstance(error, HttpProcessingError):
        return UNKNOWN
    told = (words for beginning, words in _BEGINNINGS if error.message.startswith(beginning))
    of_kind = (words for kind, words in _KINDS if isinstance(error, kind))
    return next(told, None) or next(of_kind, UNKNOWN)
