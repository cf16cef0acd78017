"""What the HL7 v2 hospital sends unasked: MFN on connecting, then DFT, ORU and SIU as things happen, in order."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import Counter, deque
from decimal import Decimal

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.mllp import END, ER7, START, escape, header, new_control_id, read_frame, segment

ACK_TIMEOUT_S = 10.0
RETRY_S = 0.2
STATUS = {"preliminary": "P", "final": "F", "corrected": "C"}


class Pusher:
    """The hospital's own MLLP client: one connection, one message in flight, the queue survives a lost connection."""

    def __init__(self, hospital: Hospital, charset: str, label: str) -> None:
        self.hospital = hospital
        self.charset = charset
        self.label = label
        self.appointments = False
        self.acks: Counter[str] = Counter()
        self._queue: deque[tuple[str, str]] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connect(self, host: str, port: int) -> None:
        """Start to push, and begin with the master data."""
        self.push(self._departments())
        self.push(self._doctors())
        self._task = asyncio.get_running_loop().create_task(self._run(host, port))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def push(self, message: tuple[str, list[str]]) -> None:
        kind, body = message
        control_id = new_control_id()
        top = self._top(kind, control_id)
        self._queue.append((control_id, "\r".join([top, *body, ""])))
        self._news.set()

    def _top(self, kind: str, control_id: str) -> str:
        return header(kind, control_id, dt.datetime.now(self.hospital.zone), self.label)

    async def notify(self, kind: str, number: str) -> None:
        """The switchboard's hook: something happened at the hospital."""
        makers = {"bill": self._bill, "report": self._report, "stop": self._stop}
        self.push(makers[kind](number))

    def announce(self, trigger: str, appointment: list[str]) -> None:
        """Tell of an appointment by SIU, if the hospital does that."""
        if self.appointments:
            self.push((f"SIU^{trigger}^SIU_S12", appointment))

    async def _run(self, host: str, port: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._pump(reader, writer)
            except (OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            while self._queue:
                control_id, text = self._queue[0]
                writer.write(START + text.encode(self.charset) + END)
                await writer.drain()
                code = await asyncio.wait_for(self._acknowledged(reader, control_id), ACK_TIMEOUT_S)
                self.acks[code] += 1
                if code == "AE":
                    await asyncio.sleep(RETRY_S)
                else:
                    self._queue.popleft()
            self._news.clear()
            await self._news.wait()

    async def _acknowledged(self, reader: asyncio.StreamReader, control_id: str) -> str:
        while True:
            payload = await read_frame(reader)
            if payload is None:
                raise ConnectionError("closed")
            ack = ER7(payload.decode(self.charset))
            if ack.get("MSA", 2) == control_id:
                return ack.get("MSA", 1)

    # --- the messages ------------------------------------------------------------------------------------------------

    def _departments(self) -> tuple[str, list[str]]:
        body = [segment("MFI", f1="LOC^Location^HL70175", f3="REP", f6="NE")]
        for code, name in self.hospital.departments.items():
            body.append(segment("MFE", f1="MAD", f2=new_control_id(), f4=code, f5="PL"))
            body.append(segment("LOC", f1=code, f2=escape(name), f3="C"))
        return "MFN^M05^MFN_M05", body

    def _doctors(self) -> tuple[str, list[str]]:
        body = [segment("MFI", f1="PRA^Practitioner^HL70175", f3="REP", f6="NE")]
        for doctor in self.hospital.doctors.values():
            body.append(segment("MFE", f1="MAD", f2=new_control_id(), f4=doctor.code, f5="CE"))
            dept = f"{doctor.dept}^{escape(self.hospital.departments[doctor.dept])}"
            body.append(
                segment(
                    "STF", f1=doctor.code, f2=doctor.code, f3=escape(doctor.name), f8=dept, f18=escape(doctor.title)
                )
            )
        return "MFN^M02^MFN_M02", body

    def _person(self, mrn: str, **fields: str) -> list[str]:
        person = self.hospital.people.get(mrn)
        name = escape(person.name) if person else ""
        return [segment("PID", f1="1", f3=f"{mrn}^^^SIM^MR", f5=name, **fields), segment("PV1", f1="1", f2="O")]

    def _bill(self, number: str) -> tuple[str, list[str]]:
        charge = self.hospital.charges[number]
        now = self._now()
        body = [segment("EVN", f1="P03", f2=now), *self._person(charge.mrn, f18=charge.no)]
        for count, (name, fen) in enumerate(charge.items, 1):
            price = f"{Decimal(fen) / 100:.2f}&CNY"
            code = f"ITEM{count}^{escape(name)}"
            body.append(
                segment("FT1", f1=str(count), f2=f"{charge.no}-{count}", f4=now, f6="CG", f7=code, f10="1", f11=price)
            )
        return "DFT^P03^DFT_P03", body

    def _report(self, number: str) -> tuple[str, list[str]]:
        report = self.hospital.reports[number]
        issued = f"{report.issued:%Y%m%d%H%M%S%z}" if report.issued else ""
        status = STATUS[report.status]
        name = f"CBC^{escape(report.name)}^L"
        body = self._person(report.mrn)
        body.append(segment("OBR", f1="1", f3=report.no, f4=name, f7=issued, f22=issued, f24="HM", f25=status))
        for count, row in enumerate(report.results, 1):
            body.append(
                segment(
                    "OBX",
                    f1=str(count),
                    f2="NM",
                    f3=f"{row['code']}^{escape(row['name'])}^L",
                    f5=row["value"],
                    f6=escape(row["unit"]),
                    f7=row["range"],
                    f8=row["flag"],
                    f11=status,
                    f14=issued,
                )
            )
        return "ORU^R01^ORU_R01", body

    def _stop(self, number: str) -> tuple[str, list[str]]:
        """A session, or one segment of it, which is named by its time."""
        part = self.hospital.segments.get(number)
        code = f"^^^{escape(number if part is None else part.plan)}^^L"
        body = [segment("SCH", f5=code, f6="STOP^停诊", f16="SIM", f20="SIM", f25="Blocked")]
        if part is not None:
            body.append(segment("TQ1", f1="1", f7=f"{part.start:%Y%m%d%H%M%S%z}", f8=f"{part.end:%Y%m%d%H%M%S%z}"))
        return "SIU^S23^SIU_S12", [*body, segment("RGS", f1="1")]

    def _now(self) -> str:
        return dt.datetime.now(self.hospital.zone).strftime("%Y%m%d%H%M%S%z")
