"""The load: requests whose every byte was made before, several connections, each with one request in flight.

`wrk` sends them where it is installed, else the project's own generator; both send the same file and give the same figures.
They stop sending after `seconds` and wait for what is under way, so that every request has an answer and can be counted.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.processes import ProcessFailed, output_of

# How long answers under way may take after the last request was sent. wrk always waits for all of it, our own generator as
# long as it must.
DRAIN_S = {"wrk": 2.0, "own": 30.0}
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Requests:
    """A file of requests of equal length, and how many there are. `repeat`: from the beginning again when they are used up."""

    file: Path
    length: int
    count: int
    repeat: bool


@dataclass(frozen=True)
class Answers:
    """What came back. `seconds` is from the first request to the last answer; `unanswered` were sent and got none."""

    answered: int
    statuses: dict[int, int]
    seconds: float
    p50_ms: float
    p99_ms: float
    unanswered: int
    errors: int

    @property
    def rate(self) -> float:
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    def problems(self, wanted: int) -> tuple[str, ...]:
        """Why these are not the answers of a run in which everything went well."""
        found = [f"{count} answers {status}" for status, count in sorted(self.statuses.items()) if status != wanted]
        found += [f"{self.unanswered} requests without an answer"] if self.unanswered else []
        found += [f"{self.errors} connection errors"] if self.errors else []
        return tuple(found if self.answered else [*found, "nothing was answered"])


def write_requests(file: Path, requests: Iterable[bytes], *, repeat: bool = False) -> Requests:
    """Write requests one after the other. Raises ValueError unless all are of one length."""
    length = count = 0
    with file.open("wb") as stream:
        for request in requests:
            if count and len(request) != length:
                raise ValueError(f"a request of {len(request)} bytes among those of {length}")
            length, count = len(request), count + 1
            stream.write(request)
    return Requests(file, length, count, repeat)


def get_request(path: str, *, key: str) -> bytes:
    """GET as portals send it. The Host is the same for every server, so that all get the same bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: portal.example\r\nAuthorization: Bearer {key}\r\nAccept: */*\r\n\r\n".encode()


def post_request(path: str, body: bytes, *, key: str, idempotency_key: str | None = None) -> bytes:
    """POST of JSON, under an Idempotency-Key if one is given."""
    under = "" if idempotency_key is None else f"Idempotency-Key: {idempotency_key}\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: portal.example\r\nAuthorization: Bearer {key}\r\nAccept: */*\r\n"
        f"{under}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def default_generator() -> str:
    """`wrk` where it is installed, else `own`."""
    return "wrk" if shutil.which("wrk") else "own"


async def send(
    requests: Requests, port: int, *, connections: int, seconds: float, cores: Collection[int], generator: str
) -> Answers:
    """Send requests to 127.0.0.1:`port` for so long. Raises ProcessFailed."""
    facts = [
        str(requests.file),
        str(requests.length),
        str(requests.count),
        "1" if requests.repeat else "0",
        f"{seconds}",
    ]
    drain_s = DRAIN_S[generator]
    if generator == "wrk":
        whole_s = int(seconds + drain_s + 0.999)  # wrk counts in seconds
        command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_s}s", "--timeout", f"{whole_s}s", "-s", str(SCRIPT)]
        command += [f"http://127.0.0.1:{port}", "--", *facts]
    else:
        command = [sys.executable, "-m", "loadtest.bench.generator", str(port), str(connections), f"{drain_s}", *facts]
    said = await output_of(*command, cores=cores, within_s=seconds + drain_s + 30)
    return read_answers(said)


def read_answers(said: str) -> Answers:
    """What a generator printed: one line of JSON among whatever else. Raises ProcessFailed."""
    line = next((part for part in said.splitlines() if part.startswith('{"answered"')), None)
    if line is None:
        raise ProcessFailed(f"the generator gave no figures: {said.strip()[-300:]}")
    found = json.loads(line)
    found["statuses"] = {int(status): count for status, count in found["statuses"].items()}
    return Answers(**found)
