"""Schedulers that draft as much as there is room for, whatever it costs: with this folder on PYTHONPATH the steps of a
model with speculation have drafts, right and wrong ones, and how fast this machine happens to be decides nothing.

Python imports a module of this name at start.
"""

from __future__ import annotations

import sys


def _is_scheduler() -> bool:
    words = sys.orig_argv
    return "cli.main" in words and "run" in words and words[words.index("run") + 1].startswith("scheduler@")


if _is_scheduler():
    import numpy as np

    from scheduler.core import speculation

    def _choose(
        drafts: speculation.Speculation, slots: speculation.Ints, room: speculation.Ints, budget: int, _target_ns: float
    ) -> speculation.Ints:
        wanted: speculation.Ints = np.minimum(room, drafts.most).clip(0)
        return speculation._within(wanted, max(0, min(budget, speculation.TOGETHER)), np.arange(len(slots)))

    speculation.Speculation.choose = _choose  # type: ignore[method-assign]
