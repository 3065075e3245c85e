"""What everything but the model costs: token events a second through ingress, scheduler and bus, and CPU time for each.

    python -m benchmarks.control [--streams 64] [--tokens 256] [--requests 512] [--rate 30000] [--waiting 0 1000 10000]
                                 [--age 10000] [--ingresses 1] [--json]

The processes are the real ones, but for the worker, which draws the tokens of a text at once (`stub_worker`). Clients
are `--streams` HTTP connections of this process, each with one streamed completion after the other, with token ids for
a prompt. An ingress that falls behind tells several tokens in one event, so events are counted apart from tokens;
`--rate` bounds the tokens a second that the worker draws, 0 does not. What is measured, in this order:

  answers   events a second while `--requests` answers of `--tokens` tokens begin, are told, and end
  event     CPU time of each process for an event of answers that neither begin nor end meanwhile
  request   CPU time of each process for an answer of one token, its event included, at some 250 a second

Then event and request once more after `--age` requests, and with so many requests waiting in the queue, each in a stack
of its own: all slots are taken by those who are measured, and a higher priority lets others follow them. CPU time is
the kernel's, user and system, so neighbours change it little; rates they do change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.stub_worker import Board
from bus.names import models_directory
from cli.control import Caller, Unreachable
from cli.status import gather

CONFIG: Final = """
[ingress]
http = "127.0.0.1:{port}"
processes = {ingresses}
max_streams = 16384
[cache]
exact = false

[kv]
arena = "2GiB"
[log]
level = "warning"
[[model]]
name = "bench"
source = "catalog:smollm2-135m-instruct"
slots = {slots}
step_tokens = 16384
queue_requests = 65536
queue_tokens = 67108864
"""
PROMPT: Final = 32  # tokens
LONG: Final = 8000  # tokens of an answer that does not end while it is measured; the context is 8,192
LAST: Final = 1000  # the lowest priority
WAITING_AT_ONCE: Final = 16  # prompts of one call that waits: a connection for each would be more than are taken
SLOW_S: Final = 0.05  # a step, while others are got ready
SLOWER_S: Final = 0.25  # ... where slots must not become free faster than clients ask for them
WARM_S: Final = 0.5
WINDOW_S: Final = 4.0
PATIENCE_S: Final = 90.0


class Seen(NamedTuple):
    """What happened in some time. CPU seconds by process."""

    seconds: float
    events: int
    requests: int
    drawn: int
    cpu_s: dict[str, float]


class Queue(NamedTuple):
    """The scheduler's requests."""

    waiting: int
    running: int


class Cost(NamedTuple):
    """What one situation costs. CPU time in microseconds, by process.

    Attributes:
        answers_per_s: events a second with the answers' beginnings and ends; 0 where that was not measured.
        events_per_answer: of `--tokens` tokens.
        events_per_s: events a second of answers that go on, `drawn_per_s` the tokens that were drawn meanwhile.
    """

    situation: str
    answers_per_s: float
    events_per_answer: float
    events_per_s: float
    drawn_per_s: float
    us_per_event: dict[str, float]
    us_per_request: dict[str, float]


