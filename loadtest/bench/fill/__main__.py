"""`python -m loadtest.bench.fill --url ... --data-key ... --digest-key ...`: a hospital's year for a migrated, empty store."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from loadtest.bench.fill.layout import Layout
from loadtest.bench.fill.rows import Rows
from loadtest.bench.fill.sealing import Sealer
from loadtest.bench.fill.stores import CannotFill, open_database


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.fill", description="Fill a migrated, empty store.")
    parser.add_argument("--url", required=True, help="sqlite:////absolute/file or postgresql://user@host:port/database")
    parser.add_argument("--data-key", required=True, type=Path, help="the installation's data key file")
    parser.add_argument("--digest-key", required=True, type=Path, help="the installation's digest key file")
    parser.add_argument("--slots", type=int, default=1_000_000)
    parser.add_argument("--bookings", type=int, default=1_000_000, help="one in twenty of them is live")
    parser.add_argument("--crowd", type=int, default=60_000, help="patients who are there to book")
    parser.add_argument("--now-ms", type=int, help="the instant that everything is laid out around (default: now)")
    parser.add_argument("--hospital", default="bench")
    parser.add_argument("--client", default="bench-portal", help="the portal whose patients and bookings they are")
    chosen = parser.parse_args()
    began = time.monotonic()
    try:
        layout = Layout(
            slots=chosen.slots,
            bookings=chosen.bookings,
            crowd=chosen.crowd,
            now_ms=chosen.now_ms or time.time_ns() // 1_000_000,
            hospital_id=chosen.hospital,
            client_id=chosen.client,
        )
        rows = Rows(layout, Sealer(chosen.data_key, chosen.digest_key, chosen.hospital))
        filled = asyncio.run(open_database(chosen.url).fill(rows.tables(), hospital_id=chosen.hospital))
    except (CannotFill, ValueError, OSError) as e:
        print(e, file=sys.stderr)
        return 2
    for table, count in filled.items():
        print(f"{table:<20} {count:>10,}")
    print(f"filled in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
