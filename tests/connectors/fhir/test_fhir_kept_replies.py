"""What was read before is asked for by its ETag, and is not sent again while it is the same."""

from __future__ import annotations

import json

from aiohttp import web

from connectors.fhir import client as client_module
from connectors.fhir.deadlines import Deadline
from tests.connectors.fhir.fhir_hospital import STATEMENT, canned, connected, fhir_json


class Server:
    """One Invoice per id with a version, and its own statement. `answered` are (path, If-None-Match, status)."""

    def __init__(self) -> None:
        self.version = 1
        self.tagged = True
        self.answered: list[tuple[str, str | None, int]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked, etag = request.headers.get("If-None-Match"), f'W/"{self.version}"'
        status = 304 if asked == etag else 200
        self.answered.append((request.path.rpartition("/")[2], asked, status))
        if status == 304:
            return web.Response(status=304, headers={"ETag": etag})
        if request.path.endswith("/metadata"):
            return fhir_json(json.dumps(STATEMENT), ETag=etag)
        body = {"resourceType": "Invoice", "id": "i", "status": "issued", "meta": {"versionId": str(self.version)}}
        return fhir_json(json.dumps(body), ETag=etag) if self.tagged else fhir_json(json.dumps(body))


async def test_resource_is_the_one_of_before_when_the_server_says_that_it_is_the_same() -> None:
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        replies = [await connector._client.read("Invoice/i", deadline=Deadline(5), fresh=True) for _ in range(2)]
        server.version = 2
        replies.append(await connector._client.read("Invoice/i", deadline=Deadline(5), fresh=True))
    assert [(reply.status, reply.body["meta"]["versionId"]) for reply in replies] == [
        (200, "1"),
        (200, "1"),
        (200, "2"),
    ]
    assert [(asked, status) for _, asked, status in server.answered] == [(None, 200), ('W/"1"', 304), ('W/"1"', 200)]


async def test_statement_is_asked_for_by_its_etag_when_it_is_known() -> None:
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        await connector.ping()
        await connector.ping()
    assert server.answered == [("metadata", None, 200), ("metadata", 'W/"1"', 304)]


async def test_nothing_is_kept_when_the_server_gives_no_etag() -> None:
    server = Server()
    server.tagged = False
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        for _ in range(2):
            await connector._client.read("Invoice/i", deadline=Deadline(5))
    assert [asked for _, asked, _ in server.answered] == [None, None]


async def test_what_is_kept_is_bounded_when_many_are_read() -> None:
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        for number in range(client_module._MOST_KEPT + 1):
            await connector._client.read(f"Invoice/i{number}", deadline=Deadline(5))
        await connector._client.read("Invoice/i0", deadline=Deadline(5))
        await connector._client.read(f"Invoice/i{client_module._MOST_KEPT}", deadline=Deadline(5))
    assert [asked for _, asked, _ in server.answered[-2:]] == [None, 'W/"1"']
