"""A hospital that speaks HL7 v2.5.1 over MLLP: answers our requests, and pushes master data, bills, reports and stops.

    python -m loadtest.simulators.hl7 --port 0 --control-port 0 --push-host 127.0.0.1 --push-port 2575

SRM^S01 locks a seat (SCH-25 Pending; with `direct` it books it: Booked), S03 registers it with the payment in ZPY, S04
releases it, SQM^S25 lists openings or, with ARQ-1, one appointment. ADT^A28, QBP^Q22 and DFT^P03 (PY) do what they say.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import signal
import socket
from collections.abc import Callable
from decimal import Decimal

from aiohttp import web

from loadtest.simulators.control import Fault, Switchboard, serve_control
from loadtest.simulators.door import Door
from loadtest.simulators.hl7_push import Pusher
from loadtest.simulators.hospital import Hospital, Refusal, Segment, Visit
from loadtest.simulators.mllp import END, ER7, START, escape, header, new_control_id, read_frame, segment
from loadtest.simulators.size import add_size_arguments, size_of

LET_GO_S = 0.01
LABELS = {"utf-8": "UNICODE UTF-8", "gb18030": "GB 18030-2000", "gbk": "GBK"}


def amount(fen: int) -> str:
    return f"{Decimal(fen) / 100:.2f}&CNY"


class Dropped(Exception):
    """The connection is to be closed without a reply."""


class HL7Simulator:
    """One running simulator. `port`, `control_port`, `board` and `hospital` are for tests."""

    def __init__(
        self, hospital: Hospital, *, charset: str = "utf-8", direct: bool = False, latency_ms: float = 0.0
    ) -> None:
        self.hospital = hospital
        self.board = Switchboard(hospital, latency_ms=latency_ms)
        self.charset = charset
        self.direct = direct
        self.port = 0
        self.control_port = 0
        self.connections = 0
        self.pusher = self._make_pusher()
        self.board.notify = self._notify
        self._writers: set[asyncio.StreamWriter] = set()
        self._door = Door(self._listen, lambda: [writer.transport for writer in self._writers])
        self.board.door = self._door
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _make_pusher(self) -> Pusher:
        return Pusher(self.hospital, self.charset, LABELS[self.charset])

    async def _notify(self, kind: str, number: str) -> None:
        """The switchboard's hook: appointments are told one by one, whether or not the hospital announces what we change."""
        match kind:
            case "attend":
                visit = self.hospital.visits[number]
                self._tell("S26" if visit.attended == "missed" else "S14", [visit])
            case "move" if number in self.hospital.segments:
                self._tell("S13", self.hospital.visits_in(self.hospital.segments[number].moved_to))
            case "move":
                self._tell("S13", self.hospital.visits_of(self.hospital.plans[number].moved_to))
                await self.pusher.notify("stop", number)
            case "substitute" if number in self.hospital.segments:
                self._tell("S14", self.hospital.visits_in(number))
            case "substitute":
                self._tell("S14", self.hospital.visits_of(number))
            case _:
                await self.pusher.notify(kind, number)

    def _tell(self, trigger: str, visits: list[Visit]) -> None:
        for visit in visits:
            self.pusher.push((f"SIU^{trigger}^SIU_S12", self._appointment(visit)))

    async def open(self, host: str, port: int, control_port: int) -> None:
        await self._door.open(host, port)
        self.port = self._door.address[1]
        self._runner, self.control_port = await serve_control(self.board, host, control_port)

    async def close(self) -> None:
        await self.pusher.close()
        self._door.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _listen(self, place: socket.socket) -> asyncio.Server:
        return await asyncio.start_server(self._connected, sock=place)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._spawn(self._serve(reader, writer))

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (payload := await read_frame(reader)) is not None:
                if self.board.hanging:
                    # Calls whose caller has hung up go first: it may be the same one that asks again.
                    await asyncio.sleep(LET_GO_S)
                self.board.running += 1
                self.board.most_at_once = max(self.board.most_at_once, self.board.running)
                writer.write(self._received(payload))
                try:
                    await self.board.take_time()
                    reply = await self._reply(payload, reader)
                finally:
                    self.board.running -= 1
                writer.write(reply)
                await writer.drain()
        except (Dropped, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _received(self, payload: bytes) -> bytes:
        """What goes out as soon as a message is there, before anything is done: nothing, in original mode."""
        return b""

    async def _reply(self, payload: bytes, reader: asyncio.StreamReader) -> bytes:
        message = ER7(payload.decode(self.charset))
        op, act = self._operation(message)
        fault = await self.board.fault(op)
        if fault is None:
            return self._frame(self._done(message, act))
        if fault.mode == "hang":
            await self.board.hang(reader.read())
            raise Dropped
        return await self._faulty(message, op, act, fault)

    async def _faulty(self, message: ER7, op: str, act: Callable[[], list[str]], fault: Fault) -> bytes:
        match fault.mode:
            case "refuse":
                return self._frame(self._refused(message, "FULL" if op in ("lock_slot", "book") else "REFUSED"))
            case "down":
                raise Dropped
            case "lose_reply":
                self._done(message, act)
                raise Dropped
            case "late_commit":
                self._spawn(self._later(message, act, fault.delay_s))
                raise Dropped
            case "already_exists":
                self._done(message, act)
                return self._frame(self._refused(message, "EXISTS"))
            case "slow":
                await asyncio.sleep(fault.delay_s)
            case "fault":
                return self._frame(self._refused(message, "", "207"))
            case "html":
                return START + b"<html><body><h1>503 Service Unavailable</h1></body></html>" + END
            case "garbage":
                return b"\x00\xff\xfegarbage" + START + b"\x81\x82 no message" + END
            case "list_booked":
                return self._frame(self._done(message, lambda: [*act(), *self._booked(message)]))
            case "gbk":
                return START + self._done(message, act).encode("gb18030") + END
        return self._frame(self._done(message, act))

    async def _later(self, message: ER7, act: Callable[[], list[str]], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._done(message, act)

    def _frame(self, text: str) -> bytes:
        return START + text.encode(self.charset) + END

    # --- answers -----------------------------------------------------------------------------------------------------

    def _done(self, message: ER7, act: Callable[[], list[str]]) -> str:
        try:
            body = act()
        except Refusal as refusal:
            return self._refused(message, refusal.code.upper())
        return self._answer(message, "AA", body)

    def _refused(self, message: ER7, code: str, hl7_code: str = "207") -> str:
        # ERR-5 is the hospital's own code; ERR-3 only says "application error", which is all that table 0357 has.
        error = segment("ERR", f3=f"{hl7_code}^Application internal error^HL70357", f4="E", f5=code)
        return self._answer(message, "AE", [error])

    def _answer(self, message: ER7, code: str, body: list[str]) -> str:
        asked = message.get("MSH", 9)
        trigger = message.get("MSH", 9, 2)
        kind = {"SRM": f"SRR^{trigger}^SRR_S01", "SQM": "SQR^S25^SQR_S25", "QBP": "RSP^K22^RSP_K21"}.get(
            asked, f"ACK^{trigger}^ACK"
        )
        now = dt.datetime.now(self.hospital.zone)
        top = header(kind, new_control_id(), now, LABELS[self.charset])
        return "\r".join([top, segment("MSA", f1=code, f2=message.get("MSH", 10)), *body, ""])

    def _operation(self, message: ER7) -> tuple[str, Callable[[], list[str]]]:
        kind = f"{message.get('MSH', 9)}^{message.get('MSH', 9, 2)}"
        match kind:
            case "SRM^S01":
                return ("book" if self.direct else "lock_slot"), lambda: self._take(message)
            case "SRM^S03":
                return "register", lambda: self._pay(message)
            case "SRM^S04":
                visit = self._find(message)
                paid = visit is not None and (self.direct or visit.state == "registered")
                return ("cancel_registration" if paid else "unlock_slot"), lambda: self._release(message)
            case "SQM^S25" if message.has("ARQ"):
                return "fetch_registration", lambda: self._look_up(message)
            case "SQM^S25":
                op = "fetch_slots" if message.get("QRF", 1) == "SLOT" else "fetch_schedules"
                return op, lambda: self._openings(message)
            case "QBP^Q22":
                return "find_patient", lambda: self._find_people(message)
            case "ADT^A28":
                return "create_patient", lambda: self._create_person(message)
            case "DFT^P03" if message.get("FT1", 6) == "CD":
                return "refund", lambda: self._give_back(message)
            case "DFT^P03":
                return "settle_bill", lambda: self._settle(message)
        return "unknown", self._not_understood

    def _not_understood(self) -> list[str]:
        raise Refusal("unsupported", "no such message here")

    # --- appointments ------------------------------------------------------------------------------------------------

    def _find(self, message: ER7) -> Visit | None:
        visits = self.hospital.visits
        return visits.get(message.get("ARQ", 2)) or self.hospital.visit_by_key(message.get("ARQ", 1))

    def _visit(self, message: ER7) -> Visit:
        visit = self._find(message)
        if visit is None:
            raise Refusal("unknown", "no such order")
        return visit

    def _take(self, message: ER7) -> list[str]:
        visit = self.hospital.take(message.get("ARQ", 1), message.get("PID", 3), message.get("ARQ", 5))
        return self._appointment(visit)

    def _pay(self, message: ER7) -> list[str]:
        visit = self._visit(message)
        paid_fen = int(Decimal(message.get("ZPY", 3) or "0") * 100)
        self.hospital.pay(visit.no, paid_fen, message.get("ZPY", 2))
        return self._announced(visit, "S12")

    def _release(self, message: ER7) -> list[str]:
        visit = self.hospital.release(self._visit(message).no)
        return self._announced(visit, "S15")

    def _announced(self, visit: Visit, trigger: str) -> list[str]:
        self.pusher.announce(trigger, self._appointment(visit))
        return self._appointment(visit)

    def _look_up(self, message: ER7) -> list[str]:
        visit = self._find(message)
        found = [] if visit is None else self._appointment(visit)
        return [segment("QAK", f1=message.get("QRD", 4), f2="OK" if found else "NF"), *found]

    def _appointment(self, visit: Visit) -> list[str]:
        status = {"locked": "Booked" if self.direct else "Pending", "registered": "Booked", "released": "Cancelled"}
        came = {"arrived": "Started", "seen": "Complete", "missed": "Noshow"}
        part = self.hospital.segments[visit.segment]
        person = self.hospital.people[visit.mrn]
        return [
            *self._schedule(part, f1=escape(visit.key), f2=visit.no, f25=came.get(visit.attended, status[visit.state])),
            segment("PID", f1="1", f3=f"{visit.mrn}^^^SIM^MR", f5=escape(person.name)),
            *self._resources(part),
            segment("ZAP", f1=visit.queue_no, f2=amount(visit.fee_fen)),
        ]

    def _openings(self, message: ER7) -> list[str]:
        first, last = message.get("QRF", 2)[:8], message.get("QRF", 3)[:8]
        dept = message.get("QRD", 10)
        body = [segment("QAK", f1=message.get("QRD", 4), f2="OK")]
        for part in self.hospital.segments.values():
            plan = self.hospital.plans[part.plan]
            if not first <= f"{plan.day:%Y%m%d}" <= last or dept not in ("ALL", plan.dept):
                continue
            body += self._schedule(part, f25="Blocked" if self.hospital.stops(part) else "")
            body += self._resources(part)
            title = escape(self.hospital.doctors[plan.doctor].title)
            seats, left = str(part.capacity), str(part.left)
            body.append(segment("ZSL", f1=plan.session.upper(), f2=seats, f3=left, f4=amount(plan.fee_fen), f5=title))
        return body

    def _booked(self, message: ER7) -> list[str]:
        """A row for each living appointment of the days asked for: they have a number and no ZSL."""
        first, last = message.get("QRF", 2)[:8], message.get("QRF", 3)[:8]
        living = [visit for visit in self.hospital.visits.values() if visit.state != "released"]
        days = {visit.no: f"{self.hospital.segments[visit.segment].start:%Y%m%d}" for visit in living}
        return [row for visit in living if first <= days[visit.no] <= last for row in self._appointment(visit)]

    def _schedule(self, part: Segment, **fields: str) -> list[str]:
        code = f"{escape(part.code)}^^L^{escape(part.plan)}^^L"
        return [
            segment("SCH", f5=code, f6="ROUTINE", f16="SIM", f20="SIM", **fields),
            segment("TQ1", f1="1", f7=f"{part.start:%Y%m%d%H%M%S%z}", f8=f"{part.end:%Y%m%d%H%M%S%z}"),
        ]

    def _resources(self, part: Segment) -> list[str]:
        plan, doctor = self.hospital.plans[part.plan], self.hospital.doctor_of(part)
        dept = escape(self.hospital.departments[plan.dept])
        return [
            segment("RGS", f1="1"),
            segment("AIP", f1="1", f3=f"{doctor.code}^{escape(doctor.name)}"),
            segment("AIL", f1="1", f3=f"{plan.dept}^^^^^^^^{dept}"),
        ]

    # --- people and money --------------------------------------------------------------------------------------------

    def _find_people(self, message: ER7) -> list[str]:
        wanted = {message.get("QPD", 3, 1, 1, n): message.get("QPD", 3, 2, 1, n) for n in (1, 2, 3)}
        number, name = wanted.get("@PID.3.1", ""), wanted.get("@PID.5.1", "")
        people = self.hospital.find_people(id_number=number, name=name) or self.hospital.find_people(mrn=number)
        query = "|".join(next(s for s in message.segments if s[0] == "QPD"))
        body = [segment("QAK", f1=message.get("QPD", 2), f2="OK" if people else "NF"), query]
        for count, p in enumerate(people, 1):
            ids = f"{p.mrn}^^^SIM^MR~{escape(p.id_number)}^^^CHN^NI"
            name = escape(p.name)
            body.append(segment("PID", f1=str(count), f3=ids, f5=name, f7=p.birth_date, f8=p.sex, f13=escape(p.phone)))
        return body

    def _create_person(self, message: ER7) -> list[str]:
        self.hospital.create_person(
            message.get("PID", 5),
            message.get("PID", 3),
            message.get("PID", 13),
            message.get("PID", 8),
            message.get("PID", 7),
        )
        return []

    def _give_back(self, message: ER7) -> list[str]:
        returned_fen = int(Decimal(message.get("FT1", 11)) * 100)
        self.hospital.give_back(message.get("PID", 18), returned_fen, message.get("FT1", 2), message.get("FT1", 8))
        return []

    def _settle(self, message: ER7) -> list[str]:
        if message.get("FT1", 6) != "PY":
            raise Refusal("state", "only payments are taken")
        paid_fen = int(Decimal(message.get("FT1", 11)) * 100)
        self.hospital.settle(message.get("PID", 18), paid_fen, message.get("FT1", 2))
        return []


async def start(
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
    *,
    push_host: str = "127.0.0.1",
    push_port: int | None = None,
    hospital: Hospital | None = None,
    charset: str = "utf-8",
    direct: bool = False,
    push_appointments: bool = False,
    latency_ms: float = 0.0,
) -> HL7Simulator:
    """Start a simulator in this process. `push_port` is our MLLP listener; `simulator.pusher.connect` sets it later."""
    simulator = HL7Simulator(hospital or Hospital("H"), charset=charset, direct=direct, latency_ms=latency_ms)
    simulator.pusher.appointments = push_appointments
    await simulator.open(host, port, control_port)
    if push_port is not None:
        simulator.pusher.connect(push_host, push_port)
    return simulator


async def main() -> None:
    parser = argparse.ArgumentParser(description="A simulated hospital that speaks HL7 v2 over MLLP")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--push-host", default="127.0.0.1")
    parser.add_argument("--push-port", type=int, default=None, help="the MLLP listener of hisbridge")
    parser.add_argument("--charset", choices=sorted(LABELS), default="utf-8")
    parser.add_argument("--direct", action="store_true", help="S01 books at once instead of locking")
    parser.add_argument("--push-appointments", action="store_true", help="announce what we changed by SIU too")
    add_size_arguments(parser)
    args = parser.parse_args()
    simulator = await start(
        args.host,
        args.port,
        args.control_port,
        push_host=args.push_host,
        push_port=args.push_port,
        hospital=size_of(args).hospital("H"),
        charset=args.charset,
        direct=args.direct,
        push_appointments=args.push_appointments,
        latency_ms=args.latency_ms,
    )
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    print(json.dumps({"ready": True, "port": simulator.port, "control_port": simulator.control_port}), flush=True)
    await stop.wait()
    await simulator.close()


if __name__ == "__main__":
    asyncio.run(main())
