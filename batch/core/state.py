"""A batch, and the states that it goes through.

    validating ──► in_progress ──► finalizing ──► completed
        │  │            │   └──────────┴────────► expired
        │  └► failed    └──► cancelling ────────► cancelled
        └───────────────────►┘

What is to be done with a batch follows from its state, so a process that begins anew goes on where it stands. How it
ends is decided once, when its last line is decided: `ending`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from bus.messages.batches import BatchError, BatchStatus, BatchUsage, RequestCounts

Ending = Literal["", "completed", "expired", "cancelled"]

OVER: Final[frozenset[BatchStatus]] = frozenset({"failed", "completed", "expired", "cancelled"})
NEXT: Final[dict[BatchStatus, frozenset[BatchStatus]]] = {
    "validating": frozenset({"in_progress", "failed", "cancelling", "finalizing"}),
    "in_progress": frozenset({"finalizing", "cancelling"}),
    "finalizing": frozenset({"completed", "expired"}),
    "cancelling": frozenset({"cancelled"}),
    **{over: frozenset() for over in OVER},
}


class Impossible(Exception):
    """A batch in this state does not do that."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch. Times are Unix seconds, 0 where that has not been.

    Attributes:
        project, key: whose it is, and who asked for it; the lines are that key's.
        window_s: from `created_s` on; what is not answered then expires.
        model: of all its lines; empty until they are read.
        output_ttl_s: that its results are kept; 0 is the configured time.
        ending: how it ends, once that is certain.
        times: when it came into each state.
        output_file, error_file: ids; empty where there is none.
    """

    id: str
    project: str
    key: str
    endpoint: str
    input_file: str
    created_s: int
    window_s: int
    completion_window: str
    status: BatchStatus = "validating"
    ending: Ending = ""
    model: str = ""
    metadata: dict[str, str] | None = None
    output_ttl_s: int = 0
    times: dict[BatchStatus, int] = {}
    counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    errors: tuple[BatchError, ...] = ()
    output_file: str = ""
    error_file: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in OVER

    @property
    def expires_s(self) -> int:
        """When its lines expire."""
        return self.created_s + self.window_s


def invalid(batch: Batch, errors: tuple[BatchError, ...], now_s: int) -> Batch:
    """Its file cannot be used."""
    return replace(_moved(batch, "failed", now_s), errors=errors)


def validated(batch: Batch, model: str, lines: int, now_s: int) -> Batch:
    """Its lines are known, and can be answered."""
    return replace(_moved(batch, "in_progress", now_s), model=model, counts=RequestCounts(lines))


def cancelled(batch: Batch, now_s: int) -> Batch:
    """Somebody does not want the rest. Asked again, nothing changes.

    Raises:
        Impossible: it is over, or its results are being written.
    """
    if batch.status in ("cancelling", "cancelled"):
        return batch
    return replace(_moved(batch, "cancelling", now_s), ending="cancelled")


def expired(batch: Batch, now_s: int) -> Batch:
    """Its time is up."""
    return replace(_moved(batch, "finalizing", now_s), ending="expired")


def answered(batch: Batch, now_s: int) -> Batch:
    """Every line has been."""
    return replace(_moved(batch, "finalizing", now_s), ending="completed")


def ended(batch: Batch, output_file: str, error_file: str, now_s: int) -> Batch:
    """Its results are written."""
    assert batch.ending, f"{batch.id} ends, and nobody knows how"
    return replace(_moved(batch, batch.ending, now_s), output_file=output_file, error_file=error_file)


def counted(batch: Batch, completed: int, failed: int, usage: BatchUsage) -> Batch:
    """So many lines more, and what they used."""
    counts, before = batch.counts, batch.usage
    return replace(
        batch,
        counts=RequestCounts(counts.total, counts.completed + completed, counts.failed + failed),
        usage=BatchUsage(
            before.input_tokens + usage.input_tokens,
            replace(
                before.input_tokens_details,
                cached_tokens=before.input_tokens_details.cached_tokens + usage.input_tokens_details.cached_tokens,
            ),
            before.output_tokens + usage.output_tokens,
            replace(
                before.output_tokens_details,
                reasoning_tokens=before.output_tokens_details.reasoning_tokens
                + usage.output_tokens_details.reasoning_tokens,
            ),
            before.total_tokens + usage.total_tokens,
        ),
    )


def _moved(batch: Batch, status: BatchStatus, now_s: int) -> Batch:
    if status not in NEXT[batch.status]:
        raise Impossible(f"one that is {batch.status} does not become {status}")
    return replace(batch, status=status, times={**batch.times, status: now_s})
