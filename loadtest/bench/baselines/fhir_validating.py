"""Pages of Slots validated by fhir.resources, one after the other: no HTTP, no rules, no records.

python -m loadtest.bench.baselines.fhir_validating <bundles | slots> <folder of pages>

`bundles` validates each page as a Bundle, as the package's users do; `slots` only the Slots in it, one by one. Prints {"slots",
"seconds", "cpu_s", "rss_mb"}.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def bundles() -> Callable[[bytes], int]:
    from fhir.resources.R4B.bundle import Bundle

    return lambda page: len(Bundle.model_validate_json(page).entry or ())


def slots() -> Callable[[bytes], int]:
    from fhir.resources.R4B.slot import Slot

    return lambda page: len([Slot.model_validate(entry["resource"]) for entry in json.loads(page)["entry"]])


def main() -> None:
    way, folder = sys.argv[1], Path(sys.argv[2])
    read = bundles() if way == "bundles" else slots()
    pages = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    read(pages[0].read_bytes())  # what is imported and compiled with the first is not counted
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found = sum(read(page.read_bytes()) for page in pages)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"slots": found, "seconds": took_s, "cpu_s": cpu_s, "rss_mb": peak_mb}))


if __name__ == "__main__":
    main()
