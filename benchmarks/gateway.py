"""What the gateway costs: CPU time of an ingress for a request and for a token, with nothing of it on and with all.

    headrace cache prepare                         # once, with [cache] encoder = a MiniLM
    python -m benchmarks.gateway --static DIRECTORY [--keys 10000] [--streams 64] [--body 600] [--many 1000]

All of it: keys, each with limits of requests, tokens and answers at once, its project with a limit of tokens and its
organisation with a budget; the exact cache; matching by meaning, where each question stops at the gate, and is embedded
and remembered afterwards by a real MiniLM; guards on what goes in (personal data, injection, phrases) and on what comes
out (personal data and secrets, which would be masked). Every request is of another key and asks another question.

The processes are the real ones, but for the worker of the model that is asked, which draws the tokens of a text at once
(`stub_worker`). An event and a request are measured as in `benchmarks.control`; a request is an answer of one token.
`--many` streams are open at once in the end: none may be refused or lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import control
from bus.messages.accounts import Allowance, Key
from bus.messages.control import AddKey, AddProject, SetAllowance
from cli.accounts.asking import order

NOTHING: Final = control.CONFIG
EVERYTHING: Final = (
    control.CONFIG.replace(
        "exact = false",
        'memory = "256MiB"\nencoder = "minilm"\n[[cache.namespace]]\nname = "faq"\nmodels = ["bench"]\nsemantic = "on"',
    )
    + """
