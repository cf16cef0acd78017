"""What a HIS sends in the rows of inbound messages: appointments, admissions, results, and a report with a large document."""

from __future__ import annotations

import base64
import datetime as dt
import random
from collections.abc import Callable

from loadtest.simulators.mllp import header, segment

PEOPLE = 60_000  # the patients of a filled store
RESULTS = 24
Parts = Callable[[str, dt.datetime], list[str]]
_ZONE = dt.timezone(dt.timedelta(hours=8))


class Template:
    """A message that is written once, and then costs its sender next to nothing: a number makes it different from all others."""

    def __init__(self, kind: str, run: str) -> None:
        """`kind` is siu, adt or oru. Messages of two runs differ as well."""
        self.kind = kind
        self.run = run
        self._text = "\r".join([*_PARTS[kind](run, dt.datetime.now(_ZONE)), ""]).encode()

    def message(self, number: int) -> bytes:
        """The message of this number, without its frame."""
        return self._text % {b"n": number, b"p": number % PEOPLE}

    def control_id(self, number: int) -> bytes:
        return b"%b%07d" % (self.run.encode(), number)


def _appointment(run: str, now: dt.datetime) -> list[str]:
    """An appointment that was made at the hospital's own window, with the segments that hospitals send."""
    visit = f"W{run}%(n)07d"
    starts = (now + dt.timedelta(days=2)).replace(hour=8, minute=0, second=0, microsecond=0)
    stamps = f"{starts:%Y%m%d%H%M%S%z}", f"{starts + dt.timedelta(minutes=15):%Y%m%d%H%M%S%z}"
    return [
        header("SIU^S12^SIU_S12", f"{run}%(n)07d", now, "UNICODE UTF-8"),
        segment("SCH", f2=visit, f5="7||1^^L^7^^L", f6="ROUTINE", f7="NORMAL^初诊^HL70276", f9="15", f10="min",
                f16="OP^王^护士", f20="OP^王^护士", f25="Booked"),
        segment("TQ1", f1="1", f7=stamps[0], f8=stamps[1]),
        _patient("M%(p)08d", "%(p)07d"),
        segment("PV1", f1="1", f2="O", f3="D002^^^SIM", f7="P0006^李明", f19=f"E{visit}"),
        segment("RGS", f1="1", f2="A"),
        segment("AIS", f1="1", f2="A", f3="GEN^普通门诊^L", f4=stamps[0], f7="15", f8="min"),
        segment("AIL", f1="1", f2="A", f3="D002^^^SIM^^^^^内科二诊室", f4="C^Clinic^HL70305"),
        segment("AIP", f1="1", f2="A", f3="P0006^李明", f4="DOC^医师^L"),
    ]  # fmt: skip


def _admission(run: str, now: dt.datetime) -> list[str]:
    """A patient whom the hospital registers for the first time: for a booking portal the most that an ADT can mean."""
    stamp = f"{now:%Y%m%d%H%M%S%z}"
    return [
        header("ADT^A04^ADT_A01", f"{run}%(n)07d", now, "UNICODE UTF-8"),
        segment("EVN", f1="A04", f2=stamp, f5="OP^王^护士"),
        _patient(f"A{run}%(n)07d", f"9{run}%(n)07d"),
        segment("PD1", f4="P0006^李明"),
        segment("NK1", f1="1", f2="家属%(p)d", f3="SPO^配偶^HL70063", f5="138%(p)08d"),
        segment("PV1", f1="1", f2="O", f3="D002^^^SIM", f7="P0006^李明", f19=f"E{run}%(n)07d", f44=stamp),
        segment("PV2", f3="初诊"),
        segment("AL1", f1="1", f2="DA", f3="PEN^青霉素^L", f4="MO"),
        segment("IN1", f1="1", f2="SI^职工医保^L", f3="440100", f4="广州市医疗保障局"),
    ]


def _results(run: str, now: dt.datetime) -> list[str]:
    """A blood count of 24 lines for a patient of the store, under an order of its own."""
    stamp = f"{now:%Y%m%d%H%M%S%z}"
    order = f"L{run}%(n)07d"
    lines = [
        segment("OBX", f1=str(n), f2="NM", f3=f"CBC{n:02d}^血细胞分析第{n}项^L", f5=f"{4 + n * 0.37:.2f}", f6="10*9/L",
                f7="3.50-9.50", f8="H" if n > 14 else "N", f11="F", f14=stamp)
        for n in range(1, RESULTS + 1)
    ]  # fmt: skip
    return [
        header("ORU^R01^ORU_R01", f"{run}%(n)07d", now, "UNICODE UTF-8"),
        _patient("M%(p)08d", "%(p)07d"),
        segment("PV1", f1="1", f2="O", f3="D002^^^SIM", f7="P0006^李明", f19=f"E{run}%(n)07d"),
        segment("ORC", f1="RE", f2=f"O{run}%(n)07d", f3=order),
        segment("OBR", f1="1", f2=f"O{run}%(n)07d", f3=order, f4="CBC^血细胞分析^L", f7=stamp, f22=stamp, f24="HM", f25="F",
                f32="P0006&李&明"),
        *lines,
    ]  # fmt: skip


_PARTS: dict[str, Parts] = {"siu": _appointment, "adt": _admission, "oru": _results}


def _patient(mrn: str, document: str) -> str:
    return segment("PID", f1="1", f3=f"{mrn}^^^SIM^MR~1101011990{document}X^^^CHN^PPN", f5="患者%(p)d",
                   f7="19900101", f8="F", f11="中山路1号^^广州^广东^510000^CHN", f13="139%(p)08d")  # fmt: skip


def large_report(number: int, run: str, *, size_bytes: int) -> bytes:
    """A report with a document, in Base64 in OBX-5 (v2.5.1 ch. 2.A.24); each message and each document another one."""
    now = dt.datetime.now(_ZONE)
    stamp, order = f"{now:%Y%m%d%H%M%S%z}", f"D{run}{number:07d}"
    document = b"%PDF-1.7\n" + random.Random(f"{run}{number}").randbytes(size_bytes * 3 // 4)
    parts = [
        header("ORU^R01^ORU_R01", f"{run}{number:07d}", now, "UNICODE UTF-8"),
        _patient(f"M{number % PEOPLE:08d}", f"{number % PEOPLE:07d}") % {"p": number % PEOPLE},
        segment("ORC", f1="RE", f3=order),
        segment("OBR", f1="1", f3=order, f4="CT^胸部CT平扫^L", f7=stamp, f22=stamp, f24="RAD", f25="F"),
        segment("OBX", f1="1", f2="ED", f3="PDF^报告全文^L", f5=f"^AP^PDF^Base64^{base64.b64encode(document).decode()}",
                f11="F", f14=stamp),
    ]  # fmt: skip
    return "\r".join([*parts, ""]).encode()
