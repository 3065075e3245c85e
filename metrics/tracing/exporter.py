"""Sends spans over OTLP/HTTP from a thread of its own. A collector that is slow or away costs spans, no request."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bus.build import BUILD
from metrics.core.traces import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger(__name__)

MAX_WAITING: Final = 8192  # spans; more are dropped and counted
AT_ONCE: Final = 512
TIMEOUT_S: Final = 5.0
WAIT_S: Final = 0.5
CLOSE_S: Final = 2.0

Encode = Callable[[Span, int], "ReadableSpan"]


class OtelMissing(Exception):
    """OpenTelemetry is not installed. The message says how to."""

    def __init__(self) -> None:
        super().__init__("[traces] endpoint is set, but OpenTelemetry is not installed: pip install 'headrace[otel]'")


class Exporter:
    """A bounded queue, and the thread that empties it.

    Args:
        endpoint: base URL; spans go to `/v1/traces` under it.

    Attributes:
        sent, dropped: spans.

    Raises:
        OtelMissing: see there.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import SpanExportResult
        except ImportError:
            raise OtelMissing from None
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # each failed attempt; ours is said once
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT_S)
        self._success = SpanExportResult.SUCCESS
        self._encode = encoder()
        self._endpoint = endpoint
        self._queue: queue.Queue[Span | None] = queue.Queue(MAX_WAITING)
        self.sent = self.dropped = 0
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def offer(self, spans: Sequence[Span]) -> None:
        """Send them, some time; never waits."""
        for index, span in enumerate(spans):
            try:
                self._queue.put_nowait(span)
            except queue.Full:
                self.dropped += len(spans) - index
                return

    def close(self) -> None:
        """Send what is here, if that is quick."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        ending = False
        while not ending:
            batch: list[Span] = []
            try:
                first = self._queue.get()
                while True:
                    if first is None:
                        ending = True
                        break
                    batch.append(first)
                    if len(batch) == AT_ONCE:
                        break
                    first = self._queue.get(timeout=WAIT_S)
            except queue.Empty:
                pass
            if batch:
                self._send(batch)

    def _send(self, batch: list[Span]) -> None:
        offset_ns = time.time_ns() - time.monotonic_ns()
        try:
            taken = self._exporter.export([self._encode(span, offset_ns) for span in batch]) is self._success
        except Exception:  # an exporter is foreign code: whatever it raises must not end the thread
            log.exception("while exporting spans")
            taken = False
        if taken:
            self.sent += len(batch)
        else:
            self.dropped += len(batch)
        if taken == self._failing:
            log.log(
                logging.INFO if taken else logging.WARNING,
                "the collector of traces at %s %s", self._endpoint, "is back" if taken else "takes no spans: dropped",
            )  # fmt: skip
        self._failing = not taken


def encoder() -> Encode:
    """From our spans to OpenTelemetry's. The argument beside the span is Unix time less CLOCK_MONOTONIC."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    resource = Resource(
        {"service.name": "headrace", "service.version": BUILD, "host.name": socket.gethostname()}
    )  # fmt: skip
    scope = InstrumentationScope("headrace", BUILD)

    def context(trace: int, span: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(trace, span, remote, TraceFlags(TraceFlags.SAMPLED))

    def encode(span: Span, offset_ns: int) -> ReadableSpan:
        root = span.name == "request"
        attributes: Mapping[str, str | int | float | bool] = span.attributes
        return ReadableSpan(
            name=f"{span.name} {attributes['gen_ai.request.model']}" if root else span.name,
            context=context(span.trace, span.span),
            parent=context(span.trace, span.parent, remote=root) if span.parent else None,
            resource=resource,
            attributes=attributes,
            events=[Event(each.name, each.attributes, offset_ns + each.at_ns) for each in span.moments],
            kind=SpanKind.SERVER if root else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=offset_ns + span.begin_ns,
            end_time=offset_ns + span.end_ns,
            instrumentation_scope=scope,
        )

    return encode
