"""What the gateway costs: CPU time of an ingress for a request and for a token, with nothing of it on and with all.

    headrace cache prepare                                            # once, with [cache] encoder = a MiniLM
    headrace router calibrate routing_eval.json --out score.json      # once
    python -m benchmarks.gateway --static DIRECTORY --score FILE [--keys 1 10000] [--streams 64] [--body 600]
                                 [--many 1000]

All of it: keys, each with limits of requests, tokens and answers at once, its project with a limit of tokens and its
organisation with a budget; a route with two rules and a score; the exact cache; matching by meaning, where each
question stops at the gate and is remembered for others, with the encoder's processes beside; guards on what goes in
(personal data, injection, phrases) and on what comes out (personal data and secrets, which would be masked). Every
request is of another key and asks another question.

The processes are the real ones, but for the worker of the model that is asked, which draws the tokens of a text at
once (`stub_worker`). A token and a request are measured as in `benchmarks.control`; a request is an answer of one
token, and what is done for it after its end is counted too. What a process takes while nobody asks for anything is
measured first, and taken off: of 40 requests a second each would be told a fortieth of it. `--many` streams are open at
once in the end: none may be refused or lost, and each must end with all of its tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from accounts.core.directory import Record
from accounts.database import Database
from benchmarks import control
from bus.messages.accounts import Allowance, Key, Project

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
[[upstream]]
name = "nowhere"
base_url = "http://127.0.0.1:9/v1"
[[upstream.model]]
name = "large"
[[route]]
name = "auto"
[[route.target]]
model = "bench"
[[route.rule]]
name = "long"
models = ["large"]
prompt_tokens_above = 6000
[[route.rule]]
name = "code"
models = ["large"]
contains = "(?i)traceback|segfault"
[route.score]
file = "{score}"
small = "bench"
large = "large"
threshold = 0.001
band = 0.0
"""
)
PROJECTS: Final = 100
PLENTY: Final = 1 << 40
PROSE: Final = (Path(__file__).parent / "data" / "prose.txt").read_text(encoding="utf-8").replace("[", "(")
WORDS: Final = sorted(set(re.findall("[a-z]{4,9}", PROSE.lower())))
PER_S: Final = 40.0  # requests
IDLE_S: Final = 6.0
MANY_RATE: Final = 8000.0  # tokens a second, of all streams together


class Clients(control.Clients):
    """Chats, each of another key, and another question.

    Attributes:
        tokens: that ended answers had, by their usage; `short` are answers that had fewer than they were to have.
    """

    def __init__(self, port: int, model: str, keys: list[str], body: int) -> None:
        super().__init__(port)
        self._model, self._keys, self._before = model, keys, (PROSE * (body // len(PROSE) + 1))[:body]
        self.tokens = self.short = 0

    def _request(self, tokens: int, priority: int = 0, prompts: int = 1) -> bytes:
        at, self._asked = self._asked, self._asked + prompts
        # Of words at random, so that no question is near another one.
        question = " ".join(random.Random(at).sample(WORDS, 9)).capitalize() + "?"
        body = json.dumps({
            "model": self._model, "messages": [{"role": "system", "content": self._before},
                                               {"role": "user", "content": question}],
            "max_tokens": tokens, "priority": priority, "temperature": 0, "ignore_eos": True, "stream": True,
        })  # fmt: skip
        key = f"authorization: Bearer {self._keys[at % len(self._keys)]}\r\n" if self._keys else ""
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{key}"
            f"content-length: {len(body)}\r\n\r\n{body}"
        ).encode()


class Counting(Clients):
    """The same, with usage: every token of every answer is counted."""

    tail = 1000

    def _request(self, tokens: int, priority: int = 0, prompts: int = 1) -> bytes:
        self._wanted = tokens
        whole = super()._request(tokens, priority, prompts)
        head, _, body = whole.partition(b"\r\n\r\n")
        body = body[:-1] + b', "stream_options": {"include_usage": true}}'
        head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head)
        return head + b"\r\n\r\n" + body

    def _ended(self, end: bytes) -> None:
        found = re.findall(rb'"completion_tokens":(\d+)', end)
        tokens = int(found[-1]) if found else 0
        self.tokens += tokens
        self.short += tokens != self._wanted


class Told(NamedTuple):
    """What `/metrics` says, of all ingresses: the mean in microseconds, and the share within the target."""

    requests_us: float
    within_1_ms: float
    tokens_us: float
    within_25_us: float


