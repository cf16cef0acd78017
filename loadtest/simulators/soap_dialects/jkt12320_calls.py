"""What the simulated 12320 hospital calls at the other side: 5001 when a schedule is stopped, moved or given to another doctor,
5004 when a patient has come, 7001 for a new bill or report.

A call is repeated, the same to the byte, until it is answered RETURN_CODE 0; each has a number of its own (`MSG_ID`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from xml.sax.saxutils import escape

import aiohttp
from lxml import etree

from loadtest.simulators.hospital import Hospital, Plan
from loadtest.simulators.soap_dialects.jkt12320_money import bill_row
from loadtest.simulators.soap_dialects.jkt12320_reports import report_head
from loadtest.simulators.soap_dialects.jkt12320_rows import SESSIONS, listed
from loadtest.simulators.soap_dialects.jkt12320_seal import Keys, SignatureWrong, read_reply, signed_call
from loadtest.simulators.soap_dialects.speaking import ENVELOPE, CallFailed, Reply, Unreadable, read_envelope

_NAMESPACE = "http://tempuri.org"


class Calls:
    """Calls one address; what is answered with another code, or not at all, is tried `attempts` times, `pause_s` apart."""

    def __init__(self, hospital: Hospital, url: str, *, attempts: int = 5, pause_s: float = 0.5) -> None:
        self.hospital, self.url = hospital, url
        self.keys = Keys()
        self._attempts, self._pause_s = attempts, pause_s
        self._numbers = itertools.count(1)

    async def notify(self, kind: str, number: str) -> None:
        """Tell of a stop, an arrival, a bill or a report. Raises CallFailed."""
        match kind:
            case "stop" | "move" | "substitute" if number in self.hospital.segments:
                await self._call("5001", self._segment_stopped(number))
            case "stop" | "move" | "substitute":
                await self._call("5001", self._stopped(number))
            case "attend" if (
                self.hospital.visits[number].attended == "arrived"
            ):  # for those who did not come there is no call
                visit = self.hospital.visits[number]
                await self._call("5004", [("ORDER_ID", visit.key), ("HOSP_SERIAL_NUM", visit.queue_no)])
            case "bill":
                await self._call("7001", listed("BILL", [bill_row(self.hospital.charges[number])]))
            case "report":
                report = self.hospital.reports[number]
                await self._call("7001", listed("REPORT", [[*report_head(report), ("HOSP_PATIENT_ID", report.mrn)]]))

    def _stopped(self, code: str) -> Reply:
        plan = self.hospital.plans[code]
        return [
            ("STOP_TYPE", "1"),
            ("REG_ID", plan.code),
            ("REG_DATE", plan.day.isoformat()),
            ("TIME_FLAG", SESSIONS[plan.session]),
            ("STOP_REASON", "医生停诊"),
            *self._instead(plan),
        ]

    def _segment_stopped(self, code: str) -> Reply:
        segment = self.hospital.segments[code]
        plan = self.hospital.plans[segment.plan]
        said: Reply = [
            ("STOP_TYPE", "2"),
            ("REG_ID", plan.code),
            ("REG_DATE", plan.day.isoformat()),
            ("TIME_FLAG", SESSIONS[plan.session]),
            ("BEGIN_TIME", f"{segment.start:%H:%M}"),
            ("END_TIME", f"{segment.end:%H:%M}"),
        ]
        if segment.moved_to:
            new = self.hospital.segments[segment.moved_to]
            said += [
                ("NEW_REG_ID", new.plan),
                ("NEW_REG_DATE", new.start.date().isoformat()),
                ("NEW_TIME_FLAG", SESSIONS[self.hospital.plans[new.plan].session]),
                ("NEW_BEGIN_TIME", f"{new.start:%H:%M}"),
            ]
        elif segment.doctor:
            doctor = self.hospital.doctor_of(segment)
            said += [("NEW_DOCTOR_ID", doctor.code), ("NEW_DOCTOR_NAME", doctor.name)]
        return said

    def _instead(self, plan: Plan) -> Reply:
        """改诊 names the session that it takes place in, 替诊 the doctor who holds it."""
        if plan.moved_to:
            new = self.hospital.plans[plan.moved_to]
            return [
                ("NEW_REG_ID", new.code),
                ("NEW_REG_DATE", new.day.isoformat()),
                ("NEW_TIME_FLAG", SESSIONS[new.session]),
            ]
        if plan.was_doctors:
            return [("NEW_DOCTOR_ID", plan.doctor), ("NEW_DOCTOR_NAME", self.hospital.doctors[plan.doctor].name)]
        return []

    async def _call(self, fun_code: str, about: Reply) -> None:
        now = dt.datetime.now(self.hospital.zone)
        head: Reply = [
            ("MSG_ID", f"{now:%Y%m%d%H%M%S}{next(self._numbers):04d}"),
            ("MSG_TIME", f"{now:%Y-%m-%d %H:%M:%S}"),
        ]
        document = signed_call(fun_code, ("REQ", [*head, *about]), self.keys)
        why = ""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(self._pause_s)
            try:
                code, text, _ = await self._answer(document)
            except (aiohttp.ClientError, TimeoutError, Unreadable, SignatureWrong) as error:
                why = type(error).__name__
                continue
            if code == "0":
                return
            why = f"{code} {text}"
        raise CallFailed(f"{fun_code} was answered {why}")

    async def _answer(self, document: str) -> tuple[str, str, str]:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="{ENVELOPE}"><s:Body>'
            f'<PubService xmlns="{_NAMESPACE}"><xml>{escape(document)}</xml></PubService></s:Body></s:Envelope>'
        )
        headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{_NAMESPACE}/PubService"'}
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(self.url, data=body.encode(), headers=headers) as response,
        ):
            element = read_envelope(await response.read())
        if etree.QName(element).localname != "PubServiceResponse" or len(element) != 1:
            raise Unreadable("no answer of PubService")
        return read_reply(element[0].text or "", self.keys)
