"""`python -m chaos`: the long proof, in slices that can be taken up again and are added up."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import cyclopts
import msgspec
from cyclopts import Parameter

from chaos.catalogue import catalogue
from chaos.layouts import LAYOUTS
from chaos.report import load, table, total
from chaos.slices import perform, tasks
from chaos.undisturbed import KEPT, state

app = cyclopts.App(name="chaos", help=__doc__, result_action="return_value")


@app.default
def run(
    *,
    kills: int = 1000,
    seed: int = 1,
    output: Path | None = None,
    minutes: float = 0.0,
    layouts: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    spare: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    mean: float = 2.0,
    size: int = 40,
) -> int:
    """Kill, compare, audit. Exit code 1 on any violation.

    Args:
        kills: How many, over all slices.
        seed: Of the first slice; each has the next one.
        output: Directory for the slices' results, report.txt, report.json, and the logs where something was violated.
            Slices that it holds already, of the same code, are not done again. A new one when not given.
        minutes: Begin no slice after so many; 0 is no limit. Call it again with the same output to go on.
        layouts: Stacks to do it to; all when not given.
        spare: Roles that are never struck.
        mean: Mean seconds before a blow that neither follows at once nor waits for tokens.
        size: Kills in one slice.
    """
    into = output or KEPT / time.strftime("run-%Y%m%d-%H%M%S")
    into.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + minutes * 60 if minutes else float("inf")
    entries, done = catalogue(), []
    now = state(entries)
    every = [layout.name for layout in LAYOUTS]
    for task in tasks(kills, seed, size, layouts or every, mean, frozenset(spare or ())):
        name = f"{task.seed:04d}-{task.layout}"
        result = into / f"slice-{name}.json"
        part = load(result, now)
        if part is None and time.monotonic() > until:
            print(f"time is over; go on with --output {into}", flush=True)
            break
        if part is None:
            part = perform(task, entries, lambda line: print(line, flush=True), into / f"logs-{name}")
            result.write_bytes(msgspec.json.encode(part))
        done.append(part)
    text = table(done)
    (into / "report.txt").write_text(text + "\n")
    (into / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(total(done)), indent=1))
    print(f"\n{text}\n\n{into / 'report.txt'}")
    return 1 if any(part.violations for part in done) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stack is stopped on the way out
    sys.exit(app())