def put_keys(state: Path, keys: Sequence[str]) -> None:
    """Into the file of the accounts process, before it starts: one order each would take minutes."""
    projects = [f"org{number % 10}/p{number}" for number in range(min(PROJECTS, len(keys)))]
    numbers = itertools.count(1)

    def limit(kind: str, scope: str, dimension: str, window_s: int, period: str = "") -> Allowance:
        return Allowance(next(numbers), kind, scope, dimension, PLENTY, window_s, period)  # type: ignore[arg-type]

    records: list[Record] = []
    for project in projects:
        records += (Project(project), limit("project", project, "output_tokens", 60))
    for organisation in sorted({project.partition("/")[0] for project in projects}):
        records.append(limit("organisation", organisation, "money", 0, "month"))
    for number, key in enumerate(keys):
        _, id, secret = key.split("-")
        records.append(Key(id, "bench", projects[number % len(projects)], hashlib.sha256(secret.encode()).digest()))
        records += (limit("key", id, "requests", 60), limit("key", id, "total_tokens", 60))
        records.append(limit("key", id, "concurrency", 0))
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(state, Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    database.change(records, (), ())
    database.close()


@contextmanager
def running(
    options: argparse.Namespace, keys: list[str], slots: int, kind: type[Clients] = Clients
) -> Iterator[control.Stack]:
    """A stack with those keys, and all that the gateway has; without keys nothing of it."""
    home = Path(tempfile.mkdtemp(prefix="hrb", dir="/dev/shm"))
    others: tuple[str, ...] = ()
    config = NOTHING
    if keys:
        others = ("accounts@host", "scheduler@minilm", "worker@minilm.0.0")
        config = EVERYTHING.replace("{score}", str(options.score.resolve()))
        put_keys(home / "s", keys)
        shutil.copytree(options.static, home / "s" / "cache-static")
    asks = lambda port: kind(port, "auto" if keys else "bench", keys, options.body)  # noqa: E731
    stack = control.Stack(home, options.ingresses, slots, config, others, asks)
    try:
        if keys:
            time.sleep(3.0)  # ingresses have heard of all keys, and found the vectors
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
        found = re.findall(
            rf'^headrace_ingress_{name}_bucket{{[^}}]*le="(?:{bound})"[^}}]*}} (\S+)$', text, re.MULTILINE
        )
        return sum(map(float, found)) / max(1.0, total(f"{name}_count"))

    return Told(
        total("request_cpu_seconds_sum") / max(1.0, total("request_cpu_seconds_count")) * 1e6,
        within("request_cpu_seconds", "0.001"),
        total("token_cpu_seconds_sum") / max(1.0, total("token_cpu_seconds_count")) * 1e6,
        within("token_cpu_seconds", "2.5e-05|0.000025"),
    )


def many(stack: control.Stack, options: argparse.Namespace) -> str:
    """So many streams at once, each twice. `control.Clients` ends the program where one is refused or lost."""
    clients, begun = stack.clients, time.monotonic()
    assert isinstance(clients, Counting)
    stack.board.step_s = options.many / MANY_RATE
    clients.open(options.many, options.tokens)
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, stack.queue().running)
        return bool(clients.requests >= options.many)

    clients.run(control._now_and_then(look))
    clients.let_end()
    seconds, answered = time.monotonic() - begun, clients.requests
    if clients.short or clients.tokens != answered * options.tokens:
        sys.exit(f"{clients.short} of {answered} answers are not whole: {clients.tokens} tokens")
    return (
        f"{options.many:,} streams at once ({most:,} running at most): {answered:,} answers in "
        f"{seconds:.1f} s, none refused, none lost, {clients.tokens:,} tokens as asked for"
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", type=Path, required=True, help="directory made by `headrace cache prepare`")
    parser.add_argument("--score", type=Path, required=True, help="file made by `headrace router calibrate`")
    parser.add_argument("--keys", type=int, nargs="*", default=[1, 10_000])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rate", type=float, default=4000.0, help="most tokens a second that the worker draws")
    parser.add_argument("--body", type=int, default=600, help="characters before the question")
    parser.add_argument("--ingresses", type=int, default=1)
    parser.add_argument("--many", type=int, default=1000, help="streams at once, in the end; 0 leaves this out")
    options = parser.parse_args()
    control.PATIENCE_S = 300.0  # type: ignore[misc]
    # Few enough requests that the encoder, which takes a core for some milliseconds for each, is not all that runs.
    control.SLOWER_S, control.WINDOW_S = options.streams / PER_S, 8.0  # type: ignore[misc]
    keys = [f"sk-k{number:011x}-{os.urandom(24).hex()}" for number in range(max(options.keys, default=1))]
    table = Table("", "CPU of", "an ingress", "all processes", "by /metrics", "within the target")
    for count in (0, *options.keys):
        name = f"everything on, {count:,} keys" if count else "nothing on"
        with running(options, keys[:count], options.streams) as stack:
            idle = stack.watch(control._for(IDLE_S))
            cost = control.measure(stack, options, name)
            seen = told(stack.port)
        idle_us = {role: cpu_s / idle.seconds * 1e6 for role, cpu_s in idle.cpu_s.items()}
        # Guards hold a word back until its end is seen, so that an event may have several tokens.
        a_token = cost.events_per_s / cost.drawn_per_s
        token_us = {role: us * a_token for role, us in cost.us_per_event.items()}
        request_us = {role: us - idle_us[role] / PER_S for role, us in cost.us_per_request.items()}
        for what, us, mean, within in (
            ("a second idle", idle_us, 0.0, ""),
            ("a request", request_us, seen.requests_us, f"{seen.within_1_ms:.1%} ≤ 1 ms"),
            ("a token", token_us, seen.tokens_us, f"{seen.within_25_us:.1%} ≤ 25 µs"),
        ):
            every = sum(value for role, value in us.items() if role != "clients")
            table.add_row(
                name, what, f"{us['ingress']:,.0f} µs", f"{every:,.0f} µs", f"{mean:,.1f} µs" if mean else "", within
            )
    last = ""
    if options.many:
        with running(options, keys, options.many, Counting) as stack:
            last = many(stack, options)
    console = Console(width=120)
    console.print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.streams} streams  {options.ingresses} ingresses  {options.body} characters"
    )
    console.print(table)
    console.print(last)


if __name__ == "__main__":
    main()
