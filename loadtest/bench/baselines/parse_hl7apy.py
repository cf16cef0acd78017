"""`hl7apy.parse_message` alone, on one message again and again: no frame, no mapping, no store, no acknowledgement.

python -m loadtest.bench.baselines.parse_hl7apy <message file> <seconds>     prints {"messages", "seconds", "cpu_s"}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hl7apy.parser import parse_message


def measure(text: str, seconds: float) -> dict[str, float]:
    """Parse until the time is over. The first message, which imports the tables of its version, is not counted."""
    parse_message(text)
    messages = 0
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds or not messages:
        parse_message(text)
        messages += 1
    return {
        "messages": messages,
        "seconds": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
    }


def main() -> None:
    print(json.dumps(measure(Path(sys.argv[1]).read_bytes().decode(), float(sys.argv[2]))))


if __name__ == "__main__":
    main()
