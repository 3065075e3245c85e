"""How many steps a second the scheduler's core decides: plan, result, sealing, deltas, nothing else.

    python -m benchmarks.scheduler [--json]

Every running request decodes. Time is counted inside `SchedulerCore.handle` only; the page server and the worker
answer at once, with random tokens. Rates are of the fastest of several runs (others use the machine too), with the
spread to the median as noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np

from bus import blocks
from bus.messages.requests import Sampling, Submit
from bus.messages.steps import StepPlan, StepResult
from bus.packed import pack_u32, unpack_u32
from scheduler.core import events as e
from scheduler.core.core import SchedulerCore
from scheduler.core.state import Limits

PAGE_TOKENS = 16
PROMPT = 48
CONTEXT = 8192
PAGES = 200_000
STEPS = 64  # a multiple of the page, in which every request fills the same number of blocks
RUNS = 30


class Bench:
    """One core with `running` requests that decode and `queued` that wait."""

    def __init__(self, running: int, queued: int) -> None:
        limits = Limits(
            model="bench", slots=running, queue_requests=queued + running + 1, queue_tokens=1 << 40, extent=4096
        )
        self.core = SchedulerCore(limits)
        self.random = np.random.default_rng(1)
        self.free = list(range(PAGES))
        self.plans: list[StepPlan] = []
        self.now = 1
        self.spent_ns = 0
        self.root = blocks.salted_root(blocks.root_digest(b"weights", "float32", "page-first", PAGE_TOKENS))
        self.feed(e.KvUp(PAGES))
        self.feed(e.ReplicaUp(0, running, 4096, CONTEXT, PAGE_TOKENS))
        for number in range(running + queued):
            self.submit(number + 1)
        while not bool((state := self.core.state).replicas[0].decoding.sum() == running):
            self.step()
        assert state.running == running
        assert len(state.queue) == queued

    def feed(self, event: e.Event) -> None:
        """Handle an event, and what it asks for."""
        pending = [event]
        while pending:
            self.now += 10_000
            began = time.perf_counter_ns()
            actions = self.core.handle(pending.pop(), self.now)
            self.spent_ns += time.perf_counter_ns() - began
            for action in actions:
                if isinstance(action, e.SendPlan):
                    self.plans.append(action.plan)
                else:
                    pending.extend(self.answer(action))

    def answer(self, action: e.Action) -> Iterator[e.Event]:
        """A page server that never lacks anything and never found anything."""
        if isinstance(action, e.LeasePages):
            pages, self.free = self.free[: action.count], self.free[action.count :]
            yield e.Leased(action.lease, pack_u32(pages), pack_u32(np.ones(len(pages), np.uint32)))
        elif isinstance(action, e.SealPages):
            yield e.Sealed(action.seal, bytes(len(action.pages)), action.pages, action.generations)
        elif isinstance(action, e.LookUp):
            yield e.Found(action.lookup, b"", b"")
        elif isinstance(action, e.ReleasePages):
            self.free += unpack_u32(action.pages).tolist()

    def submit(self, number: int) -> None:
        """A request that will not end."""
        prompt = pack_u32(self.random.integers(0, 30_000, PROMPT))
        digests = blocks.chain(self.root, prompt, PAGE_TOKENS)
        stop = pack_u32([50_000])
        message = Submit(number, prompt, Sampling(), CONTEXT, b"", self.root, digests, stop)
        self.feed(e.Submitted(e.Home(f"ingress@{number % 2}", 1), message))

    def step(self) -> None:
        """The worker answers its oldest plan."""
        plan = self.plans.pop(0)
        rows = np.flatnonzero(np.frombuffer(plan.samples, np.uint8))
        tokens = self.random.integers(0, 30_000, len(rows))
        result = StepResult(plan.step, pack_u32(unpack_u32(plan.slots)[rows]), pack_u32(tokens), 0, 10_000_000)
        self.feed(e.StepDone(0, result))

    def run(self, steps: int) -> float:
        """Plans a second over `steps` steps."""
        self.spent_ns = 0
        for _ in range(steps):
            self.step()
            # What the process around the core takes away every so often.
            self.core.state.tally.gaps_s.clear()
        return steps / (self.spent_ns / 1e9)


def measure(running: int, queued: int) -> dict[str, float]:
    """Plans a second: the best of several runs, and how far the median is below it."""
    bench = Bench(running, queued)
    bench.run(100)
    rates = [bench.run(STEPS) for _ in range(RUNS)]
    best = max(rates)
    return {
        "running": running,
        "queued": queued,
        "plans_per_s": round(best),
        "us_per_plan": round(1e6 / best, 1),
        "noise": round(1 - statistics.median(rates) / best, 3),
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(running, queued) for running in (256, 1024) for queued in (0, 1_000, 10_000)]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    print(f"{'running':>8} {'queued':>8} {'plans/s':>9} {'us/plan':>9} {'noise':>7}")
    for row in rows:
        columns = f"{row['running']:>8} {row['queued']:>8} {row['plans_per_s']:>9} {row['us_per_plan']:>9}"
        print(f"{columns} {row['noise']:>7.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
