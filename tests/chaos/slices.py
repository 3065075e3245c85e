"""One stack from start to end: rounds of load and kills, an audit after each, everything compared."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from stack import Stack, running

from chaos import report
from chaos.audit import Auditor, Snapshot
from chaos.catalogue import Entry
from chaos.checker import Violation, violations
from chaos.killer import Killer, Struck
from chaos.layouts import LAYOUTS, Layout, victims, with_adapter
from chaos.load import Load
from chaos.outcome import Outcome
from chaos.report import Slice
from chaos.schedule import schedule
from chaos.undisturbed import Answers, ask, state, undisturbed

ROUND: Final = 20  # kills between two audits
SHOWN: Final = 10  # violations of a round; the others are in the slice's file
_COMPANY: Final = (1, 3, 8)  # so many requests at once when an answer that differs is asked for again


class Task(msgspec.Struct, frozen=True):
    """What one slice does. The same one does the same, as far as that is ours to say.

    Attributes:
        mean_s: see `schedule`.
        concurrency: requests at a time.
        spared: roles that are not struck.
    """

    layout: str
    seed: int
    kills: int
    mean_s: float = 2.0
    concurrency: int = 16
    spared: frozenset[str] = frozenset()


# Who is spared in a slice, in turns: what a process piles up while others die around it shows only where it lives on.
_SPARED: Final[tuple[frozenset[str], ...]] = (frozenset(), frozenset({"kv"}), frozenset(), frozenset({"ingress"}))


def tasks(
    kills: int, seed: int, size: int, layouts: Sequence[str], mean_s: float, spared: frozenset[str]
) -> Iterator[Task]:
    """A run cut into slices of a size, in turns over the layouts by their shares.

    Args:
        seed: of the first slice; each has the next one.
        spared: roles that no slice strikes.
    """
    chosen = [layout for layout in LAYOUTS if layout.name in layouts]
    due = {layout.name: 0.0 for layout in chosen}
    turns = dict.fromkeys(due, 0)
    whole = sum(layout.share for layout in chosen)
    while kills > 0:
        for layout in chosen:
            due[layout.name] += layout.share / whole
        name = max(due, key=lambda name: due[name])
        due[name] -= 1
        yield Task(name, seed, min(size, kills), mean_s, spared=spared | _SPARED[turns[name] % len(_SPARED)])
        turns[name] += 1
        seed += 1
        kills -= size


def perform(task: Task, entries: list[Entry], tell: Callable[[str], None], logs: Path | None = None) -> Slice:
    """Do it.

    Args:
        tell: is told how it goes, a line at a time.
        logs: where the logs of a stack go in which something was violated.
    """
    layout = next(layout for layout in LAYOUTS if layout.name == task.layout)
    with (
        tempfile.TemporaryDirectory() as home,
        running(with_adapter(layout, Path(home)), ingresses=layout.ingresses, arena=layout.arena) as stack,
    ):
        done = asyncio.run(_Slice(stack, task, layout, entries, tell).perform())
        if done.violations and logs is not None:
            shutil.copytree(stack.home / "s" / "log", logs, dirs_exist_ok=True)
    return done


class _Slice:
    def __init__(
        self, stack: Stack, task: Task, layout: Layout, entries: list[Entry], tell: Callable[[str], None]
    ) -> None:
        self._stack, self._task, self._layout, self._entries, self._tell = stack, task, layout, entries, tell
        self._auditor = Auditor(stack)
        self._expected: Answers = {}
        self._struck: list[Struck] = []
        self._outcomes: list[Outcome] = []
        self._violations: list[Violation] = []
        self._snapshots: list[Snapshot] = []
        self._undecided = 0

    async def perform(self) -> Slice:
        task, began = self._task, time.monotonic()
        self._expected = await undisturbed(self._stack, self._entries, self._layout.numerics)
        self._tell(f"{task.layout} seed {task.seed}: undisturbed answers after {time.monotonic() - began:.0f} s")
        blows = schedule(victims(self._stack.status(), task.spared), task.seed, task.mean_s)
        load = Load(self._stack.url, self._stack.run, self._entries, task.seed, task.concurrency)
        killer = Killer(self._stack, blows, load.flow)
        rounds, left = 0, task.kills
        while left > 0:
            rounds += 1
            await self._round(load, killer, min(ROUND, left))
            left -= ROUND
        await load.close()
        struck, outcomes = self._struck, self._outcomes
        return Slice(
            state=state(self._entries),
            spared=sorted(task.spared),
            layout=task.layout,
            seed=task.seed,
            seconds=round(time.monotonic() - began, 1),
            rounds=rounds,
            killed=report.count(struck, "kill"),
            stalled=report.count(struck, "stall"),
            hung=report.count(struck, "hang"),
            pairs=sum(len(blow.pids) > 1 for blow in struck),
            missed=sum(len(blow.blow.victims) - len(blow.pids) for blow in struck),
            requests=report.requests_made(outcomes),
            tokens=sum(outcome.answer.tokens for outcome in outcomes),
            left=sum(outcome.left for outcome in outcomes),
            resent=sum(outcome.resent for outcome in outcomes),
            resumed=sum(outcome.resumed for outcome in outcomes),
            undecided=self._undecided,
            pauses=report.pauses(struck, outcomes),
            violations=self._violations,
            snapshots=self._snapshots,
        )

    async def _round(self, load: Load, killer: Killer, kills: int) -> None:
        began = time.monotonic()
        load.begin()
        await killer.strike(kills)
        load.pause()
        await load.quiet()
        await killer.rest()
        snapshot, found = await self._auditor.audit()
        found += [Violation("processes", trouble) for trouble in killer.trouble]
        outcomes, load.outcomes = load.outcomes, []
        self._outcomes += outcomes
        self._struck += killer.struck
        ingress = [blow.at for blow in self._struck if any(name.startswith("ingress@") for name in blow.pids)]
        for outcome in outcomes:
            found += await self._judge(outcome, ingress)
        self._snapshots.append(snapshot)
        self._violations += found
        tokens = sum(outcome.answer.tokens for outcome in outcomes)
        self._tell(
            f"{self._task.layout} seed {self._task.seed}: {kills} kills, {len(outcomes)} requests, {tokens} tokens in "
            f"{time.monotonic() - began:.0f} s, {len(found)} violations, {snapshot.pages}"
        )
        for violation in found[:SHOWN]:
            self._tell(f"  {violation}")
            self._tell(f"    struck before: {_before(violation.at, killer.struck)}")
        killer.struck, killer.trouble = [], []

    async def _judge(self, outcome: Outcome, ingress: list[float]) -> list[Violation]:
        """Violations of one request; none where undisturbed answers differ in the same way, and may."""
        found = list(violations(outcome, self._expected[outcome.request.entry], ingress))
        if self._layout.exact or not any(
            violation.kind in ("changed", "lost", "repeated", "usage") for violation in found
        ):
            return found
        entry = next(entry for entry in self._entries if entry.name == outcome.request.entry)
        for company in _COMPANY:
            others = [other for other in self._entries if other is not entry][: company - 1]
            again = (await ask(self._stack, [entry, *others], company))[entry.name]
            if not list(violations(outcome, again, ingress)):
                self._undecided += 1
                return []
        return found


def _before(at: float, struck: list[Struck]) -> list[str]:
    """Blows of the last seconds before a moment."""
    return [
        f"{blow.at - at:+.2f} s {blow.blow.how} {'+'.join(blow.pids)}" for blow in struck if -20 < blow.at - at <= 0
    ]
