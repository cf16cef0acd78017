"""`$bulk-publish`, read as a harvester of SMART Scheduling Links reads a static host: by the manifest, conditionally."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from booking.api.fhir import bulk_publish
from booking.settings import Campus, Hospital
from booking.store.engine import Store
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import DAY, hold, make_hospital, make_schedule, put_patient, put_slot
from tests.stores import Wall

PUBLIC = "/fhir/R4/hospitals/h1/$bulk-publish"
DAY_FILE = f"{PUBLIC}/slots-{DAY}.ndjson"


class Harvester:
    """Has no key; keeps what it got, and asks again only whether it has changed."""

    def __init__(self, site: FhirSite) -> None:
        self.site = site
        self.kept: dict[str, Told] = {}
        self.unchanged: list[str] = []

    async def fetch(self, url: str) -> Told:
        path = urlsplit(url).path
        known = self.kept.get(path)
        headers = {"If-None-Match": known.headers["ETag"]} if known else {}
        told = await self.site.ask(path, by=None, headers=headers)
        if told.status == 304:
            assert known is not None
            self.unchanged.append(path)
            return known
        assert told.status == 200, told.body
        self.kept[path] = told
        return told

    async def harvest(self) -> dict[str, dict[str, dict[str, Any]]]:
        """All resources by type and id; every reference in them is resolved."""
        manifest = (await self.fetch(PUBLIC)).json
        assert set(manifest) == {"transactionTime", "request", "output", "error"}
        assert urlsplit(manifest["request"]).path == PUBLIC
        found: dict[str, dict[str, dict[str, Any]]] = {"Location": {}, "Schedule": {}, "Slot": {}}
        for output in manifest["output"]:
            told = await self.fetch(output["url"])
            assert told.headers["Content-Type"] == "application/fhir+ndjson"
            for line in told.body.splitlines():
                resource = msgspec.json.decode(line)
                assert resource["resourceType"] == output["type"]
                assert resource["id"] not in found[output["type"]]
                found[output["type"]][resource["id"]] = resource
        for slot in found["Slot"].values():
            schedule = found["Schedule"][slot["schedule"]["reference"].removeprefix("Schedule/")]
            [actor] = schedule["actor"]
            assert actor["reference"].removeprefix("Location/") in found["Location"]
        return found


@pytest.fixture
def hospital() -> Hospital:
    """One that publishes, with two sites."""
    campuses = (
        Campus(
            id="main",
            name="本部",
            address="幸福路1号",
            city="北京市",
            state="北京",
            postal_code="100000",
            phone="010-1",
        ),
        Campus(id="east", name="东院"),
    )
    return make_hospital(publish_slots="public", campuses=campuses)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are made anew whenever something has changed."""
    monkeypatch.setattr(bulk_publish, "AGAIN_AFTER_S", 0.0)


async def test_everything_is_found_when_the_manifest_is_followed(site: FhirSite) -> None:
    slot_id = (await put_slot(site.store, 3)).replace("_", "-")
    await put_slot(site.store, 0, schedule=make_schedule("S2", practitioner_id=None), slot_id="2")
    await site.parts.feed.catch_up(10)
    found = await Harvester(site).harvest()
    assert set(found["Location"]) == {"main", "east"}
    main = found["Location"]["main"]
    assert (main["name"], main["telecom"][0]) == ("本部", {"system": "phone", "value": "010-1"})
    assert main["address"] == {"line": ["幸福路1号"], "city": "北京市", "state": "北京", "postalCode": "100000"}
    assert len(found["Schedule"]) == 2
    assert sorted(slot["status"] for slot in found["Slot"].values()) == ["busy", "free"]
    free = found["Slot"][slot_id]
    assert free["extension"][0]["valueInteger"] == 3
    assert free["start"] == "2031-03-04T08:00:00+08:00"


