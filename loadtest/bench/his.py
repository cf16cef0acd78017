"""The HIS behind the benchmarks: the simulated HL7 v2 hospital with room for everybody, answering after a fixed time.

    python -m loadtest.bench.his --latency-ms 200 --host 127.0.0.1 --port 0 --control-port 0

It knows every patient and every segment that it is asked for, because the filled store is far larger than a simulated
hospital; it lists no openings, so that what was filled stays as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import signal

from loadtest.simulators.control import Fault
from loadtest.simulators.hl7 import start
from loadtest.simulators.hospital import DOCTORS, Hospital, Person, Plan, Segment, Visit

ROOM = 10**9


class RoomyHospital(Hospital):
    """Takes whatever comes, and finds a visit by its key without searching."""

    def __init__(self) -> None:
        super().__init__("B", days=0)
        self._by_key: dict[str, Visit] = {}
        now = dt.datetime.now(self.zone).replace(microsecond=0)
        self._plan = Plan("bench", now.date(), "am", DOCTORS[0].dept, DOCTORS[0].code, 5000)
        self._times = now, now + dt.timedelta(minutes=15)
        self.plans[self._plan.code] = self._plan

    def visit_by_key(self, key: str) -> Visit | None:
        return self._by_key.get(key)

    def take(self, key: str, mrn: str, segment_code: str) -> Visit:
        self.people.setdefault(mrn, Person(mrn, mrn, mrn))
        self.segments.setdefault(segment_code, Segment(segment_code, self._plan.code, *self._times, ROOM))
        visit = super().take(key, mrn, segment_code)
        self._by_key[key] = visit
        return visit


async def main() -> None:
    parser = argparse.ArgumentParser(description="A simulated HL7 v2 hospital with room for everybody")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    chosen = parser.parse_args()
    simulator = await start(chosen.host, chosen.port, chosen.control_port, hospital=RoomyHospital())
    # The switchboard's "slow" is the latency: it does what it is asked and answers after that time.
    simulator.board.faults.append(Fault("*", "slow", delay_s=chosen.latency_ms / 1000))
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    print(json.dumps({"ready": True, "port": simulator.port, "control_port": simulator.control_port}), flush=True)
    await stop.wait()
    await simulator.close()


if __name__ == "__main__":
    asyncio.run(main())
