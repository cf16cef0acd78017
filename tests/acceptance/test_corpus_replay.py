"""Messages that nobody here wrote, over a socket into the running service, and what a portal then reads over HTTP.

INTEROP.md says what is special in these files; every expected value was read from them by hand.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import service
from booking.keys import SCOPE, add_key
from booking.secrets import new_data_key, new_digest_key
from loadtest.simulators.mllp import END, ER7, START, read_frame
from scheduler_sync.messages.store import list_messages
from tests.scheduler_sync.peer import until

AHEAD = dt.timezone(dt.timedelta(hours=2, minutes=15))
KEY = "corpus-portal-key"
DOCUMENTS = {"PATID1234": ("other", "123456789")}  # PID-3 of ADT-A04-01, type SS there

SETTINGS = """
[service]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[store]
url = "sqlite:///{folder}/hisbridge.db"
messages_url = "sqlite:///{folder}/messages.db"
[secrets]
data_key_file = "data.key"
digest_key_file = "digest.key"
[hospital.usd]
name = "Good Health Hospital"
mode = "live"
currency = "USD"
[hospital.usd.connector.main]
protocol = "hl7v2"
profile = "hl7v2"
listen_port = 0
accept_processing_ids = ["P", "T"]
[hospital.cny]
name = "市第一医院"
mode = "live"
[hospital.cny.connector.main]
protocol = "hl7v2"
profile = "hl7v2"
listen_port = 0
"""


class Bridge:
    """The running service, and what a hospital and a portal do with it."""

    def __init__(self, running: service.Service, session: aiohttp.ClientSession) -> None:
        self.running = running
        self._session = session
        host, port = running.addresses["api"]
        self._base = f"http://{host}:{port}/v1/hospitals"

    async def send(self, hospital: str, *messages: bytes) -> list[ER7]:
        """Send messages on one connection, one after the other; every acknowledgement that came back.

        An acknowledgement says that a message is stored: returns once all are applied or set aside, as an operator sees it.
        """
        connector: Any = self.running.links[hospital].connectors["main"]
        reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        for message in messages:
            writer.write(START + message + END)
        await writer.drain()
        writer.write_eof()
        answers = []
        while (payload := await asyncio.wait_for(read_frame(reader), 20)) is not None:
            answers.append(ER7(payload.decode()))
        writer.close()
        await writer.wait_closed()

        async def applied() -> bool:
            return not await list_messages(self.running.messages, hospital, state="received")

        await until(applied)
        return answers

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": str(uuid.uuid4())}
        async with self._session.request(method, self._base + path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def fetch(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and bytes of what is no JSON."""
        async with self._session.get(self._base + path, headers={"Authorization": f"Bearer {KEY}"}) as response:
            return response.status, dict(response.headers), await response.read()

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = await self.ask(method, path, body)
        assert status < 300, answer
        return answer

    async def bind(self, hospital: str, name: str, mrn: str) -> str:
        """A portal binds a patient by the hospital's own number; the patient's id.

        Where the hospital has told of a document, the portal must know it too.
        """
        id_type, id_number = DOCUMENTS.get(mrn, ("passport", f"E{mrn}"))
        body = {
            "user_ref": "u1",
            "name": name,
            "id_type": id_type,
            "id_number": id_number,
            "phone": "13800000000",
            "card": {"type": "mrn", "number": mrn},
        }
        return str((await self.call("POST", f"/{hospital}/patients", body))["id"])


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    (tmp_path / "data.key").write_text(new_data_key())
    (tmp_path / "digest.key").write_text(new_digest_key())
    config = tmp_path / "hisbridge.toml"
    config.write_text(SETTINGS.format(folder=tmp_path.as_posix()), encoding="utf-8")
    running = service.Service(service.read_settings(config))
    await running.start()
    async with running.store.write(SCOPE) as tx:
        await add_key(tx, KEY, client_id="portal", name="portal", scopes=["booking", "patients", "reports", "billing"],
                      hospitals=None)  # fmt: skip
    async with aiohttp.ClientSession() as session:
        yield Bridge(running, session)
    await running.stop()


def read(corpus: Path, name: str) -> bytes:
    return (corpus / "hl7v2" / f"{name}.hl7").read_bytes()


