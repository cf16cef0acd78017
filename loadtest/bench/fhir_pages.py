"""A FHIR server that has Slots, in pages made beforehand, and their Schedules: what a sync reads. Baselines read the files.

python -m loadtest.bench.fhir_pages <folder>

Serves the files of the folder under /fhir/Slot, linked by `next`, and the Schedules in one page; prints {"port"} when it listens.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

PAGE = 100
FROM, DAYS = dt.date(2026, 1, 5), 50
A_SCHEDULE = 20  # Slots of a Schedule on one day
_ZONE = dt.timezone(dt.timedelta(hours=8))
STATEMENT = {
    "resourceType": "CapabilityStatement", "status": "active", "date": "2026-01-01", "kind": "instance",
    "fhirVersion": "4.0.1", "format": ["application/fhir+json"],
    "rest": [{"mode": "server", "resource": [{"type": of, "interaction": [{"code": "search-type"}]}
                                             for of in ("Schedule", "Slot")]}],
}  # fmt: skip


def write_pages(folder: Path, slots: int) -> int:
    """Write the pages, 0.json and on; how many bytes they have together."""
    folder.mkdir(exist_ok=True)
    size = 0
    for page, start in enumerate(range(0, slots, PAGE)):
        numbers = range(start, min(start + PAGE, slots))
        more = start + PAGE < slots
        link = [{"relation": "next", "url": f"Slot?page={page + 1}"}] if more else []
        data = json.dumps({**_bundle([_slot(number) for number in numbers], total=slots), "link": link}).encode()
        (folder / f"{page}.json").write_bytes(data)
        size += len(data)
    return size


def _bundle(resources: list[dict[str, Any]], *, total: int) -> dict[str, Any]:
    entries = [
        {
            "fullUrl": f"http://his.example/fhir/{one['resourceType']}/{one['id']}",
            "resource": one,
            "search": {"mode": "match"},
        }
        for one in resources
    ]
    return {"resourceType": "Bundle", "type": "searchset", "total": total, "entry": entries}


def _schedule(number: int) -> dict[str, Any]:
    """A doctor's, in a department."""
    actors = [("HealthcareService", f"hs-{number % 20}", "消化内科"), ("Practitioner", f"dr-{number}", "王医生")]
    return {
        "resourceType": "Schedule",
        "id": f"sch-{number}",
        "active": True,
        "actor": [{"reference": f"{kind}/{of}", "display": display} for kind, of, display in actors],
    }


def _slot(number: int) -> dict[str, Any]:
    """As a server tells it: a version, a service, an appointment type."""
    schedule, place = divmod(number, A_SCHEDULE)
    day = FROM + dt.timedelta(days=schedule % DAYS)
    start = dt.datetime.combine(day, dt.time(8), _ZONE) + dt.timedelta(minutes=10 * place)
    return {
        "resourceType": "Slot",
        "id": f"slot-{number}",
        "meta": {"versionId": "1", "lastUpdated": "2026-01-04T12:00:00.000+08:00"},
        "serviceType": [{"coding": [{"system": "http://his.example/services", "code": "57", "display": "门诊"}]}],
        "appointmentType": {"text": "专家号"},
        "schedule": {"reference": f"Schedule/sch-{schedule // DAYS}"},
        "status": "free",
        "start": start.isoformat(),
        "end": (start + dt.timedelta(minutes=10)).isoformat(),
    }


def _schedules(folder: Path) -> bytes:
    """All that the Slots of the pages name, in one Bundle."""
    count = -(-len(list(folder.iterdir())) * PAGE // (A_SCHEDULE * DAYS))
    return json.dumps(_bundle([_schedule(number) for number in range(count)], total=count)).encode()


async def serve(folder: Path) -> None:
    """Listen until the process is ended."""

    async def slots(request: web.Request) -> web.Response:
        data = (folder / f"{int(request.query.get('page', '0'))}.json").read_bytes()
        return web.Response(body=data, content_type="application/fhir+json")

    those = _schedules(folder)

    async def schedules(_request: web.Request) -> web.Response:
        return web.Response(body=those, content_type="application/fhir+json")

    async def statement(_request: web.Request) -> web.Response:
        return web.Response(body=json.dumps(STATEMENT).encode(), content_type="application/fhir+json")

    app = web.Application()
    app.router.add_get("/fhir/Slot", slots)
    app.router.add_get("/fhir/Schedule", schedules)
    app.router.add_get("/fhir/metadata", statement)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
