"""The side of the process that `elsewhere` starts for HL7 v2 (see connectors.aside)."""

from __future__ import annotations

import msgspec

from connectors.aside import Job, work
from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.elsewhere import Setup
from connectors.hl7v2.er7 import parse
from connectors.hl7v2.findings import Finding
from connectors.hl7v2.mapping import ProfileMaps
from connectors.hl7v2.reading import Read, Reader


def main() -> None:
    """Work until stdin ends."""
    work(_job, "hl7v2")


def _job(setup: Setup) -> Job:
    if setup.job == "validate":
        return _findings
    if setup.hospital is None or setup.settings is None or setup.profile is None:
        raise ValueError(f"job {setup.job} lacks its profile")
    reader = Reader(setup.hospital, setup.name, setup.settings, setup.connection, ProfileMaps(setup.profile))
    return lambda payload, peer: _read(reader, payload, peer)


def _findings(payload: bytes, default_charset: str) -> list[Finding] | None:
    from connectors.hl7v2.conformance import find_faults  # not for who only reads: the tables take memory

    decoded = decode_message(payload, default_charset)
    return find_faults(parse(decoded.text, decoded.codec))


def _read(reader: Reader, payload: bytes, peer: str) -> Read:
    """Without the bytes: whoever asked has them."""
    read = reader.read(payload, peer)
    if read.inbound is None:
        return read
    return msgspec.structs.replace(read, inbound=msgspec.structs.replace(read.inbound, raw=b""))
