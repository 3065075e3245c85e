"""The page arena and its disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bus.messages.observe import PageLoad
from metrics.core.findings import Condition
from metrics.core.series import SeriesStore

PAGES_LOW: Final = 0.05
KV: Final = "kv@host"


class PageTroubles(NamedTuple):
    """What kv counts that should not be.

    Attributes:
        audit_faults: of the last audit.
        disk_off: "read" or "write", or both, where the disk tier is not used for it.
        damaged: pages that came back damaged, in the window.
    """

    audit_faults: int = 0
    disk_off: tuple[str, ...] = ()
    damaged: int = 0


def page_troubles(series: SeriesStore, now_ns: int) -> PageTroubles:
    """Out of the series."""
    ways = sorted(series.label_values("way", "headrace_kv_disk_usable"))
    off = tuple(way for way in ways if not series.gauge("headrace_kv_disk_usable", way=way))
    damaged = series.added("headrace_kv_disk_errors_total", now_ns, kind="damaged")
    return PageTroubles(int(series.gauge("headrace_kv_audit_faults")), off, int(damaged))


def page_conditions(pages: PageLoad, preemptions_per_s: float, troubles: PageTroubles) -> Iterator[Condition]:
    """Whether the arena is at its end, or something is wrong with it."""
    usable = pages.free + pages.cached
    if pages.total and not pages.slabs_free and usable < PAGES_LOW * pages.total:
        preempts = f", {preemptions_per_s:.1f} preemptions/s" if preemptions_per_s > 0 else ""
        text = f"{usable} of {pages.total} pages left for new tokens{preempts}"
        cause = f"{pages.leased + pages.pinned} are held by requests that run"
        yield Condition("pages-exhausted", "crit" if preempts else "warn", KV, text, cause=cause)
    if pages.quarantined:
        text = f"{pages.quarantined} pages are in quarantine"
        yield Condition("pages-quarantined", "warn", KV, text, cause="a writer of theirs is not known to be gone")
    if troubles.audit_faults:
        text = f"the last audit found {troubles.audit_faults} faults"
        yield Condition("kv-audit", "crit", KV, text, cause="a bug, or memory that was written to by a stranger")
    if troubles.disk_off:
        text = f"the disk is not used: {' and '.join(troubles.disk_off)} fail"
        yield Condition("kv-disk-off", "warn", KV, text, cause="the file system is full, or the disk fails")
    if troubles.damaged:
        text = f"{troubles.damaged} pages came back damaged"
        yield Condition("kv-disk-damaged", "warn", KV, text, cause="the disk, or somebody who wrote to its files")
