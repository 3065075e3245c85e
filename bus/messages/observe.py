"""anyone <-> metrics: the Prometheus text, a snapshot, one request's timeline, details; and the feed that updates a
snapshot. Details have a file of their own; what
requests used goes over the same doors: `usage`.

What requests used goes over the same doors: `usage`.

The feed is PUB/SUB: take a snapshot, then apply updates with `seq` above the snapshot's, in order. A gap means: take a
new snapshot.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome
from bus.messages.details import Details, Question
from bus.messages.telemetry import LiveRequest, Sample, TimelineEvent
from bus.messages.usage import GetUsage, TakeUsage, UsageReply, UsageTaken


class GetExposition(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """Everything known, for Prometheus: as text, or as OpenMetrics, which has exemplars and units."""

    rid: int
    openmetrics: bool = False


class GetSnapshot(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """Everything that a screen shows."""

    rid: int


class GetTimeline(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """The events of one request, and what its time went into.

    Attributes:
        request: 0 where it is to be found by the others.
        response: the id that its client sees, whose first choice is meant; or what a client called it, the latest so.
        suffix: of the request's id in hexadecimal, as screens show it.
    """

    rid: int
    request: int
    response: str = ""
    suffix: str = ""


class Exposition(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=20):
    """`text/plain; version=0.0.4`, or `application/openmetrics-text; version=1.0.0` where that was asked for."""

    rid: int
    text: bytes


class ModelLoad(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One model over the last ten seconds, and its queue now. Percentiles come from merged histograms.

    A percentile of nothing is 0; `prefix_hit_ratio` is -1 where nothing was looked up. `mbu` and `mfu` are memory
    bandwidth and arithmetic of its steps over what the host was measured to do; -1 where it was not, or no step ran.
    """

    model: str
    replicas_ready: int
    replicas: int
    waiting: int
    running: int
    oldest_wait_s: float
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    itl_p50_s: float
    itl_p95_s: float
    refused_per_s: float
    preemptions_per_s: float
    prefix_hit_ratio: float
    step_p50_s: float
    step_p95_s: float
    queue_p50_s: float = 0.0
    queue_p95_s: float = 0.0
    e2e_p50_s: float = 0.0
    e2e_p95_s: float = 0.0
    mbu: float = -1.0
    mfu: float = -1.0


class PageLoad(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Pages by state, all pools. What schedulers keep in stock counts as free; `slabs_free` can become pages."""

    total: int
    free: int
    leased: int
    pinned: int
    cached: int
    quarantined: int
    slabs_free: int = 0


class Finding(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Something an operator should know: what, since when, and what to do about it.

    Attributes:
        code: of `docs/alarms.md`.
        severity: "warn" or "crit".
        subject: a process, a model, or "host".
        cause: why it is so, as far as that can be told.
        action, key: what to do next on the screen, and its key there: a capital letter acts on the subject.
        id: `CODE:SUBJECT`, the same for as long as it lasts and when it comes again.
    """

    code: str
    severity: str
    subject: str
    text: str
    since_ns: int
    advice: str = ""
    cause: str = ""
    action: str = ""
    key: str = ""
    id: str = ""


class FinishedRequest(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request of the recent past, one line."""

    request: int
    model: str
    reason: str
    ended_ns: int
    duration_ns: int
    ttft_ns: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


class Snapshot(msgspec.Struct, array_like=True, frozen=True, tag=21):
    """The state of the host as of `at_ns` (CLOCK_MONOTONIC), after feed update `seq`."""

    rid: int
    seq: int
    at_ns: int
    processes: tuple[Sample, ...]
    models: tuple[ModelLoad, ...]
    pages: PageLoad
    requests: tuple[LiveRequest, ...]
    requests_total: int
    findings: tuple[Finding, ...]
    recent: tuple[FinishedRequest, ...] = ()


Phase = Literal["ingress", "queue", "prefill", "decode", "recovery", "delivery"]


class Span(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A stretch of a request's time and what it went into; none overlap, and together they are all of it.

    Attributes:
        phase: what kind of time it is.
        cause: why it was spent, a word of `metrics.core.explain`'s table.
        text: the same as a sentence.
        step, replica: the step that it ended with; 0 and -1 where there is none.
        requests: others that it was spent for, or because of.
        slow: it is far longer than such a stretch should be: it is what to look at.
    """

    phase: Phase
    cause: str
    begin_ns: int
    end_ns: int
    text: str
    step: int = 0
    replica: int = -1
    requests: tuple[int, ...] = ()
    slow: bool = False


class TimelineReply(msgspec.Struct, array_like=True, frozen=True, tag=22):
    """Events of one request in order of time; empty where it is unknown or too long ago.

    Attributes:
        spans: the same as an account of its time, in order.
        model, response: whose it is, and the id that its client sees; empty where unknown.
        choices: all requests of that response.
        verdict: in one sentence, what took longest and why.
        at_ns: when this was so; the end of a request that is in hand.
    """

    rid: int
    request: int
    events: tuple[TimelineEvent, ...]
    spans: tuple[Span, ...] = ()
    model: str = ""
    response: str = ""
    choices: tuple[int, ...] = ()
    verdict: str = ""
    at_ns: int = 0


class Update(msgspec.Struct, array_like=True, frozen=True, tag=30):
    """One step of the feed, at 2 Hz. Parts that did not change are None."""

    seq: int
    at_ns: int
    processes: tuple[Sample, ...] | None
    models: tuple[ModelLoad, ...] | None
    pages: PageLoad | None
    requests: tuple[LiveRequest, ...] | None
    requests_total: int
    findings: tuple[Finding, ...] | None
    recent: tuple[FinishedRequest, ...] | None = None


ToObserver = (
    Welcome | Heartbeat | Nack | Bye | Exposition | Snapshot | TimelineReply | Details | UsageTaken | UsageReply
)
FromObserver = (
    Hello | Heartbeat | Nack | Bye | GetExposition | GetSnapshot | GetTimeline | Question | TakeUsage | GetUsage
)
