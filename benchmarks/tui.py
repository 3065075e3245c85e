"""What `headrace top` costs: CPU of the process at 2 Hz with many processes and requests, screen by screen.

    python -m benchmarks.tui [--processes 64] [--requests 500] [--seconds 10] [--size 160x50] [SCREEN ...]

A child in a pseudo-terminal runs the application on a feed that changes everything twice a second, decoded from bytes
as it comes from the bus; the parent reads what it draws. The figure is user and system time over wall time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from admin_tui.app import HeadraceTop
from admin_tui.details import DETAILS, Detail, DetailKind
from admin_tui.feed import OnEvent
from admin_tui.loop import GuestLoop
from admin_tui.recording import read
from admin_tui.replay import ReplayFeed
from admin_tui.views import VIEWS, shown
from bus.loop import Loop
from bus.messages.details import BusReply, HostReply, PagesReply, StepsReply
from bus.messages.observe import Snapshot, Update
from bus.messages.telemetry import LiveRequest, Sample, Series

DEMO: Final = Path(__file__).parent.parent / "tests" / "admin_tui" / "data" / "demo.ndjson"
PERIOD_S: Final = 0.5
FRAMES: Final = 8
SETTLE_S: Final = 3.0


class BusyFeed(ReplayFeed):
    """Plays the demo to its end, then goes on with frames in which everything changes."""

    label = "live"

    def __init__(self, loop: Loop, processes: int, requests: int) -> None:
        recorded = list(read(DEMO))
        super().__init__(recorded, None)
        self._clock = loop
        self._frames = [msgspec.msgpack.encode(_update(n, processes, requests)) for n in range(FRAMES)]
        last = {type(r.event): r.event for r in recorded if isinstance(r.event, Detail)}
        self._answers = {
            kind: [msgspec.msgpack.encode(_many(last[reply], processes, n)) for n in range(FRAMES)]
            for kind, reply in DETAILS.items()
        }
        self._turn = 0

    def start(self, on_event: OnEvent) -> None:
        super().start(on_event)
        self._on_event = on_event
        self._stop_turns = self._clock.every(PERIOD_S, self._next)

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def ask(self, kind: DetailKind) -> None:
        answer = self._answers[kind][self._turn % FRAMES]
        self._on_event(msgspec.msgpack.decode(answer, type=DETAILS[kind]))

    def close(self) -> None:
        self._stop_turns()

    def _next(self) -> None:
        self._turn += 1
        update = msgspec.msgpack.decode(self._frames[self._turn % FRAMES], type=Update)
        at_ns = self._clock.now_ns()
        self._on_event(msgspec.structs.replace(update, seq=10_000 + self._turn, at_ns=at_ns))


def _update(turn: int, processes: int, requests: int) -> Update:
    """A frame: other numbers in every row."""
    chance = random.Random(turn)
    base = next(r.event for r in read(DEMO) if isinstance(r.event, Snapshot))
    samples = tuple(
        Sample(
            f"worker@smollm2.{n}.0", "worker", 4_000 + n, 7, "ready", 0, turn * 40 + n, True, 50 + turn * 0.4,
            700 << 20, (Series("headrace_step_tokens_total", "counter", (), turn * 900.0),),
        )
        for n in range(processes)
    )  # fmt: skip
    live = tuple(
        LiveRequest(
            1_000 + n, "acme", "smollm2", "decode", chance.randrange(60_000_000_000), 12_000_000, 410_000_000,
            chance.randrange(4_000), 512, chance.randrange(800), 24_000_000, chance.randrange(200), 5, n % processes,
        )
        for n in range(requests)
    )  # fmt: skip
    models = tuple(
        msgspec.structs.replace(model, output_tokens_per_s=chance.uniform(100, 900), running=chance.randrange(90))
        for model in base.models
    )
    pages = msgspec.structs.replace(base.pages, free=chance.randrange(1_000), leased=chance.randrange(1_000))
    return Update(turn, turn, samples, models, pages, live, requests, None, None)


def _many(reply: Detail, processes: int, turn: int) -> Detail:
    """An answer about as many processes, with other numbers every time."""
    chance = random.Random(turn)
    match reply:
        case HostReply():
            paces = tuple(
                msgspec.structs.replace(
                    reply.workers[0], name=f"worker@smollm2.{n}.0", step_s=chance.uniform(0.01, 0.05),
                    busy=chance.random(), tokens_per_s=chance.uniform(0, 2_000),
                )
                for n in range(processes)
            )  # fmt: skip
            cores = tuple(msgspec.structs.replace(core, busy=chance.random()) for core in reply.cores)
            return msgspec.structs.replace(reply, workers=paces, cores=cores)
        case BusReply():
            endpoints = tuple(
                msgspec.structs.replace(
                    reply.endpoints[n % len(reply.endpoints)], owner=f"scheduler@m{n}", in_per_s=chance.uniform(0, 900)
                )
                for n in range(processes)
            )
            return msgspec.structs.replace(reply, endpoints=endpoints)
        case StepsReply():
            models = tuple(
                msgspec.structs.replace(
                    model,
                    lines=tuple(
                        msgspec.structs.replace(line, step=line.step + 20 * turn, ran_ns=chance.randrange(10**8))
                        for line in model.lines
                    ),
                )
                for model in reply.models
            )
            return msgspec.structs.replace(reply, models=models)
        case PagesReply():
            codes = b"".join(bytes([chance.randrange(1, 5)]) * 16 for _ in range(128))
            return msgspec.structs.replace(reply, map=codes, map_used=codes, leases_per_s=chance.uniform(0, 900))
        case _:
            return reply


def child(screen: str, options: argparse.Namespace, out: Path) -> None:
    """Run the application, look at one screen, write what it cost, end."""
    app = HeadraceTop(lambda: BusyFeed(GuestLoop(), options.processes, options.requests))

    def begin() -> None:
        app.action_view(screen)
        app.set_timer(SETTLE_S, measure)

    def measure() -> None:
        cpu, wall = time.process_time(), time.monotonic()

        def end() -> None:
            spent = (time.process_time() - cpu) / (time.monotonic() - wall)
            out.write_text(json.dumps(spent))
            app.exit()

        app.set_timer(options.seconds, end)

    app.call_later(begin)
    app.run()


def measured(screen: str, options: argparse.Namespace) -> float:
    """CPU of a child over wall time, in cores."""
    width, height = (int(part) for part in options.size.split("x"))
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "spent"
        pid, terminal = pty.fork()
        if pid == 0:
            for name in ("COLUMNS", "LINES"):
                os.environ.pop(name, None)
            os.environ |= {"TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"}
            child(screen, options, out)
            os._exit(0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        try:
            while os.read(terminal, 1 << 16):
                pass
        except OSError:  # the child closed its end
            pass
        os.waitpid(pid, 0)
        os.close(terminal)
        return float(json.loads(out.read_text()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screens", nargs="*", metavar="SCREEN", help="all where none is named")
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", default="160x50")
    options = parser.parse_args(arguments)
    print(f"{options.processes} processes, {options.requests} requests, {options.size}, 2 Hz; share of a core")
    for view in [shown(name) for name in options.screens] or VIEWS:
        print(f"{view.title:<12} {100 * measured(view.id, options):5.1f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
