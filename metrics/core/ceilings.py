"""How close a model's steps come to what the host was measured to do. Pure; `headrace bench --ceilings` measures."""

from __future__ import annotations

from typing import NamedTuple

from bus.ceilings import Ceilings
from metrics.core.series import SeriesStore

UNKNOWN = -1.0


class Reached(NamedTuple):
    """Shares of the host's ceilings while steps run; -1 where they are not known."""

    mbu: float = UNKNOWN
    mfu: float = UNKNOWN


def reached(series: SeriesStore, ceilings: Ceilings | None, model: str, now_ns: int) -> Reached:
    """Of the steps of the last ten seconds. Replicas work side by side, and so do ranks: their rates add up."""
    if ceilings is None:
        return Reached()
    bandwidth = arithmetic = 0.0
    known = False
    for replica in series.label_values("replica", "headrace_step_bytes_total"):
        seconds = series.added("headrace_step_seconds", now_ns, model=model, replica=replica, rank="0")
        if seconds <= 0:
            continue
        moved = series.added("headrace_step_bytes_total", now_ns, model=model, replica=replica)
        bandwidth += moved / seconds / ceilings.read_bytes_per_s
        for kind in series.label_values("arithmetic", "headrace_step_operations_total"):
            done = series.added(
                "headrace_step_operations_total", now_ns, model=model, replica=replica, arithmetic=kind
            )  # fmt: skip
            if done and (ceiling := ceilings.operations_per_s.get(kind, 0.0)):
                arithmetic += done / seconds / ceiling
        known = True
    return Reached(bandwidth, arithmetic) if known else Reached()
