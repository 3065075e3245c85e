"""Whether what must outlive a process is written down: streams, and what requests used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from metrics.core.findings import Condition
from metrics.core.series import SeriesStore

SPOOL: Final = 200  # records of usage that wait; a batch is far smaller


def account_conditions(series: SeriesStore, now_ns: int) -> Iterator[Condition]:
    """Out of what ingresses count."""
    if lost := series.added("headrace_ingress_unprotected_total", now_ns):
        text = f"{lost:.0f} streams in 10 s were not written down"
        yield Condition("streams-unprotected", "warn", "ingress", text, cause="no room in the run directory's memory")
    if (waiting := series.gauge("headrace_usage_spool_records")) > SPOOL:
        text = f"{waiting:.0f} records of usage wait for the ledger"
        yield Condition("ledger-behind", "warn", "metrics@host", text)
    if dropped := series.added("headrace_usage_dropped_total", now_ns):
        text = f"{dropped:.0f} records of usage were dropped in 10 s"
        yield Condition("ledger-lost", "crit", "metrics@host", text, cause="the ledger could not be written for long")


def own_conditions(ledger: str, traces: str) -> Iterator[Condition]:
    """Whether what requests use can be written down, and spans be sent: why not, or empty."""
    if ledger:
        yield Condition("ledger-stuck", "warn", "metrics@host", "usage is not written", cause=ledger)
    if traces:
        yield Condition("traces-off", "warn", "metrics@host", "spans are not sent", cause=traces)
