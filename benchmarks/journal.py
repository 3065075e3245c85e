"""What it costs an ingress to make its streams survive it: one record written for each event, before it is shown.

    python -m benchmarks.journal [--json]

The directory is a run directory's, so it should be in memory: /dev/shm here. Files that are kept open take the shorter
way; with more streams than descriptors for them, each record opens its file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bus.telemetry import Telemetry
from ingress.journal import Journals
from ingress.records import Drawn, Opening, frame, read

ROUNDS = 5
RECORDS = 20_000
EVENT = b'{"id":"chatcmpl-6d18ea135df1772d","object":"chat.completion.chunk","created":1795594000,"model":"smollm2",' \
        b'"system_fingerprint":"fp_0123456789abcdef","choices":[{"index":0,"delta":{"content":" word"},' \
        b'"logprobs":null,"finish_reason":null}]}'  # fmt: skip


def opening(number: int) -> Opening:
    body, ids = b"{}" * 100, (bytes(400),)
    response = f"chatcmpl-{number:016x}"
    return Opening("chat.completions", body, "", "owner", 0, response, 0, "fp", (number,), ids, 0)


def microseconds(streams: int, max_open: int) -> float:
    """Of one record, the best of several rounds: `streams` in turn, of which `max_open` keep their files open."""
    found = []
    record = Drawn(0, (1234,), (EVENT,))
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as run:
            journals = Journals(Path(run), "ingress@0", 1, Telemetry(), max_open=max_open)
            open_ = [journals.begin(opening(number)) for number in range(streams)]
            began = time.perf_counter()
            for at in range(RECORDS):
                if not at % 1000:
                    journals.sweep()
                open_[at % streams].write(record)
            found.append((time.perf_counter() - began) / RECORDS * 1e6)
            assert all(journal.protected for journal in open_)
            journals.close()
    return min(found)


def take_over(events: int) -> float:
    """Milliseconds to read the journal of a stream with so many events."""
    data = frame(opening(1)) + frame(Drawn(0, (1234,), (EVENT,))) * events
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        told = read(data)
        times.append((time.perf_counter() - began) * 1e3)
        assert told is not None
        assert len(told.events) == events
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    figures = {
        "record_us_open": microseconds(64, 128),
        "record_us_reopened": microseconds(64, 16),
        "read_1000_events_ms": take_over(1000),
    }
    if parser.parse_args().json:
        print(json.dumps(figures))
        return
    table = Table("what", "figure")
    table.add_row("one event of a stream whose file is kept open", f"{figures['record_us_open']:.1f} µs")
    table.add_row("... whose file is opened for it", f"{figures['record_us_reopened']:.1f} µs")
    table.add_row("reading a stream of 1,000 events to take it over", f"{figures['read_1000_events_ms']:.1f} ms")
    Console().print(table)


if __name__ == "__main__":
    main()
