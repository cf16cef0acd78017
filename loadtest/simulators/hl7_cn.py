"""A hospital that speaks HL7 v2.4 as it is spoken in China, over MLLP: enhanced mode, GBK, and messages of its own.

    python -m loadtest.simulators.hl7_cn --port 0 --control-port 0 --push-host 127.0.0.1 --push-port 2575

Every message is acknowledged twice: CA as soon as it is there, AA or AE when it has been worked on. SRM^S01 books a seat unpaid
(ARQ-8 = YY) and registers it (GH, with the payment in ZPY), S04 cancels. ZHY^ZRN lists number sources, SQM^ZQ1 tells of one
booking, QRY^Q27 what waits for payment, DFT^P03 (PY) pays it, QBP^ZPI shows the receipt; QBP^Q22 and ADT^A28 are about people.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import signal
from collections.abc import Callable
from decimal import Decimal

from loadtest.simulators.control import Fault
from loadtest.simulators.hl7 import HL7Simulator
from loadtest.simulators.hl7_push import Pusher
from loadtest.simulators.hospital import Charge, Hospital, Refusal, Segment, Visit
from loadtest.simulators.mllp import END, ER7, START, escape, new_control_id, segment
from loadtest.simulators.size import add_size_arguments, size_of

CODES = {
    "full": "Z01", "exists": "Z02", "unknown": "Z03", "stopped": "Z04", "state": "Z05", "several": "Z06", "mismatch": "Z07",
    "refused": "Z09",
}  # fmt: skip
WORDS = {
    "locked": "1^已预约", "registered": "2^已挂号", "released": "9^已取消",
    "arrived": "3^已取号", "seen": "4^已就诊", "missed": "5^爽约",
}  # fmt: skip
SESSIONS = {"am": "1^上午", "pm": "2^下午"}


def yuan(fen: int) -> str:
    return f"{Decimal(fen) / 100:.2f}"


def top(kind: str, control_id: str, now: dt.datetime, *, asks: str = "AL") -> str:
    """MSH of v2.4: `asks` is what MSH-15 and MSH-16 say."""
    return f"MSH|^~\\&|HIS|SIM|HISBRIDGE||{now:%Y%m%d%H%M%S}||{kind}|{control_id}|P|2.4|||{asks}|{asks}|CHN|GBK"


class ChinesePusher(Pusher):
    """Sends in enhanced mode and waits for both acknowledgements."""

    def _top(self, kind: str, control_id: str) -> str:
        return top("^".join(kind.split("^")[:2]), control_id, dt.datetime.now(self.hospital.zone))

    async def notify(self, kind: str, number: str) -> None:
        if kind != "bill":  # what waits for payment is asked for
            await super().notify(kind, number)

    async def _acknowledged(self, reader: asyncio.StreamReader, control_id: str) -> str:
        """The last of the two: AA after CA, or the CE or CR after which nothing comes, as AE or AR."""
        while (code := await super()._acknowledged(reader, control_id)) == "CA":
            pass
        return f"A{code[1:]}"

    def _now(self) -> str:
        return f"{dt.datetime.now(self.hospital.zone):%Y%m%d%H%M%S}"


class ChineseSimulator(HL7Simulator):
    """One running simulator; see HL7Simulator."""

    def __init__(self, hospital: Hospital, *, latency_ms: float = 0.0) -> None:
        super().__init__(hospital, charset="gbk", latency_ms=latency_ms)

    def _make_pusher(self) -> Pusher:
        return ChinesePusher(self.hospital, self.charset, "GBK")

    def _received(self, payload: bytes) -> bytes:
        message = ER7(payload.decode(self.charset))
        if message.get("MSH", 15) != "AL":
            return b""
        kind = f"ACK^{message.get('MSH', 9, 2)}"
        return self._frame("\r".join([self._head(kind), segment("MSA", f1="CA", f2=message.get("MSH", 10)), ""]))

    def _head(self, kind: str) -> str:
        return top(kind, new_control_id(), dt.datetime.now(self.hospital.zone), asks="NE")

    async def _faulty(self, message: ER7, op: str, act: Callable[[], list[str]], fault: Fault) -> bytes:
        if fault.mode == "utf8":
            return START + self._done(message, act).encode("utf-8") + END
        return await super()._faulty(message, op, act, fault)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _refused(self, message: ER7, code: str, hl7_code: str = "207") -> str:
        word = CODES.get(code.lower(), hl7_code)
        if word == "Z07" and message.get("MSH", 9) in ("SRM", "DFT"):
            word = "Z08"  # there it is the amount that differs
        return self._answer(message, "AE", [], error=f"{word}^{escape('处理失败')}")

    def _answer(self, message: ER7, code: str, body: list[str], *, error: str = "") -> str:
        asked, trigger = message.get("MSH", 9), message.get("MSH", 9, 2)
        kinds = {"SRM": "SRR", "SQM": "SQR", "QBP": "RSP", "ZHY": "ZHY", "QRY": "RAR"}
        kind = f"{kinds.get(asked, 'ACK')}^{'K22' if trigger == 'Q22' else trigger}"
        text = "处理成功" if code == "AA" else "处理失败"
        msa = segment("MSA", f1=code, f2=message.get("MSH", 10), f3=text, f6=error)
        return "\r".join([self._head(kind), msa.rstrip("|"), *body, ""])

    def _operation(self, message: ER7) -> tuple[str, Callable[[], list[str]]]:
        match f"{message.get('MSH', 9)}^{message.get('MSH', 9, 2)}":
            case "SRM^S01" if message.get("ARQ", 8) == "GH":
                return "register", lambda: self._pay(message)
            case "SRM^S01":
                return "book", lambda: self._take(message)
            case "SRM^S04":
                return "cancel_registration", lambda: self._release(message)
            case "SQM^ZQ1":
                return "fetch_registration", lambda: self._look_up(message)
            case "ZHY^ZRN":
                return "fetch_slots", lambda: self._openings(message)
            case "QRY^Q27":
                return "fetch_bills", lambda: self._bills(message)
            case "QBP^ZPI":
                op = "fetch_refund" if message.get("QPD", 5).startswith("rf_") else "fetch_settlement"
                return op, lambda: self._receipts(message)
            case "QBP^Q22":
                return "find_patient", lambda: self._find_people(message)
            case "ADT^A28":
                return "create_patient", lambda: self._create_person(message)
            case "DFT^P03" if message.get("FT1", 6) == "CD":
                return "refund", lambda: self._give_back(message)
            case "DFT^P03":
                return "settle_bill", lambda: self._settle(message)
        return "unknown", self._not_understood

    # --- appointments ------------------------------------------------------------------------------------------------

    def _appointment(self, visit: Visit) -> list[str]:
        part = self.hospital.segments[visit.segment]
        plan = self.hospital.plans[part.plan]
        person = self.hospital.people[visit.mrn]
        doctor = self.hospital.doctors[plan.doctor]
        code = f"{escape(part.code)}^^L^{escape(part.plan)}^^L"
        times = f"^^^{part.start:%Y%m%d%H%M%S}^{part.end:%Y%m%d%H%M%S}"
        return [
            segment(
                "SCH", f1=escape(visit.key), f2=visit.no, f5=code, f6="ROUTINE", f11=times, f16="HIS", f20="HIS",
                f25=WORDS[visit.attended or visit.state],
            ),
            segment("PID", f1="1", f3=f"{visit.mrn}^^^SIM^PI", f5=escape(person.name), f19=escape(person.id_number)),
            segment("RGS", f1="1"),
            segment("AIP", f1="1", f3=f"{plan.doctor}^{escape(doctor.name)}"),
            segment("ZAP", f1=visit.queue_no, f2=yuan(visit.fee_fen), f3="门诊楼二层", f4=f"V{visit.no}"),
        ]  # fmt: skip

    def _openings(self, message: ER7) -> list[str]:
        first, last = message.get("QRF", 2)[:8], message.get("QRF", 3)[:8]
        dept = message.get("QRD", 10)
        rows: list[str] = []
        for part in self.hospital.segments.values():
            plan = self.hospital.plans[part.plan]
            if first <= f"{plan.day:%Y%m%d}" <= last and dept in ("ALL", plan.dept):
                rows.append(self._source(len(rows) + 1, part))
        return [segment("QAK", f1=message.get("QRD", 4), f2="OK" if rows else "NF"), *rows]

    def _source(self, number: int, part: Segment) -> str:
        plan = self.hospital.plans[part.plan]
        doctor = self.hospital.doctor_of(part)
        return segment(
            "ZRN", f1=str(number), f2=escape(part.plan), f3=escape(part.code), f4=f"{plan.day:%Y%m%d}",
            f5=SESSIONS[plan.session], f6=f"{part.start:%H%M}", f7=f"{part.end:%H%M}",
            f8=f"{plan.dept}^{escape(self.hospital.departments[plan.dept])}",
            f9=f"{doctor.code}^{escape(doctor.name)}", f10=escape(doctor.title), f11=str(part.capacity),
            f12=str(part.left), f13=yuan(plan.fee_fen), f14="0" if self.hospital.stops(part) else "1", f15="门诊楼二层",
        )  # fmt: skip

    # --- people and money --------------------------------------------------------------------------------------------

    def _find_people(self, message: ER7) -> list[str]:
        wanted = {message.get("QPD", 3, 1, 1, n): message.get("QPD", 3, 2, 1, n) for n in (1, 2)}
        name = wanted.get("@PID.5.1", "")
        if number := wanted.get("@PID.19", ""):
            people = self.hospital.find_people(id_number=number, name=name)
        else:
            people = self.hospital.find_people(mrn=wanted.get("@PID.3.1", ""))
        rows = [
            segment(
                "PID", f1=str(count), f3=f"{p.mrn}^^^SIM^PI", f5=escape(p.name), f7=p.birth_date, f8=p.sex,
                f13=escape(p.phone), f19=escape(p.id_number),
            )
            for count, p in enumerate(people, 1)
        ]  # fmt: skip
        return [segment("QAK", f1=message.get("QPD", 2), f2="OK" if rows else "NF"), *rows]

    def _create_person(self, message: ER7) -> list[str]:
        fields = {number: message.get("PID", number) for number in (5, 7, 8, 13, 19)}
        person = self.hospital.create_person(fields[5], fields[19], fields[13], fields[8], fields[7])
        return [segment("PID", f1="1", f3=f"{person.mrn}^^^SIM^PI", f5=escape(person.name))]

    def _bills(self, message: ER7) -> list[str]:
        mrn = message.get("QRD", 8)
        rows = [segment("PID", f1="1", f3=f"{mrn}^^^SIM^PI")]
        for charge in self.hospital.charges.values():
            if charge.mrn != mrn or charge.state != "open":
                continue
            rows.append(segment("ZBL", f1=charge.no, f2=yuan(charge.total_fen), f3="门诊费用", f6="0"))
            for count, (name, fen) in enumerate(charge.items, 1):
                code = f"ITEM{count}^{escape(name)}"
                rows.append(segment("FT1", f1=str(count), f6="CG", f7=code, f10="1", f11=yuan(fen)))
        found = any(row.startswith("ZBL") for row in rows)
        return [segment("QAK", f1=message.get("QRD", 4), f2="OK" if found else "NF"), *(rows if found else [])]

    def _give_back(self, message: ER7) -> list[str]:
        returned_fen = int(Decimal(message.get("FT1", 11)) * 100)
        self.hospital.give_back(message.get("FT1", 23), returned_fen, message.get("FT1", 2), message.get("FT1", 8))
        return []

    def _settle(self, message: ER7) -> list[str]:
        if message.get("FT1", 6) != "PY":
            raise Refusal("state", "only payments are taken")
        paid_fen = int(Decimal(message.get("FT1", 11)) * 100)
        return [self._receipt(self.hospital.settle(message.get("FT1", 23), paid_fen, message.get("FT1", 2)))]

    def _receipts(self, message: ER7) -> list[str]:
        charge = self.hospital.charges.get(message.get("QPD", 4))
        rows = [self._receipt(charge)] if charge is not None and charge.state == "paid" else []
        if charge is not None:
            rows += [
                segment("ZRC", f1=f"T{charge.receipt}", f3=charge.no, f4=number, f5=yuan(fen))
                for number, fen in charge.returned.items()
            ]
        return [segment("QAK", f1=message.get("QPD", 2), f2="OK" if rows else "NF"), *rows]

    @staticmethod
    def _receipt(charge: Charge) -> str:
        return segment(
            "ZRC",
            f1=charge.receipt,
            f2=f"INV{charge.receipt}",
            f3=charge.no,
            f4=charge.trade_no,
            f5=yuan(charge.total_fen),
        )


async def start(
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
    *,
    push_host: str = "127.0.0.1",
    push_port: int | None = None,
    hospital: Hospital | None = None,
    push_appointments: bool = False,
    latency_ms: float = 0.0,
) -> ChineseSimulator:
    """Start a simulator in this process. `push_port` is our MLLP listener; `simulator.pusher.connect` sets it later."""
    simulator = ChineseSimulator(hospital or Hospital("C"), latency_ms=latency_ms)
    simulator.pusher.appointments = push_appointments
    await simulator.open(host, port, control_port)
    if push_port is not None:
        simulator.pusher.connect(push_host, push_port)
    return simulator


async def main() -> None:
    parser = argparse.ArgumentParser(description="A simulated hospital that speaks HL7 v2.4 as in China, over MLLP")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--push-host", default="127.0.0.1")
    parser.add_argument("--push-port", type=int, default=None, help="the MLLP listener of hisbridge")
    parser.add_argument("--push-appointments", action="store_true", help="announce what we changed by SIU too")
    add_size_arguments(parser)
    args = parser.parse_args()
    simulator = await start(
        args.host,
        args.port,
        args.control_port,
        push_host=args.push_host,
        push_port=args.push_port,
        hospital=size_of(args).hospital("C"),
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
