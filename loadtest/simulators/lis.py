"""A laboratory system that pushes its reports as HL7 v2.5.1 ORU^R01 over MLLP and waits for each acknowledgement.

    lis = LabSystem("127.0.0.1", 2575, sender="SOAP-DEMO")
    await lis.push(report, person)       # raises PushFailed when no positive acknowledgement came
    await lis.push_arrival(visit, person)  # SIU^S14, of a hospital whose desks and laboratory have one interface

One connection per report: a lab interface that is idle most of the day is better served so.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

from loadtest.simulators.hospital import LabReport, Person, Visit
from loadtest.simulators.mllp import END, ER7, START, escape, header, new_control_id, read_frame, segment

_STATUS = {"preliminary": "P", "final": "F", "corrected": "C"}
_CAME = {"arrived": "Started", "seen": "Complete", "missed": "Noshow"}  # table 0278


class PushFailed(Exception):
    """The receiver was not there, did not answer in time, or did not accept the report."""


class LabSystem:
    """Pushes reports to one MLLP listener; a refused connection is tried `attempts` times, `pause_s` apart."""

    def __init__(
        self, host: str, port: int, *, sender: str, attempts: int = 5, pause_s: float = 0.5, timeout_s: float = 10.0
    ) -> None:
        self._host, self._port, self._sender = host, port, sender
        self._attempts, self._pause_s, self._timeout_s = attempts, pause_s, timeout_s

    async def push(self, report: LabReport, person: Person) -> str:
        """Send one report and return its control id once it was acknowledged with AA or CA."""
        control_id = new_control_id()
        return await self._deliver(control_id, oru_r01(report, person, sender=self._sender, control_id=control_id))

    async def push_arrival(self, visit: Visit, person: Person) -> str:
        """Say who came, or did not; as `push`."""
        control_id = new_control_id()
        return await self._deliver(control_id, siu_s14(visit, person, sender=self._sender, control_id=control_id))

    async def _deliver(self, control_id: str, message: str) -> str:
        for attempt in range(self._attempts):
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._exchange(message.encode("utf-8"))
                break
            except ConnectionRefusedError as error:
                if attempt + 1 == self._attempts:
                    raise PushFailed("connection refused") from error
                await asyncio.sleep(self._pause_s)
            except (OSError, TimeoutError) as error:
                raise PushFailed(type(error).__name__) from error
        code, about = answer.get("MSA", 1), answer.get("MSA", 2)
        if code not in ("AA", "CA") or about != control_id:
            raise PushFailed(f"answered {code or 'without an MSA segment'} to {about or 'nothing'}")
        return control_id

    async def _exchange(self, message: bytes) -> ER7:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(START + message + END)
            await writer.drain()
            answer = await read_frame(reader)
            if answer is None:
                raise PushFailed("the receiver hung up without an answer")
            return ER7(answer.decode("utf-8"))
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # the peer may have hung up first
                await writer.wait_closed()


def siu_s14(visit: Visit, person: Person, *, sender: str, control_id: str) -> str:
    """An appointment whose status has changed (HL7 v2.5.1 chapter 10), segments ended by CR, to be sent as UTF-8."""
    segments = [
        header("SIU^S14^SIU_S12", control_id, dt.datetime.now(dt.UTC), "UNICODE UTF-8", sender),
        segment(
            "SCH", f1=escape(visit.key), f2=visit.no, f6="ROUTINE", f16="HIS", f20="HIS", f25=_CAME[visit.attended]
        ),
        segment("PID", f1="1", f3=f"{escape(person.mrn)}^^^HIS^MR", f5=escape(person.name)),
        segment("RGS", f1="1"),
    ]
    return "".join(part + "\r" for part in segments)


def oru_r01(report: LabReport, person: Person, *, sender: str, control_id: str) -> str:
    """The message of one report (HL7 v2.5.1 chapter 7), segments ended by CR, to be sent as UTF-8 (table 0211)."""
    issued = report.issued or dt.datetime.now(dt.UTC)
    at, status = issued.strftime("%Y%m%d%H%M%S%z"), _STATUS.get(report.status, "F")
    segments = [
        header("ORU^R01^ORU_R01", control_id, dt.datetime.now(issued.tzinfo), "UNICODE UTF-8", sender),
        segment("PID", f1="1", f3=f"{escape(person.mrn)}^^^HIS^MR", f5=escape(person.name)),
        segment(
            "OBR",
            f1="1",
            f3=f"{report.no}^LIS",
            f4=f"CBC^{escape(report.name)}^L",
            f7=at,
            f22=at,
            f24="LAB",
            f25=status,
        ),
    ]
    for n, r in enumerate(report.results, 1):
        code = f"{escape(r['code'])}^{escape(r['name'])}^L"
        segments.append(
            segment(
                "OBX",
                f1=str(n),
                f2="NM",
                f3=code,
                f5=escape(r["value"]),
                f6=escape(r["unit"]),
                f7=escape(r["range"]),
                f8=r["flag"],
                f11=status,
                f14=at,
            )
        )
    return "".join(part + "\r" for part in segments)
