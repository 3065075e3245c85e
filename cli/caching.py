"""`headrace cache`: what is kept and what it saves, what would be matched by meaning, and orders about both. Any
ingress answers for the host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bus.catalogue import ModelMissing, locate
from bus.config import Config
from bus.messages.caching import CacheReport, CacheStatus, CalibrateCache, FlushCache, GetCache, GetCacheReport
from bus.messages.control import Ok, Question, Rejected, Reply
from bus.names import state_directory
from cli.control import Caller, Unreachable, running_names
from cli.supervisor.logfiles import printable

STATIC: Final = "cache-static"


def status(*, as_json: bool) -> int:
    """What is kept, and what it has saved."""
    answer = _ask(GetCache(0))
    if not isinstance(answer, CacheStatus):
        return 1
    if as_json:
        spaces = [{**msgspec.structs.asdict(space), "counts": dict(space.counts)} for space in answer.spaces]
        print(msgspec.json.encode({**msgspec.structs.asdict(answer), "spaces": spaces}).decode())
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in (
        "namespace",
        "answers",
        "MiB",
        "exact",
        "semantic",
        "miss",
        "bypass",
        "tokens saved",
        "core s saved",
    ):
        table.add_column(heading, justify="left" if heading == "namespace" else "right")
    table.add_column(f"saved {answer.currency}".strip(), justify="right")
    table.add_column("by meaning")
    for space in answer.spaces:
        seen = dict(space.counts)
        tokens = seen.get("saved_prompt_tokens", 0) + seen.get("saved_generated_tokens", 0)
        table.add_row(
            space.name, f"{space.entries:,}", f"{space.bytes / 2**20:.1f}",
            *(f"{seen.get(kind, 0):,}" for kind in ("exact", "semantic", "miss", "bypass")),
            f"{tokens:,}", f"{seen.get('saved_compute_us', 0) / 1e6:,.1f}",
            f"{space.saved_cost:.4f}" if answer.currency else "", printable(space.state),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"{answer.bytes / 2**20:.1f} of {answer.max_bytes / 2**20:.0f} MiB")
    if answer.problem:
        console.print(f"nothing is cached: {printable(answer.problem)}", style="red")
    return 0


def report(space: str, *, limit: int, as_json: bool) -> int:
    """What would be matched by meaning."""
    answer = _ask(GetCacheReport(0, space, limit))
    if not isinstance(answer, CacheReport):
        return 1
    if as_json:
        lists = {part: [msgspec.structs.asdict(one) for one in getattr(answer, part)] for part in ("steps", "pairs")}
        print(msgspec.json.encode({**msgspec.structs.asdict(answer), **lists}).decode())
        return 0
    console = Console()
    console.print(
        f"{answer.observations} matches were compared in {answer.space}; a budget of {answer.budget:.1%} takes "
        f"{answer.needed} without a wrong one"
    )
    steps = Table("threshold", "would serve", "wrong", "wrong at most (95 %)", box=None, pad_edge=False)
    for step in answer.steps:
        steps.add_row(f"{step.threshold:.3f}", f"{step.served}", f"{step.wrong}", f"{step.bound:.1%}")
    pairs = Table("when", "kind", "score", "cosine", "answers", "asked", "known", box=None, pad_edge=False)
    for pair in answer.pairs:
        when = time.strftime("%d %H:%M:%S", time.localtime(pair.at_ms / 1000))
        pairs.add_row(
            when, pair.kind, f"{pair.score:.2f}", f"{pair.similarity:.2f}", "same" if pair.agree else "[red]differ[/]",
            _plain(pair.asked), _plain(pair.known),
        )  # fmt: skip
    if answer.steps:
        console.print(steps)
        console.print(pairs)
    return 0


def flush(space: str, *, everything: bool, reason: str, as_json: bool) -> int:
    """Serve nothing any more of what is kept."""
    if bool(space) == everything:
        print("give the name of a namespace, or --all; headrace cache status lists the names", file=sys.stderr)
        return 2
    return _order(FlushCache(0, space, reason), as_json)


def calibrate(space: str, *, budget: float, off: bool, reason: str, as_json: bool) -> int:
    """Choose a threshold by what was seen, or stop."""
    if not 0 <= budget < 1:
        print("--budget: a share above 0 and below 1, as 0.02", file=sys.stderr)
        return 2
    return _order(CalibrateCache(0, space, budget, off, reason), as_json)


def prepare(config: Config, encoder: Path | None) -> int:
    """Make the static vectors. Not here: this takes torch, and processes share no code."""
    if encoder is None:
        if not config.cache.encoder:
            print("name the encoder: [cache] encoder in the configuration, or --encoder DIRECTORY", file=sys.stderr)
            return 2
        sources = [model.source for model in config.model if model.name == config.cache.encoder]
        if not sources:
            print(f"[cache] encoder: no model named {config.cache.encoder!r} is configured", file=sys.stderr)
            return 78
        try:
            encoder = locate(sources[0])
        except ModelMissing as error:
            print(error, file=sys.stderr)
            return 69
    command = [sys.executable, "-m", "ingress.cache.semantic.prepare", str(encoder), str(state_directory() / STATIC)]
    # Beside whatever else runs here: threads that wait for each other do not keep the cores busy with that.
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
    return subprocess.run(command, env=environment, check=False).returncode


def _order(order: FlushCache | CalibrateCache, as_json: bool) -> int:
    answer = _ask(order)
    if not isinstance(answer, Ok):
        return 1
    told = {"detail": answer.detail, "before": answer.before, "after": answer.after}
    print(msgspec.json.encode(told).decode() if as_json else answer.detail)
    return 0


def _ask(question: Question) -> Reply | None:
    """What any ingress says; None where none does, which is told."""
    try:
        with Caller() as caller:
            names = sorted(name for name in running_names(caller.run) if name.startswith("ingress@"))
            if not names:
                raise Unreachable(f"no ingress runs here (run directory {caller.run})")
            answer = caller.ask(names[0], question)
    except Unreachable as error:
        print(error, file=sys.stderr)
        return None
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return None
    return answer


def _plain(text: str) -> str:
    return printable(text).replace("[", r"\[")
