"""What was seen in shadow and in audits, the threshold that follows from it, and when a namespace is switched off. Pure
but for `Calibrations`, which keeps the outcome in the state directory.

An observation is a question that would have been answered by another's answer and was generated all the same: its
score, and whether the two answers agreed. The share of wrong ones is bounded by Wilson's interval, one-sided, so that
few observations allow little.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

CONFIDENCE_Z: Final = 1.6449  # one-sided, 95 %
LEAST_AUDITS: Final = 20  # before a namespace is judged by them


def wilson_upper(wrong: int, total: int) -> float:
    """With 95 % confidence the share of wrong ones is below this; 1 where nothing was seen."""
    if total == 0:
        return 1.0
    z2 = CONFIDENCE_Z**2
    share = wrong / total
    spread = CONFIDENCE_Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return min(1.0, (share + z2 / (2 * total) + spread) / (1 + z2 / total))


def wilson_lower(wrong: int, total: int) -> float:
    """... and above this."""
    return 1.0 - wilson_upper(total - wrong, total) if wrong else 0.0


class Step(NamedTuple):
    """One threshold: how many of the observations it serves, and how many of those wrongly."""

    threshold: float
    served: int
    wrong: int
    bound: float


def steps(seen: Sequence[tuple[float, bool]]) -> list[Step]:
    """Every threshold that makes a difference, the highest first. `seen` is (score, whether the answers agreed)."""
    found: list[Step] = []
    wrong = 0
    ordered = sorted(seen, key=lambda one: -one[0])
    for count, (score, agree) in enumerate(ordered, start=1):
        wrong += not agree
        if count < len(ordered) and ordered[count][0] == score:
            continue
        found.append(Step(score, count, wrong, wilson_upper(wrong, count)))
    return found


def choose(seen: Sequence[tuple[float, bool]], budget: float) -> Step | None:
    """The threshold that serves most within the budget; None where none is within it, or too little was seen."""
    within = [step for step in steps(seen) if step.bound <= budget]
    return max(within, key=lambda step: step.served, default=None)


def needed(budget: float) -> int:
    """How many observations without a wrong one allow this budget."""
    return math.ceil(CONFIDENCE_Z**2 * (1 - budget) / budget)


class Calibration(msgspec.Struct, frozen=True):
    """What a namespace may serve.

    Attributes:
        threshold: least score.
        bound: of wrong hits, at this threshold, when it was calibrated.
        observations, served, wrong: that it follows from.
        at_s: Unix time.
        encoder: digest of the static vectors' encoder: another one needs another calibration.
        off: why it was switched off; empty where it was not.
    """

    threshold: float
    bound: float
    observations: int
    served: int
    wrong: int
    at_s: int
    encoder: str
    off: str = ""


def broken_by(audits: Sequence[bool], budget: float) -> bool:
    """Whether what audits saw since the calibration contradicts its budget: with 95 % confidence more hits are wrong,
    or so many were seen that the bound would have to hold by now and does not."""
    total, wrong = len(audits), sum(not agree for agree in audits)
    if total < LEAST_AUDITS:
        return False
    if wilson_lower(wrong, total) > budget:
        return True
    return total >= 2 * needed(budget) and wilson_upper(wrong, total) > budget


class Calibrations:
    """`cache-calibration.json` in the state directory: by namespace, read again when it changes. Any ingress writes it,
    under a lock.

    Args:
        state: the state directory.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "cache-calibration.json"
        self._stamp = (-1, -1)
        self._known: dict[str, Calibration] = {}
        self.look()

    def look(self) -> None:
        """Read it, if it has changed. A file that cannot be read calibrates nothing."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Calibration])
                self._stamp = stamp
        except (OSError, msgspec.DecodeError):
            self._known, self._stamp = {}, (-1, -1)

    def of(self, space: str) -> Calibration | None:
        """Of a namespace; None where it has none."""
        return self._known.get(space)

    def set(self, space: str, calibration: Calibration) -> None:
        """Write it down; in force when this returns, at other ingresses within a second.

        Raises:
            OSError: it cannot be written.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self.look()
            self._known[space] = calibration
            fresh = self._path.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(self._known)))
            fresh.rename(self._path)
        finally:
            os.close(fd)
        self._stamp = (-1, -1)
        self.look()
