"""What a metrics process heard, from a file, for tests to play again; and how such a file is made.

`python tests/metrics/traces.py` starts a real stack and records it through a start, load, a drain, a restart of each
process, idleness and its end. The host's own readings are not in it: they are the recording machine's.
"""

from __future__ import annotations

import gzip
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bus.messages.observe import Finding
from bus.messages.telemetry import LiveRequests, Sample
from bus.messages.vitals import Steps
from metrics.core.collector import Collector
from metrics.core.judge import Settings

DATA = Path(__file__).parent / "data"
HEALTHY = DATA / "healthy.trace.gz"
RECORDER = Path(__file__).parent / "recorder"
KINDS: dict[str, type] = {"Sample": Sample, "LiveRequests": LiveRequests, "Steps": Steps, "tick": type(None)}


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


def play(trace: Iterator[Heard], settings: Settings) -> Iterator[tuple[Heard, tuple[Finding, ...]]]:
    """A collector hears it again; the findings after each tick."""
    collector: Collector | None = None
    for heard in trace:
        collector = collector or Collector(100, heard.now_ns, settings)
        match heard.body:
            case Sample():
                collector.on_sample(heard.body, heard.now_ns)
            case LiveRequests():
                collector.on_live(heard.body, heard.now_ns)
            case Steps():
                collector.on_steps(heard.body, heard.now_ns)
            case None:
                collector.tick(heard.now_ns)
                yield heard, collector.snapshot(0).findings


def main() -> None:
    """Record."""
    import tempfile

    import httpx

    sys.path.insert(0, str(Path(__file__).parents[1] / "system"))
    from stack import SMOLLM2, Stack, running, until

    raw = Path(tempfile.mkstemp(suffix=".trace")[1])
    os.environ["HEADRACE_TRACE"] = str(raw)
    os.environ["PYTHONPATH"] = f"{RECORDER}:{os.environ.get('PYTHONPATH', '')}"

    def load(stack: Stack, seconds: float) -> None:
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            turn = 0
            while time.monotonic() < end:
                turn += 1
                prompt = f"Story {number}.{turn}: " + "once upon a time " * (60 if turn % 3 == 0 else 4)
                body = {"model": "smollm2", "prompt": prompt, "max_tokens": 24, "ignore_eos": True}
                httpx.post(f"{stack.url}/v1/completions", json=body, timeout=120).raise_for_status()

        clients = [threading.Thread(target=client, args=(number,)) for number in range(3)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()

    with running(SMOLLM2, arena="256MiB") as stack:
        load(stack, 15)
        stack.headrace("drain", "worker@smollm2.0.0")
        time.sleep(3)
        stack.headrace("undrain", "worker@smollm2.0.0")
        load(stack, 5)
        for name in ("worker@smollm2.0.0", "scheduler@smollm2", "ingress@0", "kv@host"):
            stack.headrace("restart", name)
            until(lambda: stack.replicas_ready() == 1, 60, "a replica")
            load(stack, 2)
        time.sleep(20)
        load(stack, 4)
    DATA.mkdir(exist_ok=True)
    HEALTHY.write_bytes(gzip.compress(raw.read_bytes(), 9, mtime=0))
    print(f"{HEALTHY}: {HEALTHY.stat().st_size >> 10} KiB of {raw.stat().st_size >> 10} KiB")
    raw.unlink()


if __name__ == "__main__":
    main()