async def test_only_what_has_changed_is_sent_when_it_is_harvested_again(site: FhirSite, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(site.store, 1), await put_patient(site.store)
    await site.parts.feed.catch_up(10)
    harvester = Harvester(site)
    await harvester.harvest()
    await harvester.harvest()
    assert DAY_FILE in harvester.unchanged
    assert f"{PUBLIC}/locations.ndjson" in harvester.unchanged
    assert f"{PUBLIC}/schedules.ndjson" in harvester.unchanged
    harvester.unchanged.clear()
    await hold(site.store, hospital, slot_id, patient_id)
    await site.parts.feed.catch_up(10)
    found = await harvester.harvest()
    assert [slot["status"] for slot in found["Slot"].values()] == ["busy"]
    assert DAY_FILE not in harvester.unchanged
    assert f"{PUBLIC}/schedules.ndjson" in harvester.unchanged


async def test_slot_is_busy_when_the_clock_alone_has_passed_it(site: FhirSite, wall: Wall) -> None:
    await put_slot(site.store)
    await site.parts.feed.catch_up(10)
    harvester = Harvester(site)
    [slot] = (await harvester.harvest())["Slot"].values()
    assert slot["status"] == "free"
    wall.turn(30 * 3600)  # 06:00 of the day before -> noon
    await site.parts.feed.catch_up(10)
    [slot] = (await harvester.harvest())["Slot"].values()
    assert slot["status"] == "busy"


async def test_file_is_cacheable_and_packed_as_http_says(site: FhirSite) -> None:
    await put_slot(site.store)
    await site.parts.feed.catch_up(10)
    for accept in ("application/fhir+ndjson", "*/*", "text/html"):
        told = await site.ask(DAY_FILE, by=None, headers={"Accept": accept})
        assert told.headers["Content-Type"] == "application/fhir+ndjson"
    assert told.headers["Cache-Control"] == "max-age=60"
    modified = told.headers["Last-Modified"]
    since = await site.ask(DAY_FILE, by=None, headers={"If-Modified-Since": modified})
    assert (since.status, since.body) == (304, b"")
    before = await site.ask(DAY_FILE, by=None, headers={"If-Modified-Since": "Mon, 03 Mar 1980 00:00:00 GMT"})
    assert before.status == 200
    nonsense = await site.ask(DAY_FILE, by=None, headers={"If-Modified-Since": "yesterday"})
    assert nonsense.status == 200
    async with site.session.get(DAY_FILE, headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert await packed.read() == told.body
    plain = await site.ask(DAY_FILE, by=None, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.body == told.body
    head = await site.ask(DAY_FILE, "HEAD", by=None)
    assert (head.status, head.headers["ETag"]) == (200, told.headers["ETag"])


@pytest.mark.parametrize(
    ("setting", "by", "status"),
    [("public", None, 200), ("key", None, 401), ("key", "portal", 200), ("key", "reader", 403), ("off", "portal", 404)],
)
async def test_key_is_needed_as_the_hospital_is_configured(
    store: Store, setting: str, by: str | None, status: int
) -> None:
    async with serve_fhir(store, make_hospital(publish_slots=setting)) as site:
        assert (await site.ask(PUBLIC, by=by)).status == status
        assert (await site.ask(f"{PUBLIC}/locations.ndjson", by=by)).status == status
        if by == "portal" and setting == "key":
            assert (await site.ask("$bulk-publish", by=by)).status == 200


@pytest.mark.parametrize("name", ["slots-2031-03-99.ndjson", "slots-1999-01-01.ndjson", "../../etc/passwd", "x", "%00"])
async def test_nothing_is_there_when_the_manifest_does_not_name_it(site: FhirSite, name: str) -> None:
    assert (await site.ask(f"{PUBLIC}/{name}", by=None)).status in (404, 401)


async def test_hospital_itself_is_the_location_when_it_names_no_campus(store: Store) -> None:
    await put_slot(store)
    async with serve_fhir(store, make_hospital(publish_slots="public")) as site:
        found = await Harvester(site).harvest()
    assert found["Location"]["h1"]["name"] == "一院"
    assert len(found["Slot"]) == 1


async def test_file_is_made_once_when_many_ask(site: FhirSite, monkeypatch: pytest.MonkeyPatch) -> None:
    await put_slot(site.store)
    await site.parts.feed.catch_up(10)
    monkeypatch.setattr(bulk_publish, "AGAIN_AFTER_S", 60.0)
    first = await site.ask(DAY_FILE, by=None)
    await put_slot(site.store, schedule=make_schedule("S2"), slot_id="2")
    await site.parts.feed.catch_up(10)
    assert (await site.ask(DAY_FILE, by=None)).body == first.body  # at most so often
    monkeypatch.setattr(bulk_publish, "AGAIN_AFTER_S", 0.0)
    assert len((await site.ask(DAY_FILE, by=None)).body.splitlines()) == 2
