"""`python -m chaos.soak`: load for long, with a kill now and then, and what every process takes meanwhile.

Nothing may grow: not the memory of a process, not its descriptors, not the pages that somebody holds. Processes that
are killed begin again; what is judged is each incarnation that lived through a third of the time after warm-up.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import cyclopts
import msgspec
from cyclopts import Parameter
from stack import Stack, running

from chaos.audit import Auditor, Snapshot, Vitals
from chaos.catalogue import catalogue
from chaos.checker import Violation, violations
from chaos.killer import Killer, Struck
from chaos.layouts import LAYOUTS, Layout, victims, with_adapter
from chaos.load import Load
from chaos.schedule import schedule
from chaos.undisturbed import Answers, undisturbed

WARM: Final = 0.2  # of the time: caches fill, allocators find their size
# What an incarnation may take at its end beyond what it took after warm-up. Replays are kept for a minute, timelines
# up to a number: both are full by then.
MORE_BYTES: Final = 32 << 20
MORE_DESCRIPTORS: Final = 8
MORE_THREADS: Final = 2
_SAMPLE_S: Final = 20.0
_BREATH_S: Final = 2.0

app = cyclopts.App(name="chaos.soak", help=__doc__, result_action="return_value")


class Soaked(msgspec.Struct):
    """What came of it."""

    seconds: float
    kills: int
    requests: int
    tokens: int
    snapshots: list[Snapshot]
    violations: list[Violation]


@app.default
def run(
    *,
    minutes: float = 30.0,
    seed: int = 1,
    every: float = 90.0,
    concurrency: int = 8,
    output: Path = Path(".cache/chaos/soak.json"),
    spare: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
) -> int:
    """Exit code 1 where something grew, or an answer was wrong.

    Args:
        minutes: How long.
        seed: Of load and kills.
        every: Seconds between kills; 0 kills nobody.
        concurrency: Requests at a time.
        output: For the samples, as JSON.
        spare: Roles that are not struck.
    """
    layout = next(layout for layout in LAYOUTS if layout.name == "kernels")
    with (
        tempfile.TemporaryDirectory() as home,
        running(with_adapter(layout, Path(home)), ingresses=layout.ingresses, arena=layout.arena) as stack,
    ):
        soaked = asyncio.run(_soak(stack, layout, minutes * 60, seed, every, concurrency, frozenset(spare or ())))
    soaked.violations += [Violation("growth", what) for what in growth(soaked.snapshots)]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.encode(soaked))
    print(
        f"\n{soaked.seconds:.0f} s, {soaked.kills} kills, {soaked.requests} requests, {soaked.tokens} tokens, "
        f"{len(soaked.violations)} violations"
    )
    for violation in soaked.violations:
        print(f"  {violation.kind}: {violation.what} {violation.entry} {violation.request}")
    return 1 if soaked.violations else 0


async def _soak(
    stack: Stack, layout: Layout, seconds: float, seed: int, every: float, concurrency: int, spared: frozenset[str]
) -> Soaked:
    entries = catalogue()
    expected = await undisturbed(stack, entries, layout.numerics)
    load = Load(stack.url, stack.run, entries, seed, concurrency)
    killer = Killer(stack, schedule(victims(stack.status(), spared), seed, _BREATH_S), load.flow)
    auditor, began = Auditor(stack), time.monotonic()
    soaked = Soaked(0.0, 0, 0, 0, [], [])
    struck: list[Struck] = []
    strike_at = every
    while (spent := time.monotonic() - began) < seconds:
        load.begin()
        await asyncio.sleep(min(_SAMPLE_S, seconds - spent))
        if every and spent >= strike_at:
            await killer.strike(1)
            strike_at += every
        load.pause()
        await load.quiet()
        await killer.rest()
        snapshot, found = await auditor.audit()
        soaked.snapshots.append(snapshot)
        struck += killer.struck
        killer.struck = []
        soaked.violations += found + list(_judge(load, expected, struck))
        soaked.requests += len(load.outcomes)
        soaked.tokens += sum(outcome.answer.tokens for outcome in load.outcomes)
        load.outcomes = []
        print(_line(snapshot, began), flush=True)
    await load.close()
    soaked.seconds, soaked.kills = time.monotonic() - began, sum(len(blow.pids) for blow in struck)
    return soaked


def _judge(load: Load, expected: Answers, struck: Sequence[Struck]) -> Iterator[Violation]:
    ingress = [blow.at for blow in struck if any(name.startswith("ingress@") for name in blow.pids)]
    for outcome in load.outcomes:
        yield from violations(outcome, expected[outcome.request.entry], ingress)


def growth(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """Incarnations that took more and more, from the end of warm-up to the last look at them."""
    if not snapshots:
        return
    began, ended = snapshots[0].at, snapshots[-1].at
    warm = [snapshot for snapshot in snapshots if snapshot.at >= began + WARM * (ended - began)]
    seen: dict[tuple[str, int], list[Vitals]] = {}
    for snapshot in warm:
        for vitals in snapshot.vitals:
            seen.setdefault((vitals.name, vitals.pid), []).append(vitals)
    for (name, pid), looks in seen.items():
        if len(looks) < max(6, len(warm) / 3):
            continue
        # The middle of a few looks: one of them may fall into a moment of much work.
        first, last = (sorted(part, key=lambda v: v.anonymous)[len(part) // 2] for part in (looks[:3], looks[-3:]))
        if last.anonymous > first.anonymous + MORE_BYTES:
            yield f"{name} (pid {pid}): {first.anonymous >> 20} MiB of its own have become {last.anonymous >> 20}"
        if last.descriptors > first.descriptors + MORE_DESCRIPTORS:
            yield f"{name} (pid {pid}): {first.descriptors} descriptors have become {last.descriptors}"
        if last.threads > first.threads + MORE_THREADS:
            yield f"{name} (pid {pid}): {first.threads} threads have become {last.threads}"


def _line(snapshot: Snapshot, began: float) -> str:
    """Own memory and PSS in MiB and descriptors of each process, and pages by state."""
    processes = "  ".join(
        f"{v.name.removesuffix('@host')} {v.anonymous >> 20}/{v.proportional >> 20} MiB {v.descriptors} fd"
        for v in snapshot.vitals
    )
    pages = " ".join(f"{state} {count}" for state, count in snapshot.pages.items())
    return f"{snapshot.at - began:5.0f} s  {processes}  pages: {pages}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stack is stopped on the way out
    sys.exit(app())
