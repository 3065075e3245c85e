"""What a metrics process heard, from a file, for tests to play again; and how such a file is made.

`python tests/metrics/traces.py` starts real stacks and records them: one that is well, through a start, load, a drain,
a restart of each process, idleness and its end; and one with more work than slots, whose worker is killed, with the
timelines of its requests. The host's own readings are in neither: they are the recording machine's.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bus.messages.telemetry import LiveRequests, Sample, Timeline
from bus.messages.vitals import Steps
from metrics.core.collector import Collector
from metrics.core.judge import Settings

DATA = Path(__file__).parent / "data"
HEALTHY = DATA / "healthy.trace.gz"
CROWDED = DATA / "crowded.trace.gz"
RECORDER = Path(__file__).parent / "recorder"
KINDS: dict[str, type] = {
    "Sample": Sample, "LiveRequests": LiveRequests, "Steps": Steps, "Timeline": Timeline, "tick": type(None)
}  # fmt: skip


class Heard(NamedTuple):
    """One thing that came, and when."""

    kind: str
    now_ns: int
    body: Any


def read(path: Path) -> Iterator[Heard]:
    """A trace, in order."""
    data = gzip.decompress(path.read_bytes())
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        kind, now_ns, body = msgspec.msgpack.decode(data[at + 4 : at + 4 + length])
        yield Heard(kind, now_ns, msgspec.convert(body, KINDS[kind]))
        at += 4 + length


def play(trace: Iterator[Heard], settings: Settings) -> Iterator[tuple[Heard, Collector]]:
    """A collector hears it again; as it is after each tick."""
    collector: Collector | None = None
    for heard in trace:
        collector = collector or Collector(1000, heard.now_ns, settings)
        match heard.body:
            case Sample():
                collector.on_sample(heard.body, heard.now_ns)
            case LiveRequests():
                collector.on_live(heard.body, heard.now_ns)
            case Steps():
                collector.on_steps(heard.body, heard.now_ns)
            case Timeline():
                collector.on_timeline(heard.body)
            case None:
                collector.tick(heard.now_ns)
                yield heard, collector


def load(stack: Any, seconds: float, clients: int, longest: int) -> None:
    """Clients that ask one request after the other; every third has a prompt that is `longest` times as long."""
    import httpx

    end = time.monotonic() + seconds

    def client(number: int) -> None:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            prompt = f"Story {number}.{turn}: " + "once upon a time " * (longest if turn % 3 == 0 else 4)
            body = {"model": "smollm2", "prompt": prompt, "max_tokens": 24, "ignore_eos": True}
            httpx.post(f"{stack.url}/v1/completions", json=body, timeout=120).raise_for_status()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def healthy(stack: Any) -> None:
    """Everything that is no trouble."""
    from stack import until

    load(stack, 15, 3, 60)
    stack.headrace("drain", "worker@smollm2.0.0")
    time.sleep(3)
    stack.headrace("undrain", "worker@smollm2.0.0")
    load(stack, 5, 3, 60)
    for name in ("worker@smollm2.0.0", "scheduler@smollm2", "ingress@0", "kv@host"):
        stack.headrace("restart", name)
        until(lambda: stack.replicas_ready() == 1, 60, "a replica")
        load(stack, 2, 3, 60)
    time.sleep(20)
    load(stack, 4, 3, 60)


def crowded(stack: Any) -> None:
    """More requests than slots, long prompts beside them, and a worker that is killed."""
    working = threading.Thread(target=load, args=(stack, 12, 20, 200))
    working.start()
    time.sleep(6)
    stack.kill("worker@smollm2.0.0")
    working.join()
    time.sleep(1)


def record(path: Path, scene: Callable[[Any], None]) -> None:
    """Start a real stack, let the scene happen, write down what its metrics process heard."""
    from stack import SMOLLM2, running

    raw = Path(tempfile.mkstemp(suffix=".trace")[1])
    os.environ["HEADRACE_TRACE"] = str(raw)
    with running(SMOLLM2, arena="256MiB") as stack:
        scene(stack)
    DATA.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(raw.read_bytes(), 9, mtime=0))
    print(f"{path}: {path.stat().st_size >> 10} KiB of {raw.stat().st_size >> 10} KiB")
    raw.unlink()


def main() -> None:
    """Record one of the two, or both."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "system"))
    os.environ["PYTHONPATH"] = f"{RECORDER}:{os.environ.get('PYTHONPATH', '')}"
    wanted = sys.argv[1:] or ["healthy", "crowded"]
    if "healthy" in wanted:
        record(HEALTHY, healthy)
    if "crowded" in wanted:
        os.environ["HEADRACE_TRACE_TIMELINES"] = "1"
        record(CROWDED, crowded)


if __name__ == "__main__":
    main()
