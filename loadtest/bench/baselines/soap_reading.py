"""One SOAP reply read again and again by libraries alone: no mapping, no records.

python -m loadtest.bench.baselines.soap_reading <zeep | lxml> <reply file> <seconds> [<WSDL file> <operation>]

zeep deserialises typed elements as its client does; lxml parses the envelope, and the document in its string. Prints
{"replies", "rows", "seconds", "cpu_s"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def zeep_reader(body: bytes, wsdl: str, operation: str) -> Callable[[], int]:
    """What zeep does with the body of an HTTP response, to its own objects; gives how many rows they have."""
    import requests
    import zeep

    client: Any = zeep.Client(wsdl)  # type: ignore[no-untyped-call]
    binding = client.service._binding
    response = requests.Response()
    response.status_code, response._content = 200, body
    response.headers["Content-Type"] = "text/xml; charset=utf-8"
    return lambda: len(binding.process_reply(client, binding.get(operation), response).Schedules.Schedule)


def lxml_reader(body: bytes) -> Callable[[], int]:
    """Both parses, and nothing looked at but how many rows there are."""
    from lxml import etree

    def read() -> int:
        result = etree.fromstring(body)[0][0][0]
        document = etree.fromstring(result.text or "")
        return len(document[-1])

    return read


def measure(read: Callable[[], int], seconds: float) -> dict[str, float]:
    """Read until the time is over. The first reply, which may import and compile, is not counted."""
    rows, replies = read(), 0
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds or not replies:
        read()
        replies += 1
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return {"replies": replies, "rows": rows, "seconds": took_s, "cpu_s": cpu_s}


def main() -> None:
    library, file, seconds, *typed = sys.argv[1:]
    body = Path(file).read_bytes()
    read = zeep_reader(body, *typed) if library == "zeep" else lxml_reader(body)
    print(json.dumps(measure(read, float(seconds))))


if __name__ == "__main__":
    main()