class Clients:
    """Streams on raw sockets. Events are counted in what comes, and nothing else is read of it.

    Each event has one `[`, as the text has none, and it cannot be cut in two; `[DONE]` has one more.

    Attributes:
        tail: bytes of an answer's end that are kept until it has ended.
    """

    tail = 7

    def __init__(self, port: int) -> None:
        self._port = port
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._again: dict[int, int] = {}  # tokens to ask for again
        self._ends: dict[int, bytes] = {}  # of what has come
        self._asked = 0
        self.events = self.requests = 0

    def __len__(self) -> int:
        return len(self._sockets)

    def open(self, count: int, tokens: int, *, again: bool = True, priority: int = 0, prompts: int = 1) -> list[int]:
        """So many connections; their numbers."""
        opened = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", self._port))
            connection.setblocking(False)
            number = connection.fileno()
            self._sockets[number], self._ends[number] = connection, b""
            if again:
                self._again[number] = tokens
            self._poll.register(number, select.EPOLLIN)
            connection.send(self._request(tokens, priority, prompts))
            opened.append(number)
        return opened

    def let_end(self) -> None:
        """Nobody asks again; return when all are answered."""
        self._again.clear()
        self.run(lambda: not self._sockets)

    def close(self, numbers: Iterable[int] = ()) -> None:
        """Hang up: these, or all."""
        for number in tuple(numbers) or tuple(self._sockets):
            self._close(number)

    def run(self, until: Callable[[], bool]) -> None:
        """Read until then."""
        patience = time.monotonic() + PATIENCE_S
        while not until():
            for number, _ in self._poll.poll(0.05):
                self._read(number)
            if time.monotonic() > patience:
                sys.exit(f"no end after {PATIENCE_S:.0f} s: {len(self)} connections, {self.requests} requests")

    def _read(self, number: int) -> None:
        data = self._sockets[number].recv(1 << 18)
        self.events += data.count(b"[")
        end = self._ends[number] = (self._ends[number] + data)[-self.tail :]
        if not data or (data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200")):
            sys.exit(f"a connection was refused: {data.decode()}")
        if end.endswith(b"\r\n0\r\n\r\n"):
            self.requests += 1
            self.events -= 1
            self._ended(end)
            self._ends[number] = b""
            if tokens := self._again.get(number):
                self._sockets[number].send(self._request(tokens))
            else:
                self._close(number)

    def _ended(self, end: bytes) -> None:
        """For those who look closer."""

    def _close(self, number: int) -> None:
        self._poll.unregister(number)
        self._sockets.pop(number).close()
        self._again.pop(number, None)

    def _request(self, tokens: int, priority: int = 0, prompts: int = 1) -> bytes:
        first, self._asked = self._asked, self._asked + prompts
        rest = "1000," * (PROMPT - 3) + "1000]"
        each = [f"[{10000 + at % 30000},{10000 + at // 30000},{rest}" for at in range(first, first + prompts)]
        body = (
            f'{{"model":"bench","prompt":[{",".join(each)}],"max_tokens":{tokens},"priority":{priority},'
            '"temperature":0,"ignore_eos":true,"stream":true}'
        )
        return (
            "POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}"
        ).encode()


class Stack:
    """The processes, in a directory of their own, and the clients.

    Args:
        config: with places for port, ingresses and slots.
        others: names of processes beside those that there are always.
        clients: makes the clients, of a port.
    """

    def __init__(
        self,
        home: Path,
        ingresses: int,
        slots: int,
        config: str = CONFIG,
        others: Sequence[str] = (),
        clients: Callable[[int], Clients] = Clients,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.port, path = port, home / "headrace.toml"
        path.write_text(config.format(port=port, ingresses=ingresses, slots=slots))
        self.board = Board.make(home / "board")
        # Read by this process too, whose questions go to this stack.
        os.environ.update(
            HEADRACE_MODELS=str(models_directory()), HEADRACE_RUN=str(home / "r"), HEADRACE_STATE=str(home / "s")
        )
        names = ["metrics@host", "kv@host", *others, "scheduler@bench"]
        names += [f"ingress@{index}" for index in range(ingresses)]
        commands = {name: ["cli.main", "run", name, "-c", str(path)] for name in names}
        stub = "worker@bench.0.0"
        commands[stub] = ["benchmarks.stub_worker", stub, str(path), str(home / "board")]
        self._started: list[subprocess.Popen[bytes]] = []
        for name, command in commands.items():
            with (home / f"{name}.log").open("wb") as log:
                self._started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                        start_new_session=True,
                    )
                )  # fmt: skip
        self.clients = clients(port)
        self.clients.run(_now_and_then(lambda: self._ready(commands)))
        self._processes = {"clients": [psutil.Process()]}
        for name, process in zip(commands, self._started, strict=True):
            self._processes.setdefault(name.partition("@")[0], []).append(psutil.Process(process.pid))

    def queue(self) -> Queue:
        """As the scheduler sees it."""
        with Caller() as caller:
            model = gather(caller).models[0]
        return Queue(model.waiting, model.running)

    def watch(self, until: Callable[[], bool]) -> Seen:
        """Read until then, and say what happened meanwhile."""
        began, at, clients = self._cpu_s(), time.monotonic(), self.clients
        events, requests, drawn = clients.events, clients.requests, self.board.drawn
        clients.run(until)
        cpu_s = {role: now - began[role] for role, now in self._cpu_s().items()}
        return Seen(
            time.monotonic() - at, clients.events - events, clients.requests - requests, self.board.drawn - drawn, cpu_s
        )

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    def _ready(self, names: Iterable[str]) -> bool:
        try:
            with Caller() as caller:
                found = gather(caller)
        except Unreachable:
            return False
        ready = {entry.name for entry in found.processes if entry.state == "ready"}
        return ready >= set(names) and all(model.replicas_ready for model in found.models) and bool(found.models)

    def _cpu_s(self) -> dict[str, float]:
        return {
            role: sum(times.user + times.system for times in (process.cpu_times() for process in processes))
            for role, processes in self._processes.items()
        }


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="hrb", dir="/dev/shm"))
    stack = Stack(home, options.ingresses, options.streams)
    try:
        yield stack
    finally:
        stack.end()
        shutil.rmtree(home, ignore_errors=True)


