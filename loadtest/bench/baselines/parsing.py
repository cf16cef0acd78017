"""A parser alone, on one message again and again: no frame, no mapping, no store, no acknowledgement.

python -m loadtest.bench.baselines.parsing <hl7apy | hl7> <message file> <seconds>    prints {"messages", "seconds", "cpu_s"}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Parse = Callable[[str], object]


def parser(name: str) -> Parse:
    """`hl7apy.parse_message`, or python-hl7's `hl7.parse`."""
    if name == "hl7apy":
        from hl7apy.parser import parse_message

        return parse_message  # type: ignore[no-any-return]
    from hl7 import parse

    return parse  # type: ignore[no-any-return]


def measure(parse: Parse, text: str, seconds: float) -> dict[str, float]:
    """Parse until the time is over. The first message, which may import tables, is not counted."""
    parse(text)
    messages = 0
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds or not messages:
        parse(text)
        messages += 1
    return {
        "messages": messages,
        "seconds": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
    }


def main() -> None:
    name, file, seconds = sys.argv[1:]
    print(json.dumps(measure(parser(name), Path(file).read_bytes().decode(), float(seconds))))


if __name__ == "__main__":
    main()
