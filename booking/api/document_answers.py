"""Documents of reports as answers: whole, in pieces from where they are kept, or as they come from the hospital's own server.

Of what comes in pieces the first one is there before anything is answered, because afterwards nothing can be said any more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from booking.api.problems import ApiProblem
from booking.ports import DocumentGone, Documents, LinkedDocument, LiveFailed
from mappings.canonical import KeptDocument
from monitoring.logs import get_logger

log = get_logger("reports")

ANY_BYTES = "application/octet-stream"
_HEADERS = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}


def whole_document(content_type: str, data: bytes) -> web.Response:
    """One that is in memory."""
    return web.Response(body=data, content_type=safe_type(content_type), headers=_HEADERS)


async def kept_document(
    documents: Documents | None, hospital_id: str, content_type: str, document: KeptDocument, *, expected: bool
) -> web.Response:
    """One that is kept apart. `expected`: that it is not there is a fault. Raises ApiProblem attachment_unknown."""
    try:
        if documents is None:
            raise DocumentGone("no place for documents")
        pieces = documents.read(hospital_id, document)
        first = await anext(pieces, b"")
    except DocumentGone as e:
        if expected:
            log.error("document_gone", hospital=hospital_id, document=document.id)
        raise ApiProblem("attachment_unknown", "The bytes of this attachment are not kept any more.") from e
    return _in_pieces(content_type, document.size_bytes, first, pieces)


async def linked_document(content_type: str, document: LinkedDocument) -> web.Response:
    """One that lies at an address. What the report does not say of its type its server may. Raises LiveFailed."""
    try:
        first = await anext(document.pieces, b"")
    except ConnectionResetError:
        raise LiveFailed("his_unavailable", "The document broke off before it began.") from None
    told = document.content_type if content_type == ANY_BYTES and document.content_type else content_type
    return _in_pieces(told, document.size_bytes, first, document.pieces)


def _in_pieces(content_type: str, size_bytes: int | None, first: bytes, rest: AsyncGenerator[bytes]) -> web.Response:
    size = {} if size_bytes is None else {"Content-Length": str(size_bytes)}
    return web.Response(body=_joined(first, rest), content_type=safe_type(content_type), headers={**_HEADERS, **size})


async def _joined(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):  # whoever reads may go away
        yield first
        async for piece in rest:
            yield piece


def safe_type(content_type: str) -> str:
    """A content type fit for a header; anything odd is plain bytes."""
    kind, slash, rest = content_type.partition("/")
    plain = content_type.isascii() and slash and all(c.isalnum() or c in "+-._" for c in kind + rest)
    return content_type if plain and kind in ("application", "image", "text") else ANY_BYTES
