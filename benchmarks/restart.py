"""What clients see of `headrace restart --all`: a stack of its own under load, and everything restarted in turn.

    python -m benchmarks.restart [--rounds 3] [--streams 4] [--tokens 160] [--standby 1] [--replicas 1] [--ingresses 2]

`--streams` clients stream one answer after the other, from before a restart until after it. One whose connection breaks
goes on after its last event; one that is refused, or gets no connection, tries again 20 ms later, and that time counts.
For each round: how long the restart took, the longest gap between two tokens of a stream, how long after the command
it began, the longest time to a first token, connections that broke, requests that were refused and tried again, and
answers that failed. `undisturbed` is the same load for `--seconds` without a restart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.recovery import MODEL, Stack

AGAIN_S = 0.02


@dataclass
class Seen:
    """What the clients of one round saw."""

    answers: int = 0
    failed: int = 0
    refused: int = 0
    broken: int = 0
    gaps: list[tuple[float, float]] = field(default_factory=list)  # how long, and since when
    firsts: list[float] = field(default_factory=list)


def stream_one(url: str, prompt: str, tokens: int, seen: Seen) -> None:
    """One answer, to its end."""
    body = {"model": "bench", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "stream": True}  # fmt: skip
    began, last, event = time.monotonic(), 0.0, ""
    while True:
        go_on: dict[str, Any] = {
            "method": "GET", "url": f"{url}/v1/streams/{event.partition(':')[0]}", "headers": {"Last-Event-ID": event},
        }  # fmt: skip
        begin: dict[str, Any] = {"method": "POST", "url": f"{url}/v1/completions", "json": body}
        try:
            with httpx.stream(**go_on if event else begin, timeout=120) as reply:
                if reply.status_code in (429, 503):
                    seen.refused += 1
                elif reply.status_code != 200:
                    seen.failed += 1
                    return
                for line in reply.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        event = value
                    elif name == "data" and value == "[DONE]":
                        seen.answers += 1
                        return
                    elif name == "data":
                        if "error" in json.loads(value):
                            seen.failed += 1
                            return
                        now = time.monotonic()
                        if last:
                            seen.gaps.append((now - last, last))
                        else:
                            seen.firsts.append(now - began)
                        last = now
        except httpx.TransportError:
            seen.broken += 1
        time.sleep(AGAIN_S)


def under_load(stack: Stack, options: argparse.Namespace, seconds: float | None) -> tuple[Seen, float, float]:
    """Load, and in the middle of it a restart of everything, or nothing for so long. What was seen, when that began,
    and how long it took."""
    seen, enough = Seen(), threading.Event()

    def client(index: int) -> None:
        count = 0
        while not enough.is_set():
            stream_one(stack.url, f"The story of the number {index}.{count} begins", options.tokens, seen)
            count += 1

    clients = [threading.Thread(target=client, args=(index,)) for index in range(options.streams)]
    for each in clients:
        each.start()
    while len(seen.firsts) < options.streams:
        time.sleep(0.01)
    began = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
    else:
        done = subprocess.run([sys.executable, "-m", "cli.main", "restart", "--all"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        if options.verbose:
            print(done.stderr)
    took = time.monotonic() - began
    enough.set()
    for each in clients:
        each.join()
    return seen, began, took


def show(what: str, seen: Seen, began: float, took: float) -> None:
    gap, since = max(seen.gaps)
    print(
        f"{what:12}{took:8.1f}{gap:8.2f}{since - began:8.1f}{max(seen.firsts):8.2f}{seen.answers:9}{seen.broken:8}"
        f"{seen.refused:9}{seen.failed:8}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="catalog:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=160, help="of each answer")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the undisturbed load")
    parser.add_argument("--standby", type=int, default=0, choices=[0, 1])
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--ingresses", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="what the command says: the time of each process")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="hrb", dir="/tmp"))
    stack = Stack(home, options, MODEL + f"replicas = {options.replicas}\n")
    print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.model}  {options.dtype}  standby {options.standby}  {options.replicas} replicas  "
        f"{options.ingresses} ingresses  {options.streams} streams"
    )
    try:
        stack.up_to_first_token()
        print(
            f"{'':12}{'took s':>8}{'gap s':>8}{'at s':>8}{'first s':>8}{'answers':>9}{'broken':>8}{'refused':>9}"
            f"{'failed':>8}"
        )
        stack.whole()
        show("undisturbed", *under_load(stack, options, options.seconds))
        for _ in range(options.rounds):
            stack.whole()
            show("restart", *under_load(stack, options, None))
    finally:
        stack.headrace("down", "--deadline", "0")
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
