"""Writes down what a metrics process hears, where HEADRACE_TRACE names a file: what `traces.read` plays again.

On PYTHONPATH of a stack that is recorded, and nowhere else. Only what alarms are judged by is kept.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

PATH = os.environ.get("HEADRACE_TRACE")

if PATH and "metrics@host" in sys.orig_argv:
    import msgspec

    from bus.messages.telemetry import LiveRequests, Sample
    from bus.messages.vitals import Steps
    from metrics.core import collector

    out = open(PATH, "ab", buffering=0)  # noqa: SIM115 (for the life of the process)
    encoder = msgspec.msgpack.Encoder()

    def write(kind: str, now_ns: int, body: Any) -> None:
        line = encoder.encode((kind, now_ns, body))
        out.write(len(line).to_bytes(4, "little") + line)

    def hear(method: str, kind: type) -> None:
        heard = getattr(collector.Collector, method)

        def told(self: Any, message: Any, now_ns: int) -> None:
            write(kind.__name__, now_ns, message)
            heard(self, message, now_ns)

        setattr(collector.Collector, method, told)

    hear("on_sample", Sample)
    hear("on_live", LiveRequests)
    hear("on_steps", Steps)
    if os.environ.get("HEADRACE_TRACE_TIMELINES"):
        noted = collector.Collector.on_timeline

        def note(self: Any, message: Any) -> None:
            write("Timeline", time.monotonic_ns(), message)
            noted(self, message)

        collector.Collector.on_timeline = note  # type: ignore[method-assign]

    looked = collector.Collector.tick

    def tick(self: Any, now_ns: int) -> Any:
        write("tick", now_ns, None)
        return looked(self, now_ns)

    collector.Collector.tick = tick  # type: ignore[method-assign]