@pytest.mark.parametrize(
    ("last", "status"), [("SIU-S15-01", "released"), ("SIU-S17-01", "entered_in_error"), ("SIU-S26-01", "no_show")]
)
async def test_one_appointment_is_left_when_its_life_is_replayed(
    bridge: Bridge, corpus: Path, last: str, status: str
) -> None:
    names = ["ADT-A04-01", "ADT-A08-01", "SIU-S12-01", "SIU-S13-01", "SIU-S14-01", last]
    acks = await bridge.send("usd", *(read(corpus, n) for n in names))
    # MSH-15 and -16 are empty in these: original mode, one AA each, for the id of each.
    sent = ["MSG00001", "MSG00001", "MSG00012", "MSG00013", "MSG00014", f"MSG000{last[5:7]}"]
    assert [(a.get("MSA", 1), a.get("MSA", 2)) for a in acks] == [("AA", control_id) for control_id in sent]

    patient = await bridge.bind("usd", "ADAM A EVERYMAN", "PATID1234")
    found = (await bridge.call("GET", f"/usd/patients/{patient}/registrations"))["items"]
    assert [(r["status"], r["his_id"]) for r in found] == [(status, "36996")]
    # TQ1-7 and TQ1-8 win over SCH-11.4 (2020-10-01) and SCH-9/10 (60 s): a line of the profile.
    assert dt.datetime.fromisoformat(found[0]["starts_at"]) == dt.datetime(2021, 9, 24, 9, 30, tzinfo=AHEAD)
    assert dt.datetime.fromisoformat(found[0]["ends_at"]) == dt.datetime(2021, 9, 24, 10, 20, tzinfo=AHEAD)


async def test_an_older_word_does_not_bring_an_appointment_back_when_it_comes_late(
    bridge: Bridge, corpus: Path
) -> None:
    names = ["ADT-A04-01", "SIU-S12-01", "SIU-S15-01", "SIU-S13-01"]  # S13 was sent on the 20th, S15 on the 23rd
    await bridge.send("usd", *(read(corpus, n) for n in names))
    patient = await bridge.bind("usd", "ADAM A EVERYMAN", "PATID1234")
    (found,) = (await bridge.call("GET", f"/usd/patients/{patient}/registrations"))["items"]
    assert found["status"] == "released"


async def test_two_patients_become_one_when_adt_a40_arrives(bridge: Bridge, corpus: Path) -> None:
    assert len(await bridge.send("usd", _a28("12345"), _a28("56789"), _oru("56789"))) == 3
    survivor = await bridge.bind("usd", "Test A Test", "12345")
    retired = await bridge.bind("usd", "Test A Test", "56789")
    assert (await bridge.call("GET", f"/usd/patients/{survivor}/reports"))["items"] == []

    assert await bridge.send("usd", read(corpus, "ADT-A40-01")) == []  # MSH-15 and -16 are NE: nothing may come back

    for patient in (survivor, retired):
        reports = (await bridge.call("GET", f"/usd/patients/{patient}/reports"))["items"]
        assert [r["name"] for r in reports] == ["Glucose"]


async def test_reports_have_their_observations_when_orus_arrive(bridge: Bridge, corpus: Path) -> None:
    await bridge.send("usd", _a28("10006579"), _a28("14"))
    (original,) = await bridge.send("usd", read(corpus, "LAB-ORU-1"))  # begins with a byte-order mark
    assert (original.get("MSA", 1), original.get("MSA", 2)) == ("AA", "182")
    (commit,) = await bridge.send("usd", read(corpus, "ORU-R01-01"))  # MSH-15 AL, MSH-16 NE: the commit only
    assert (commit.get("MSA", 1), commit.get("MSA", 2)) == ("CA", "2.16.840.1.114222.4.3.3.5.1.2-20120314235954.325")

    patient = await bridge.bind("usd", "Test A Test", "10006579")
    listed = (await bridge.call("GET", f"/usd/patients/{patient}/reports"))["items"]
    whole = {r["name"]: await bridge.call("GET", f"/usd/patients/{patient}/reports/{r['id']}") for r in listed}
    blood = whole["Hemogram and platelet count, automated"]
    assert blood["status"] == "final"
    assert [o["value"] for o in blood["observations"]] == [None, "4.06", None, "40.1", "221"]
    cells = whole["Differential WBC Count, buffy coat"]
    assert cells["status"] == "unknown"  # no OBR-25: the profile's line says what that means
    assert [o["value"] for o in cells["observations"]] == ["72", "2", "20", "6", "0"]

    other = await bridge.bind("usd", "Test A Test", "14")
    (culture,) = (await bridge.call("GET", f"/usd/patients/{other}/reports"))["items"]
    found = await bridge.call("GET", f"/usd/patients/{other}/reports/{culture['id']}")
    assert [(o["value"], o["flag"]) for o in found["observations"]] == [("Salmonella species", "A")]


