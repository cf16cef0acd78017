"""`python -m loadtest.crowd PLAN --out FOLDER`: let a crowd come, in a process of its own: Locust patches it for gevent."""

from __future__ import annotations

import gc

from locust import User, constant, task
from locust.env import Environment

# isort: split
import argparse
import json
import os
import random
import resource
import sys
from pathlib import Path

import gevent

from loadtest.crowd.flood import flood
from loadtest.crowd.journey import Journey, World
from loadtest.crowd.plan import Plan, read_plan
from loadtest.crowd.samples import CLASSES, Samples
from loadtest.crowd.shape import arrivals


class Arrivals(User):
    """The one Locust user: it lets patients in at their instants and never waits for any of them."""

    wait_time = constant(0)
    world: World
    over: gevent.event.Event
    failed: list[BaseException]

    @task
    def spawn(self) -> None:
        """All of the arrivals, then nothing more."""
        plan, chance = self.world.plan, random.Random(self.world.plan.seed)
        targets, weights = plan.targets, [t.share for t in plan.targets]
        running = gevent.pool.Group()
        failed: list[BaseException] = []
        if plan.flood is not None:
            running.spawn(flood, self.world, plan.flood, random.Random(plan.seed + 1))
        for at_s in arrivals(plan.shape, plan.starts_s, plan.ends_s, chance):
            arrives_s = at_s - plan.starts_s
            self.world.wait_until(arrives_s)
            target = chance.choices(targets, weights)[0]
            journey = running.spawn(Journey(self.world, target, random.Random(chance.getrandbits(64))).go, arrives_s)
            journey.link_exception(lambda ended: failed.append(ended.exception))
            if failed:
                break  # a crowd that has lost its way proves nothing
        running.join(timeout=max(0.0, self.world.gives_up_s + plan.time_out_s - self.world.now_s()))
        running.kill()
        self.failed.extend(failed)
        self.over.set()
        gevent.sleep(3600)


def main() -> int:
    """Run the plan; the figures go to the folder, a summary to the standard output as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.crowd", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    plan, samples = read_plan(chosen.plan), Samples()
    _allow_descriptors(plan)
    environment = Environment(user_classes=[Arrivals])
    stats = environment.stats

    def seen(name: str, took_s: float, status: int) -> None:
        stats.log_request("HTTP", name, round(took_s * 1000), 0)
        if status == 0 or status >= 500:
            stats.log_error("HTTP", name, f"status {status}")

    Arrivals.world, Arrivals.over, Arrivals.failed = World(plan, samples, seen), gevent.event.Event(), []
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    runner = environment.create_local_runner()
    runner.start(1, spawn_rate=1)
    Arrivals.over.wait()
    if Arrivals.failed:
        print(f"a journey failed: {Arrivals.failed[0]!r}", file=sys.stderr, flush=True)
        os._exit(1)
    samples.write(chosen.out)
    used = resource.getrusage(resource.RUSAGE_SELF)
    summary = {
        "lag_ms": samples.lag_ms(),
        "cpu_s": used.ru_utime + used.ru_stime,
        "requests": len(samples.rows),
        "journeys": Arrivals.world.journeys,
        "classes": CLASSES,
        "codes": list(samples.codes),
        "connections": Arrivals.world.wire.open,
    }
    print(json.dumps(summary), flush=True)
    gevent.spawn_later(5, sys.exit)
    runner.quit()
    return 0


def _allow_descriptors(plan: Plan) -> None:
    """As many connections as the plan allows, and a few files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, plan.most_connections + 500), hard))


if __name__ == "__main__":
    sys.exit(main())
