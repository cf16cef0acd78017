"""The side of the process that `elsewhere` starts: one message after the other from stdin, what was made of it to stdout."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.elsewhere import LENGTH, Failed, Setup
from connectors.hl7v2.er7 import parse
from connectors.hl7v2.findings import Finding
from connectors.hl7v2.mapping import ProfileMaps
from connectors.hl7v2.reading import Read, Reader

Job = Callable[[bytes, str], Any]


def main() -> None:
    """Work until stdin ends, which it does with whoever started this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the service ends us in its own time
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not come between the answers
    setup = _receive(requests)
    if setup is None:
        return
    job = _job(pickle.loads(setup))  # noqa: S301 - from our own parent, over its pipe
    while (told := _receive(requests)) is not None and (payload := _receive(requests)) is not None:
        try:
            _send(answers, pickle.dumps(_done(job, payload, told.decode()), 5))
        except BrokenPipeError:
            os._exit(0)  # nobody listens any more


def _done(job: Job, payload: bytes, told: str) -> Any:
    try:
        return job(payload, told)
    except Exception as error:  # its text may quote the message: its kind is all that may be told
        print(f"hl7v2 helper: {type(error).__name__}", file=sys.stderr)  # noqa: T201
        return Failed(type(error).__name__)


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


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    size = LENGTH.unpack(head)[0]
    body = stream.read(size)
    return body if len(body) == size else None


def _send(stream: BinaryIO, body: bytes) -> None:
    stream.write(LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()