[accounts]
keys = "required"
[[price]]
model = "*"
input = 0.1
output = 0.4
[[guard]]
name = "personal"
kind = "pii"
action = "mask"
models = ["bench"]
[[guard]]
name = "secrets"
kind = "secrets"
action = "mask"
models = ["bench"]
[[guard]]
name = "injection"
kind = "injection"
stage = "input"
models = ["bench"]
[[guard]]
name = "phrases"
kind = "jailbreak"
stage = "input"
action = "block"
models = ["bench"]
[[model]]
name = "minilm"
source = "catalog:all-minilm-l6-v2"
"""
)
PROJECTS: Final = 100
PLENTY: Final = 1 << 40
PROSE: Final = (Path(__file__).parent / "data" / "prose.txt").read_text(encoding="utf-8").replace("[", "(")
TOPICS: Final = ("harbour", "library", "station", "museum", "market", "theatre", "garden", "bridge")


class Clients(control.Clients):
    """Chats, each of another key, and another question."""

    def __init__(self, port: int, keys: list[str], body: int) -> None:
        super().__init__(port)
        self._keys, self._before = keys, (PROSE * (body // len(PROSE) + 1))[:body]

    def _request(self, tokens: int, priority: int = 0, prompts: int = 1) -> bytes:
        at, self._asked = self._asked, self._asked + prompts
        question = f"Which way leads from the {TOPICS[at % 8]} to house number {at} of the old town by the river?"
        body = json.dumps({
            "model": "bench", "messages": [{"role": "system", "content": self._before},
                                           {"role": "user", "content": question}],
            "max_tokens": tokens, "priority": priority, "temperature": 0, "ignore_eos": True, "stream": True,
        })  # fmt: skip
        key = f"authorization: Bearer {self._keys[at % len(self._keys)]}\r\n" if self._keys else ""
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{key}"
            f"content-length: {len(body)}\r\n\r\n{body}"
        ).encode()


class Told(NamedTuple):
    """What `/metrics` says, of all ingresses: the mean in microseconds, and the share within the target."""

    requests_us: float
    within_1_ms: float
    tokens_us: float
    within_25_us: float


def add_keys(keys: list[str]) -> None:
    """Have the accounts process know them, with their limits."""
    changes: list[AddProject | AddKey | SetAllowance] = []
    projects = [f"org{number % 10}/p{number}" for number in range(min(PROJECTS, len(keys)))]
    for project in projects:
        changes += (AddProject(0, project), _limit("project", project, "output_tokens", 60))
    for organisation in sorted({project.partition("/")[0] for project in projects}):
        changes.append(SetAllowance(0, Allowance(0, "organisation", organisation, "money", PLENTY * 1000, 0, "month")))
    for number, key in enumerate(keys):
        _, id, secret = key.split("-")
        digest = hashlib.sha256(secret.encode()).digest()
        changes.append(AddKey(0, Key(id, "bench", projects[number % len(projects)], digest)))
        for dimension, window_s in (("requests", 60), ("total_tokens", 60), ("concurrency", 0)):
            changes.append(_limit("key", id, dimension, window_s))
    order(*changes)


def _limit(kind: str, scope: str, dimension: str, window_s: int) -> SetAllowance:
    return SetAllowance(0, Allowance(0, kind, scope, dimension, PLENTY, window_s))  # type: ignore[arg-type]


@contextmanager
def running(options: argparse.Namespace, config: str, keys: list[str], slots: int) -> Iterator[control.Stack]:
    """A stack, with those keys."""
    home = Path(tempfile.mkdtemp(prefix="hrb", dir="/dev/shm"))
    others: tuple[str, ...] = ()
    if keys:
        others = ("accounts@host", "scheduler@minilm", "worker@minilm.0.0")
        shutil.copytree(options.static, home / "s" / "cache-static")
    asks = lambda port: Clients(port, keys, options.body)  # noqa: E731
    stack = control.Stack(home, options.ingresses, slots, config, others, asks)
    try:
        if keys:
            add_keys(keys)
            time.sleep(2.0)  # ingresses are told of the last of them
        yield stack
    finally:
        stack.end()
        shutil.rmtree(home, ignore_errors=True)


def told(port: int) -> Told:
    """See `Told`."""
    time.sleep(1.5)  # telemetry is told twice a second
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        found = re.findall(rf"^headrace_ingress_{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def within(name: str, bound: str) -> float:
        found = re.findall(rf'^headrace_ingress_{name}_bucket{{[^}}]*le="{bound}"[^}}]*}} (\S+)$', text, re.MULTILINE)
        return sum(map(float, found)) / max(1.0, total(f"{name}_count"))

    return Told(
        total("request_cpu_seconds_sum") / max(1.0, total("request_cpu_seconds_count")) * 1e6,
        within("request_cpu_seconds", "0.001"),
        total("token_cpu_seconds_sum") / max(1.0, total("token_cpu_seconds_count")) * 1e6,
        within("token_cpu_seconds", "2.5e-05|0.000025"),
    )


def many(stack: control.Stack, options: argparse.Namespace) -> str:
    """So many streams at once, each three times. `control.Clients` ends the program where one is refused or lost."""
    clients, begun = stack.clients, time.monotonic()
    stack.board.step_s = 0.02
    before = clients.requests
    clients.open(options.many, options.tokens)
    clients.run(lambda: clients.requests - before >= 2 * options.many)
    clients.let_end()
    seconds, answered = time.monotonic() - begun, clients.requests - before
    return (
        f"{options.many:,} streams at once: {answered:,} answers of {options.tokens} tokens in {seconds:.1f} s, none "
        f"refused, none lost"
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", type=Path, required=True, help="directory made by `headrace cache prepare`")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rate", type=float, default=4000.0, help="most tokens a second that the worker draws")
    parser.add_argument("--body", type=int, default=600, help="characters before the question")
    parser.add_argument("--ingresses", type=int, default=1)
    parser.add_argument("--many", type=int, default=1000)
    options = parser.parse_args()
    control.PATIENCE_S = 300.0  # type: ignore[misc]
    keys = [f"sk-k{number:011x}-{os.urandom(24).hex()}" for number in range(options.keys)]
    table = Table("", "CPU of", "an ingress", "all processes", "by /metrics", "within the target")
    for name, config, shown in (("nothing on", NOTHING, []), ("everything on", EVERYTHING, keys)):
        with running(options, config, shown, options.streams) as stack:
            cost = control.measure(stack, options, name)
            seen = told(stack.port)
        for what, us, mean, within in (
            ("a request", cost.us_per_request, seen.requests_us, f"{seen.within_1_ms:.1%} ≤ 1 ms"),
            ("an event", cost.us_per_event, seen.tokens_us, f"{seen.within_25_us:.1%} ≤ 25 µs"),
        ):
            every = sum(value for role, value in us.items() if role != "clients")
            table.add_row(name, what, f"{us['ingress']:,.0f} µs", f"{every:,.0f} µs", f"{mean:,.1f} µs", within)
    last = ""
    if options.many:
        with running(options, EVERYTHING, keys, options.many) as stack:
            last = many(stack, options)
    console = Console(width=120)
    console.print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.keys:,} keys  {options.streams} streams  {options.ingresses} ingresses  {options.body} characters"
    )
    console.print(table)
    console.print(last)


if __name__ == "__main__":
    sys.exit(main())
