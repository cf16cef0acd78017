"""The side of the process that `elsewhere` starts: one message after the other from stdin, what was made of it to stdout."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from connectors.elsewhere import LENGTH, Failed

Job = Callable[[bytes, str], Any]


def work(job_of: Callable[[Any], Job], name: str) -> None:
    """Do the job that `job_of` makes of the setup until stdin ends, which it does with whoever started this.

    `name` is the protocol's, for the line on stderr that tells of a failure.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the service ends us in its own time
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not come between the answers
    setup = _receive(requests)
    if setup is None:
        return
    job = job_of(pickle.loads(setup))  # noqa: S301 - from our own parent, over its pipe
    while (told := _receive(requests)) is not None and (payload := _receive(requests)) is not None:
        try:
            _send(answers, pickle.dumps(_done(job, payload, told.decode(), name), 5))
        except BrokenPipeError:
            os._exit(0)  # nobody listens any more


def _done(job: Job, payload: bytes, told: str, name: str) -> Any:
    try:
        return job(payload, told)
    except Exception as error:  # its text may quote the message: its kind is all that may be told
        print(f"{name} helper: {type(error).__name__}", file=sys.stderr)  # noqa: T201
        return Failed(type(error).__name__)


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
