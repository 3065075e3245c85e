"""How long streams stand still when a process dies: a stack of its own, `kill -9` under load, the longest gap.

    python -m benchmarks.recovery [--kills 5] [--streams 4] [--victims worker scheduler+ingress] [--standby 1]

For each victim, `--kills` times: `--streams` answers are streamed, one process is killed in the middle (or two, at the
same time), and the longest time between two tokens of any stream counts. `none` kills nobody: the gap that an
undisturbed stream has. Clients whose connection breaks try again every 20 ms; a supervisor is started again after each
of its deaths. Before all this, `up` to the first token is measured with the weights kept from an earlier start. Texts
are not compared here; `tests/chaos` and `tests/system` do that.
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
NAMES = {
    "worker": "worker@bench.0.0",
    "scheduler": "scheduler@bench",
    "kv": "kv@host",
    "ingress": "ingress@0",
    "metrics": "metrics@host",
    "supervisor": "supervisor@host",
}
PAIRS = ["worker+kv", "worker+scheduler", "scheduler+ingress"]
VICTIMS = [*NAMES, *PAIRS, "none"]


class Stack:
    """Processes in a directory of their own."""

    def __init__(self, home: Path, options: argparse.Namespace, template: str = MODEL) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.config, self.standby = f"http://127.0.0.1:{port}", home / "headrace.toml", options.standby
        model = template.format(source=options.model, dtype=options.dtype, standby=options.standby)
        self.config.write_text(
            f'[ingress]\nhttp = "127.0.0.1:{port}"\nprocesses = {options.ingresses}\n'
            f'[cache]\nexact = false\n[kv]\narena = "512MiB"\n{model}'
        )
        # Read by this process too, whose questions go to this stack.
        os.environ.update(
            HEADRACE_MODELS=str(models_directory()), HEADRACE_RUN=str(home / "r"), HEADRACE_STATE=str(home / "s")
        )

    def headrace(self, *arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"headrace {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def up_to_first_token(self, patience_s: int = 120) -> float:
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
            if time.monotonic() - began > patience_s:
                sys.exit(f"no token after {patience_s} s")
            time.sleep(0.02)
        launched.wait()
        return took

    def whole(self) -> None:
        """Wait until everything is ready, standbys too."""
        with Caller() as caller:
            while any(entry.state != "ready" for entry in gather(caller).processes):
                time.sleep(0.1)


def stream(url: str, index: int, tokens: int, gaps: list[float], started: threading.Semaphore) -> None:
    """One answer, wherever it goes on; its longest gap is added."""
    body = {"model": "bench", "prompt": f"The story of the number {index} begins", "max_tokens": tokens,
            "temperature": 0, "ignore_eos": True, "stream": True}  # fmt: skip
    last, longest, seen, event, done = 0.0, 0.0, 0, "", False
    while not done:
        method, path, headers = "POST", "/v1/completions", {}
        if event:
            method, path, headers = "GET", f"/v1/streams/{event.partition(':')[0]}", {"Last-Event-ID": event}
        try:
            with httpx.stream(method, url + path, json=None if event else body, headers=headers, timeout=120) as reply:
                for line in reply.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        event = value
                    elif name == "data" and value == "[DONE]":
                        done = True
                    elif name == "data":
                        piece: dict[str, Any] = json.loads(value)
                        if "error" in piece:
                            sys.exit(f"a stream failed: {line}")
                        now = time.monotonic()
                        longest, last = max(longest, now - last if last else 0.0), now
                        seen += 1
                        if seen == 8:
                            started.release()
        except httpx.TransportError:
            time.sleep(0.02)
    gaps.append(longest)


def gap_of_a_kill(stack: Stack, names: list[str], options: argparse.Namespace) -> float:
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
    pids = running_names()
    for name in names:
        os.kill(pids[name], signal.SIGKILL)
    if NAMES["supervisor"] in names:
        stack.headrace("up", "--detach", "-c", str(stack.config))
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
    parser.add_argument("--ingresses", type=int, default=1)
    parser.add_argument("--victims", nargs="+", default=VICTIMS, choices=VICTIMS)
    parser.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="hrb", dir="/tmp"))
    stack = Stack(home, options)
    print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.model}  {options.dtype}  standby {options.standby}  "
        f"{options.ingresses} ingresses  {options.streams} streams"
    )
    try:
        ups = []
        for _ in range(3):
            stack.headrace("down")
            ups.append(stack.up_to_first_token())
        print(f"up to first token: {ups[0]:.2f} s with weights to lay out, then {statistics.median(ups[1:]):.2f} s")
        print(f"{'victim':19}{'kills':>6}{'p50 s':>8}{'max s':>8}   longest gap between two tokens of a stream")
        for victim in options.victims:
            gaps, names = [], [NAMES[part] for part in victim.split("+") if part != "none"]
            for _ in range(options.kills):
                stack.whole()
                gaps.append(gap_of_a_kill(stack, names, options))
            print(f"{victim:19}{len(gaps):6}{statistics.median(gaps):8.2f}{max(gaps):8.2f}", flush=True)
    finally:
        stack.headrace("down", "--deadline", "0")
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(home)


if __name__ == "__main__":
    main()
