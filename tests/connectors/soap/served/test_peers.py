"""Clients that nobody here wrote load our WSDL and call us by it: zeep, and the npm package `soap`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import zeep
import zeep.exceptions
from lxml import etree

from mappings.canonical import ScheduleStopped, StopScope
from tests.connectors.node import Program, install

from .his import PLATFORM, Served, document, envelope, served

ORDER = "20260105000000000001"
STOP = f"<MSG_ID>M1</MSG_ID><ORDER_ID>{ORDER}</ORDER_ID><REASON>医生“外出” &amp; &lt;会议&gt;</REASON>"
REASON = "医生“外出” & <会议>"

# Neusoft-style: an operation for each trade, whose arguments are the document.
TYPED = """
name: typed
version: 1
protocol: soap
connection:
  namespace: urn:typed
  server:
    path: /his
    operations: {StopSchedule: [ScheduleId, SeeDate, Pwd], CancelOrder: [OrderNo, Pwd]}
    qualified: false
    result: return
    credentials: {Pwd: password}
    answer:
      form: json
      words: {done: {code: "1"}, refused: {code: "-1"}, unsigned: {code: "-2"}}
      tree: {returnCode: {from: code}, trade: {from: trade, absent: empty}}
inbound:
  StopSchedule:
    - record: ScheduleStopped
      each: /StopSchedule
      fields: {scope: {value: schedule}, schedule_id: {from: ScheduleId}, date: {from: SeeDate, via: date}}
  CancelOrder:
    - record: RegistrationChanged
      each: /CancelOrder
      fields: {registration: {record: Registration, fields: {status: {value: released}, order_no: {from: OrderNo}}}}
"""


class Client(Protocol):
    """One foreign client. `call` gives the answer's text, or raises LookupError with the code of a fault."""

    async def load(self, us: Served) -> list[str]: ...
    async def call(self, operation: str, **given: str) -> str: ...
    async def close(self) -> None: ...


class Zeep:
    """zeep, by the port for SOAP 1.1 or 1.2."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._service: Any = None

    async def load(self, us: Served) -> list[str]:
        client: Any = await asyncio.to_thread(zeep.Client, f"{us.url}?wsdl")
        [service] = client.wsdl.services.values()
        self._service = client.bind(service.name, f"{service.name}{self._port}")
        return sorted(service.ports[f"{service.name}{self._port}"].binding._operations)

    async def call(self, operation: str, **given: str) -> str:
        try:
            return str(await asyncio.to_thread(getattr(self._service, operation), **given))
        except zeep.exceptions.Fault as fault:
            raise LookupError(str(fault.code).rpartition(":")[2]) from None

    async def close(self) -> None: ...


class Npm:
    """The package `soap` on node."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._program = Program(install(Path(__file__).parent / "npm"), "client.mjs")

    async def load(self, us: Served) -> list[str]:
        described = await asyncio.to_thread(self._program.call, "load", wsdl=f"{us.url}?wsdl", version=self._version)
        [ports] = described.values()
        return sorted(next(iter(ports.values())))

    async def call(self, operation: str, **given: str) -> str:
        said = await asyncio.to_thread(self._program.call, "call", operation=operation, given=given)
        if "fault" in said:
            fault = said["fault"]
            raise LookupError(str(fault.get("faultcode") or fault["Code"]["Value"]).rpartition(":")[2])
        return str(next(iter(said["result"].values())))

    async def close(self) -> None:
        await asyncio.to_thread(self._program.end)


MAKERS: dict[str, Callable[[], Client]] = {
    "zeep 1.1": lambda: Zeep("Soap"),
    "zeep 1.2": lambda: Zeep("Soap12"),
    "soap 1.1": lambda: Npm("1.1"),
    "soap 1.2": lambda: Npm("1.2"),
}


@pytest.fixture(params=MAKERS)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    made: Client = await asyncio.to_thread(MAKERS[request.param])
    yield made
    await made.close()


async def test_call_is_taken_and_answered_when_a_foreign_client_calls_by_our_wsdl(
    client: Client, tmp_path: Path
) -> None:
    async with served(tmp_path) as us:
        assert await client.load(us) == ["PubService"]
        answers = [await client.call("PubService", xml=document("5001", STOP)) for _ in range(2)]
        assert [etree.fromstring(one).findtext("RETURN_MSG") for one in answers] == ["交易成功"] * 2
        assert us.desk.events == [ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER, reason=REASON)]
        assert us.desk.asked == 2
        refused = await client.call("PubService", xml=document("5001", STOP, sign="0"))
        assert etree.fromstring(refused).findtext("RETURN_CODE") == "11"
        assert us.desk.asked == 2


async def test_typed_arguments_are_the_document_when_a_foreign_client_has_an_operation_for_each_trade(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "password").write_bytes("口令1".encode())
    async with served(tmp_path, TYPED, secret_files={"password": str(tmp_path / "password")}) as us:
        assert await client.load(us) == ["CancelOrder", "StopSchedule"]
        said = await client.call("StopSchedule", ScheduleId="100||7", SeeDate="2026-01-05", Pwd="口令1")
        assert said == '{"returnCode": "1", "trade": "StopSchedule"}'
        assert (
            await client.call("CancelOrder", OrderNo=ORDER, Pwd="口令1")
            == '{"returnCode": "1", "trade": "CancelOrder"}'
        )
        assert await client.call("CancelOrder", OrderNo=ORDER, Pwd="guess") == '{"returnCode": "-2", "trade": ""}'
        stop, cancel = us.desk.events
        assert isinstance(stop, ScheduleStopped)
        assert (stop.scope, stop.schedule_id, str(stop.date)) == (StopScope.SCHEDULE, "100||7", "2026-01-05")
        assert getattr(cancel, "registration").order_no == ORDER  # noqa: B009 - one of many events


async def test_fault_is_understood_when_a_foreign_client_is_behind_our_wsdl(client: Client, tmp_path: Path) -> None:
    other = PLATFORM.replace("PubService", "OldService")
    async with served(tmp_path / "old", other) as us:
        await client.load(us)
        # The service is another one since the client has read its WSDL.
        us.connector._serving._receiver.spec.operations.pop("OldService")  # type: ignore[union-attr]
        with pytest.raises(LookupError, match=r"^(Client|Sender)$"):
            await client.call("OldService", xml="<ROOT/>")


async def test_address_is_where_the_caller_has_found_us_unless_the_settings_say_another(tmp_path: Path) -> None:
    async with served(tmp_path) as us, us.session.get(f"{us.url}?WSDL") as response:
        assert f'location="{us.url}"' in await response.text()
    public = "https://bridge.example/his?a=1&b=2"
    async with served(tmp_path, public_url=public) as us, us.session.get(f"{us.url}?wsdl") as response:
        text = await response.text()
        assert text.count('location="https://bridge.example/his?a=1&amp;b=2"') == 2
    host = {"Host": 'x"><evil'}
    async with served(tmp_path) as us, us.session.get(f"{us.url}?wsdl", headers=host) as response:
        assert "evil" not in await response.text()


async def test_rpc_style_caller_is_understood_when_its_argument_has_types_and_no_namespace(tmp_path: Path) -> None:
    """Axis 1 writes so, whatever the WSDL says."""
    typed = (
        '<xml xmlns="" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="xsd:string" '
        f'xmlns:xsd="http://www.w3.org/2001/XMLSchema"><![CDATA[{document("5001", STOP)}]]></xml>'
    )
    async with served(tmp_path) as us:
        assert (await us.post(envelope(typed).encode())).code == "0"