async def test_test_messages_are_refused_when_the_site_does_not_list_them(bridge: Bridge, corpus: Path) -> None:
    (refused,) = await bridge.send("cny", read(corpus, "LAB-ORU-1"))  # MSH-11 is T
    assert (refused.get("MSA", 1), refused.get("MSA", 2)) == ("AR", "182")
    assert refused.get("ERR", 3).startswith("202")  # HL7 table 0357: unsupported processing id
    assert await list_messages(bridge.running.messages, "cny") == []


async def test_a_bill_is_taken_or_set_aside_when_its_currency_fits_or_not(bridge: Bridge, corpus: Path) -> None:
    await bridge.send("usd", read(corpus, "ADT-A04-01"))
    await bridge.send("cny", read(corpus, "ADT-A04-01"))
    for hospital in ("usd", "cny"):
        (ack,) = await bridge.send(hospital, read(corpus, "DFT-P03-01"))
        # Set aside or not, the sender's queue must go on: AA.
        assert (ack.get("MSA", 1), ack.get("MSA", 2)) == ("AA", "MSG00001")

    patient = await bridge.bind("usd", "ADAM A EVERYMAN", "PATID1234")
    (bill,) = (await bridge.call("GET", f"/usd/patients/{patient}/bills"))["items"]
    assert (bill["amount_fen"], bill["currency"], bill["status"]) == (22000, "USD", "open")  # 100 and 120 dollars
    assert [i["amount_fen"] for i in bill["items"]] == [10000, 12000]

    patient = await bridge.bind("cny", "ADAM A EVERYMAN", "PATID1234")
    assert (await bridge.call("GET", f"/cny/patients/{patient}/bills"))["items"] == []
    (aside,) = await list_messages(bridge.running.messages, "cny", state="quarantined")
    assert (aside.message_type, aside.control_id) == ("DFT^P03", "MSG00001")
    assert "USD" in (aside.reason or "")


async def test_what_a_hospital_cannot_do_is_said_when_it_only_sends(bridge: Bridge) -> None:
    """Neither hospital here can be asked anything: nothing is emulated."""
    (usd,) = [h for h in (await bridge.call("GET", ""))["items"] if h["id"] == "usd"]
    assert (usd["capabilities"]["fetch_bills"], usd["capabilities"]["lock_slot"]) == ("pushed", "off")
    patient = await bridge.bind("usd", "Test A Test", "1")
    body = {"user_ref": "u1", "slot_id": "sl_1", "patient_id": patient}
    status, problem = await bridge.ask("POST", "/usd/bookings", body)
    assert (status, problem["code"]) == (409, "not_offered_by_hospital")


async def test_a_message_gets_its_first_answer_when_it_is_sent_again(bridge: Bridge, corpus: Path) -> None:
    message = read(corpus, "SIU-S12-01")
    acks = await bridge.send("usd", message, message)
    assert [(a.get("MSA", 1), a.get("MSA", 2)) for a in acks] == [("AA", "MSG00012")] * 2
    assert len(await list_messages(bridge.running.messages, "usd")) == 1


def _a28(mrn: str) -> bytes:
    return (
        f"MSH|^~\\&|HIS|H|HISBRIDGE||20190101120000+0215||ADT^A28^ADT_A05|A28-{mrn}|P|2.5.1\r"
        f"EVN|A28|20190101120000+0215\rPID|1||{mrn}^^^H^MR||Test^Test^A||20180205|F\r"
    ).encode()


def _oru(mrn: str) -> bytes:
    return (
        f"MSH|^~\\&|LIS|H|HISBRIDGE||20190101120000+0215||ORU^R01^ORU_R01|ORU-{mrn}|P|2.5.1\r"
        f"PID|1||{mrn}^^^H^MR||Test^Test^A\r"
        "OBR|1||R1|2345-7^Glucose^LN|||20190101110000+0215|||||||||||||||20190101113000+0215||LAB|F\r"
        "OBX|1|NM|2345-7^Glucose^LN||5.1|mmol/L|3.9-6.1|N|||F\r"
    ).encode()
