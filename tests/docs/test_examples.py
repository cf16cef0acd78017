"""The bodies that the documentation sends with curl are such as the program takes."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from booking.api.codec import decode_body
from booking.api.parts import ApiParts
from booking.api.patient_records import patient_record
from booking.api.router import Router
from booking.api.routes import api_routes
from booking.api.routing import Route
from booking.api.views.patients import NewPatient
from booking.settings import Service
from tests.booking.api.catalogue_site import NoHis
from tests.booking.world import make_hospital
from tests.stores import opened

ROOT = Path(__file__).parents[2]
SENT = {"README": 4, "docs/api-guide": 3, "docs/patients": 3}
"""How many bodies stand on each page, in either language."""
_SHELL = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CALL = re.compile(r"\$API(/[^\s'\"]*)\s+(?:\\\n\s*)?-d '(\{.*?\})'", re.DOTALL)


def sent(page: str) -> Iterator[tuple[str, bytes]]:
    """(path, body) of every POST of a page to one hospital."""
    for block in _SHELL.findall((ROOT / page).read_text(encoding="utf-8")):
        for path, body in _CALL.findall(block):
            yield "/v1/hospitals/soap-demo" + re.sub(r"\$\w+", "x", path), body.encode()


@pytest.mark.parametrize("language", ["", ".zh-CN"])
async def test_bodies_of_the_pages_are_taken_when_they_are_sent(tmp_path: Path, language: str) -> None:
    hospital, router = make_hospital(), Router[Route]()
    async with opened(f"sqlite:///{tmp_path}/empty.db") as store:
        for route in api_routes(ApiParts(store, {hospital.id: hospital}, NoHis(), Service()).context):
            router.add(route.method, route.path, route)
    for page, count in SENT.items():
        found = list(sent(f"{page}{language}.md"))
        assert len(found) == count, page
        for path, data in found:
            at = router.find("POST", path)
            decoder = at.endpoint.decoder if at.endpoint is not None else None
            assert decoder is not None, path
            body = decode_body(data, decoder)
            if isinstance(body, NewPatient):
                assert patient_record(body, hospital.patients, dt.date(2026, 1, 5)).name == body.name
