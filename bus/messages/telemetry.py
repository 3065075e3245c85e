"""everyone -> metrics, PUB/SUB: droppable by definition. Counters are cumulative at their source."""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.common import ProcessState
from bus.messages.vitals import AccountsView, Doors, PagesView, SchedulerView, Steps, WorkerView

InstrumentKind = Literal["counter", "gauge", "histogram"]


class Series(msgspec.Struct, array_like=True, frozen=True):
    """One instrument with one set of labels.

    Attributes:
        value: the counter's or gauge's value; the sum of a histogram.
        buckets: cumulative counts, one per bound of `bounds` and one for infinity (histograms only).
    """

    name: str
    kind: InstrumentKind
    labels: tuple[tuple[str, str], ...]
    value: float
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()


class Sample(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """A process describes itself, twice a second.

    Attributes:
        at_ns: CLOCK_MONOTONIC when it did; 0 where it does not say.
        troubles: what keeps it from talking to others, a line each.
    """

    name: str
    role: str
    pid: int
    epoch: int
    state: ProcessState
    started_ns: int  # CLOCK_MONOTONIC
    progress: int
    busy: bool
    cpu_s: float
    rss_bytes: int
    series: tuple[Series, ...]
    at_ns: int = 0
    troubles: tuple[str, ...] = ()


TimelineKind = Literal[
    "received",  # ingress: request read
    "tokenized",  # ingress: template rendered, ids made; value = prompt tokens
    "submitted",  # ingress -> scheduler
    "queued",  # scheduler: accepted; value = requests before it
    "held",  # scheduler: not admitted; detail says why (`HELD`), value how much it lacks, others who has it
    "admitted",  # scheduler: placed; value = replica
    "hit",  # prefix found; value = tokens, detail = tier: "memory" or "disk"
    "chunk",  # a prefill chunk; value = tokens, step set
    "first_token",  # since it got its slot, or since its ingress asked again for what it lacks; step set
    "preempted",  # detail = what for, others for whom
    "resumed",  # on another replica or after a crash; value = tokens it had
    "stalled",  # a decode gap far above the median; value = ns, step is the one that ended it
    "finished",  # detail = reason; value = tokens generated
    "aborted",  # detail = why
    "refused",  # detail = code
    "named",  # ingress: detail = id of the response that it is a choice of
    "parsed",  # ingress: the body is a valid request
    "rendered",  # ingress: the template is
    "orphaned",  # ingress: its scheduler went away; detail = how
    "adopted",  # ingress: taken over from one that died; value = how often
    "told",  # ingress: the answer is text; value = ns that this took in all
    "called",  # ingress: detail = what its client calls it
    "delivered",  # ingress: written to the client; value = ns that the writing waited for it
]

HeldFor = Literal[
    "slots",  # all are taken; value = how many
    "replica",  # none is ready
    "pages",  # value = how many it needs
    "lookup",  # the page server is asked which blocks it has
    "disk",  # blocks come from disk; value = tokens
    "adapter",  # its adapter is being read, or waits for room
    "sibling",  # another request computes the same prefix
    "backlog",  # the replicas have as many tokens of prompts to compute as go into a step; value = how many
    "turn",  # nothing of its own any more: those before it
    "suspect",  # it was in steps that failed, and is tried apart from others
]


class TimelineEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Something that happened to one request. `at_ns` is CLOCK_MONOTONIC of the host.

    Attributes:
        replica: where `step` was; -1 where it was nowhere.
        others: requests that have to do with it, at most a few.
    """

    request: int
    at_ns: int
    kind: TimelineKind
    value: int = 0
    step: int = 0
    detail: str = ""
    replica: int = -1
    others: tuple[int, ...] = ()


class Timeline(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """Events since the last message, of one process."""

    name: str
    events: tuple[TimelineEvent, ...]


RequestState = Literal["waiting", "prefill", "decode"]


class LiveRequest(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request in a scheduler's hands, as of now."""

    request: int
    tenant: str
    model: str
    state: RequestState
    age_ns: int
    queue_ns: int
    ttft_ns: int  # 0: no token yet
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    itl_ns: int  # mean of inter-token latencies so far; 0: none
    pages: int
    priority: int
    replica: int  # -1: not placed


class LiveRequests(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """The requests of one scheduler, at 2 Hz; at most 500, longest-lived first, `total` says how many there are.

    Attributes:
        stuck, stuck_ns: see `requests.ModelFacts`.
        deadline_ns: CLOCK_MONOTONIC of the next deadline of a request that waits; 0 where none has one.
    """

    name: str
    total: int
    requests: tuple[LiveRequest, ...]
    stuck: str = ""
    stuck_ns: int = 0
    deadline_ns: int = 0


ToMetrics = Sample | Timeline | LiveRequests | Steps | SchedulerView | PagesView | Doors | WorkerView | AccountsView
