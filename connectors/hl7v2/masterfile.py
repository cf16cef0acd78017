"""The application's answer to a master file (MFN): MFK with what became of each record (HL7 v2.5.1 ch. 8.4 and 8.5)."""

from __future__ import annotations

import datetime as dt

import msgspec

from connectors.hl7v2 import er7
from connectors.hl7v2.acks import Fault, write_header, write_outcome
from connectors.hl7v2.header import Header, restated

KEY_TYPE_SINCE = (2, 3, 1)  # MFA-6


class MasterFile(msgspec.Struct, frozen=True, kw_only=True):
    """What MFK says again: MFI, whether it asks for an answer to each record (MFI-6), and of each MFE its fields 1, 2, 4, 5."""

    header: str
    level: str
    records: tuple[tuple[str, str, str, str], ...]


def master_file(message: er7.Message) -> MasterFile | None:
    """The records of an MFN; None where there is no MFI, so that a plain ACK answers."""
    places = message.index.get("MFI")
    if not places or message.value("MSH", 9) != "MFN":
        return None
    marks = message.delimiters
    mfi = message.segment(places[0])
    fields = [restated(mfi.field(number), marks) for number in range(1, 7)]
    records = (message.segment(place) for place in message.index.get("MFE", ()))
    return MasterFile(
        header="|".join(("MFI", *fields)),
        level=fields[5],
        records=tuple(tuple(restated(mfe.field(n), marks) for n in (1, 2, 4, 5)) for mfe in records),  # type: ignore[misc]
    )


def write_mfk(
    header: Header,
    file: MasterFile,
    code: str,
    now: dt.datetime,
    fault: Fault | None = None,
    expected: int | None = None,
) -> str:
    """MFK in the form of the peer's version. MFA-4 is S or U (table 0181): a message is stored as a whole or not at all."""
    head = write_header(header, "MFK", now, structure="MFK_M01")
    outcome = "S" if fault is None else "U"
    asked = {"NE": False, "SU": fault is None, "ER": fault is not None}.get(file.level, True)  # table 0179
    done = now.strftime("%Y%m%d%H%M%S%z")
    lines = [
        f"MFA|{event}|{number}|{done}|{outcome}|{key}" + (f"|{kind}" if header.edition >= KEY_TYPE_SINCE else "")
        for event, number, key, kind in file.records
        if asked
    ]
    return head + write_outcome(header, code, fault, expected) + "\r".join((file.header, *lines, ""))
