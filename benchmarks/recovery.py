"""How long streams stand still when a process dies: a stack of its own, `kill -9` under load, the longest gap.

    python -m benchmarks.recovery [--kills 5] [--streams 4] [--victims worker scheduler kv metrics] [--standby 1]

For each victim, `--kills` times: `--streams` answers are streamed, one process is killed in the middle, and the longest
time between two tokens of any stream counts. `none` kills nobody: the gap that an undisturbed stream has. Before them,
`up` to the first token is measured with the weights kept from an earlier start. Texts are not compared here; the tests
in `tests/system` do that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bus.names import models_directory
from cli.control import Caller, running_names
from cli.status import gather

MODEL = """
[[model]]
name = "bench"
source = "{source}"
dtype = "{dtype}"
slots = 16
standby = {standby}
"""
VICTIMS = {
    "worker": "worker@bench.0.0",
    "scheduler": "scheduler@bench",
    "kv": "kv@host",
    "metrics": "metrics@host",
    "none": "",
}


class Stack:
    """Processes in a directory of their own."""

    def __init__(self, home: Path, options: argparse.Namespace) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.config, self.standby = f"http://127.0.0.1:{port}", home / "headrace.toml", options.standby
        model = MODEL.format(source=options.model, dtype=options.dtype, standby=options.standby)
        self.config.write_text(f'[ingress]\nhttp = "127.0.0.1:{port}"\n[kv]\narena = "512MiB"\n{model}')
        # Read by this process too, whose questions go to this stack.
        os.environ.update(
            HEADRACE_MODELS=str(models_directory()), HEADRACE_RUN=str(home / "r"), HEADRACE_STATE=str(home / "s")
        )

    def headrace(self, *arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"headrace {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def up_to_first_token(self) -> float:
        began = time.monotonic()
        launched = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--detach", "-c", str(self.config)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        body = {"model": "bench", "prompt": "Once", "max_tokens": 1, "temperature": 0}
        while True:
            with suppress(httpx.HTTPError):
                reply = httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)
                if reply.status_code == 200:
                    took = time.monotonic() - began
                    break
            if time.monotonic() - began > 120:
                sys.exit("no token after 120 s")
            time.sleep(0.02)
        launched.wait()
        return took

    def whole(self) -> None:
        """Wait until everything is ready, standbys too."""
        with Caller() as caller:
            while any(entry.state != "ready" for entry in gather(caller).processes):
                time.sleep(0.1)


def stream(url: str, index: int, tokens: int, gaps: list[float], started: threading.Semaphore) -> None:
    """One answer; its longest gap is added."""
    body = {"model": "bench", "prompt": f"The story of the number {index} begins", "max_tokens": tokens,
            "temperature": 0, "ignore_eos": True, "stream": True}  # fmt: skip
    last, longest, seen = 0.0, 0.0, 0
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            piece: dict[str, Any] = json.loads(line[6:])
            if "error" in piece:
                sys.exit(f"a stream failed: {line}")
            now = time.monotonic()
            longest, last = max(longest, now - last if last else 0.0), now
            seen += 1
            if seen == 8:
                started.release()
    gaps.append(longest)


def gap_of_a_kill(stack: Stack, name: str, options: argparse.Namespace) -> float:
    gaps: list[float] = []
    started = threading.Semaphore(0)
    streams = [
        threading.Thread(target=stream, args=(stack.url, index, options.tokens, gaps, started))
        for index in range(options.streams)
    ]
    for each in streams:
        each.start()
    for _ in streams:
        started.acquire()
    if name:
        os.kill(running_names()[name], signal.SIGKILL)
    for each in streams:
        each.join()
    if len(gaps) < len(streams):
        sys.exit("a stream did not end")
    return max(gaps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="catalog:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--kills", type=int, default=5, help="of each victim")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=160, help="of each answer")
    parser.add_argument("--standby", type=int, default=0, choices=[0, 1])
    parser.add_argument("--victims", nargs="+", default=list(VICTIMS), choices=list(VICTIMS))
    parser.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="hrb", dir="/tmp"))
    stack = Stack(home, options)
    print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.model}  {options.dtype}  standby {options.standby}  {options.streams} streams"
    )
    try:
        ups = [stack.up_to_first_token() for _ in range(3) if stack.headrace("down") is None]
        print(f"up to first token: {ups[0]:.2f} s with weights to lay out, then {statistics.median(ups[1:]):.2f} s")
        print(f"{'victim':12}{'kills':>6}{'p50 s':>8}{'max s':>8}   longest gap between two tokens of a stream")
        for victim in options.victims:
            gaps = []
            for _ in range(options.kills):
                stack.whole()
                gaps.append(gap_of_a_kill(stack, VICTIMS[victim], options))
            print(f"{victim:12}{len(gaps):6}{statistics.median(gaps):8.2f}{max(gaps):8.2f}", flush=True)
    finally:
        stack.headrace("down", "--deadline", "0")
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(home)


if __name__ == "__main__":
    main()
