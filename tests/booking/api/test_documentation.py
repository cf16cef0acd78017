"""The OpenAPI document and its pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec

from booking.api.problems import PROBLEMS
from tests.booking.api.portal import BOOKINGS, Portal

TEMPLATE = BOOKINGS.replace("hl7-demo", "{hospital_id}")
VOID = {"meta", "br", "link", "img", "hr", "li", "p", "td", "th", "tr", "thead", "tbody"}  # HTML closes these by itself


class Page(HTMLParser):
    """Collects ids and links, and notices tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


async def fetch(portal: Portal, path: str) -> str:
    async with portal.session.get(path, headers={"Authorization": ""}) as response:
        assert response.status == 200
        return await response.text()


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values())) if node else own
    return set().union(*(references(item) for item in node)) if isinstance(node, list) and node else set()


async def test_document_describes_the_operations_when_fetched_without_a_key(portal: Portal) -> None:
    async with portal.session.get("/openapi.json", headers={"Authorization": ""}) as response:
        document = await response.json()
    assert document["openapi"] == "3.1.0"
    post = document["paths"][TEMPLATE]["post"]
    assert post["security"] == [{"apiKey": ["booking"]}]
    assert [(p["name"], p["in"], p["required"]) for p in post["parameters"]] == [
        ("hospital_id", "path", True),
        ("Prefer", "header", False),
        ("Idempotency-Key", "header", True),
    ]
    content = post["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/NewBooking"}
    assert content["example"]["slot_id"] == "s1"
    schema = document["components"]["schemas"]["NewBooking"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["slot_id"]
    codes = post["responses"]["409"]["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]
    assert codes == ["slot_sold_out", "request_in_progress"]
    parameters = {p["name"]: p for p in document["paths"][TEMPLATE]["get"]["parameters"]}
    assert parameters["from"]["required"] is True
    assert parameters["from"]["schema"]["format"] == "date"
    assert parameters["limit"]["schema"]["maximum"] == 100
    assert "BookingQuery" not in document["components"]["schemas"]


async def test_every_reference_leads_somewhere_when_followed(portal: Portal) -> None:
    async with portal.session.get("/openapi.json") as response:
        document = await response.json()
    for reference in references(document):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert node


async def test_api_page_works_offline_when_opened(portal: Portal) -> None:
    html = await fetch(portal, "/docs")
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in html
    assert not re.search(r"(src|href)=.https?:", html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    local = [link[1:] for link in page.links if link.startswith("#")]
    assert set(local) <= set(page.ids)
    assert "Hold a seat" in html
    assert "From GET slots." in html


async def test_error_page_has_every_code_once_when_opened(portal: Portal) -> None:
    page = Page(await fetch(portal, "/docs/errors"))
    assert sorted(page.ids) == sorted(PROBLEMS)


async def test_links_to_codes_lead_somewhere_when_followed(portal: Portal) -> None:
    api, errors = Page(await fetch(portal, "/docs")), Page(await fetch(portal, "/docs/errors"))
    codes = {link.partition("#")[2] for link in api.links if link.startswith("/docs/errors#")}
    assert "slot_sold_out" in codes
    assert codes <= set(errors.ids)


async def test_document_tells_of_limits_and_of_how_long_a_caller_waits(portal: Portal) -> None:
    hold = msgspec.json.decode(await fetch(portal, "/openapi.json"))["paths"][TEMPLATE]["post"]
    assert {"RateLimit", "RateLimit-Policy"} <= set(hold["responses"]["201"]["headers"])
    for status in ("429", "503"):
        assert {"Retry-After", "RateLimit", "RateLimit-Policy"} <= set(hold["responses"][status]["headers"])
    assert "headers" not in hold["responses"]["409"]
    (prefer,) = [p for p in hold["parameters"] if p["name"] == "Prefer"]
    assert (prefer["in"], prefer["required"]) == ("header", False)