def measure(stack: Stack, options: argparse.Namespace, situation: str, waiting: int = 0) -> Cost:
    """Measure one situation. Afterwards nothing runs, and nothing waits."""
    clients, streams = stack.clients, options.streams
    step_s = streams / options.rate if options.rate else 0.0
    answers = None
    if not waiting:
        stack.board.step_s = step_s
        clients.open(streams, options.tokens)
        answered = clients.requests + streams
        clients.run(lambda: clients.requests >= answered)
        enough = clients.requests + options.requests
        answers = stack.watch(lambda: clients.requests >= enough)
        clients.let_end()

    stack.board.step_s = SLOW_S
    begun = clients.events + 2 * streams
    long = clients.open(streams, LONG, again=False)
    clients.run(lambda: clients.events >= begun)
    last = stack.board.drawn + streams * (LONG - 500)  # a token that is drawn before any of them ends
    waiting -= waiting % WAITING_AT_ONCE
    clients.open(waiting // WAITING_AT_ONCE, LONG, again=False, priority=LAST, prompts=WAITING_AT_ONCE)
    clients.run(_now_and_then(lambda: stack.queue().waiting == waiting))
    stack.board.step_s = step_s
    stack.watch(_for(WARM_S))
    event = stack.watch(_either(_for(WINDOW_S), lambda: stack.board.drawn > last))
    stack.board.step_s = SLOW_S
    clients.run(_for(WARM_S))
    clients.open(3 * streams, 1)
    clients.run(_now_and_then(lambda: stack.queue().waiting == waiting + 3 * streams))
    stack.board.step_s = SLOWER_S
    clients.close(long)
    clients.run(_for(4 * SLOWER_S))
    request = stack.watch(_for(WINDOW_S))
    if stack.queue().waiting < waiting:
        print(
            f"{situation}: some of them got slots: an answer to them is counted as cost of a request", file=sys.stderr
        )
    clients.close()
    clients.run(_now_and_then(lambda: stack.queue() == Queue(0, 0)))
    return Cost(
        situation,
        answers.events / answers.seconds if answers else 0.0,
        answers.events / answers.requests if answers else 0.0,
        event.events / event.seconds,
        event.drawn / event.seconds,
        {role: cpu_s / event.events * 1e6 for role, cpu_s in event.cpu_s.items()},
        {role: cpu_s / request.requests * 1e6 for role, cpu_s in request.cpu_s.items()},
    )


def grow_old(stack: Stack, options: argparse.Namespace) -> None:
    """So many requests of one token."""
    stack.board.step_s = 0.0
    enough = stack.clients.requests + options.age
    stack.clients.open(options.streams, 1)
    stack.clients.run(lambda: stack.clients.requests >= enough)
    stack.clients.let_end()


def _for(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def _either(*conditions: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: any(condition() for condition in conditions)


def _now_and_then(condition: Callable[[], bool]) -> Callable[[], bool]:
    """A condition that costs something to look at."""
    looked = 0.0

    def look() -> bool:
        nonlocal looked
        if time.monotonic() < looked + 0.3:
            return False
        looked = time.monotonic()
        return condition()

    return look


def show(costs: list[Cost], options: argparse.Namespace) -> None:
    """As a table."""
    console = Console()
    console.print(
        f"{time.strftime('%Y-%m-%d')}  {platform.machine()}  {os.cpu_count()} cores  load {os.getloadavg()[0]:.1f}  "
        f"{options.streams} streams  {options.ingresses} ingresses"
    )
    for cost in costs:
        if cost.answers_per_s:
            console.print(
                f"{cost.situation}: answers of {options.tokens} tokens: {cost.answers_per_s:,.0f} events/s, "
                f"{cost.events_per_answer:.1f} events each"
            )
    roles = list(costs[0].us_per_event)
    table = Table("", "events/s", "drawn/s", "CPU of", *roles, "all")
    for cost in costs:
        for what, us in (("an event", cost.us_per_event), ("a request", cost.us_per_request)):
            first = (cost.situation, f"{cost.events_per_s:,.0f}", f"{cost.drawn_per_s:,.0f}")
            figures = [f"{us[role]:,.1f}" for role in roles]
            table.add_row(
                *(first if us is cost.us_per_event else ("", "", "")), what, *figures, f"{sum(us.values()):,.1f} µs"
            )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--rate", type=float, default=30000.0, help="most tokens a second that the worker draws")
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 1000, 10000])
    parser.add_argument("--age", type=int, default=10000, help="requests; 0 leaves this out")
    parser.add_argument("--ingresses", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    costs = []
    for waiting in options.waiting:
        with running(options) as stack:
            costs.append(measure(stack, options, f"{waiting:,} waiting", waiting))
            if options.age and not waiting:
                grow_old(stack, options)
                costs.append(measure(stack, options, f"after {options.age:,} requests"))
    if options.json:
        print(json.dumps([cost._asdict() for cost in costs]))
    else:
        show(costs, options)


if __name__ == "__main__":
    main()
