"""What ingresses write of mirrored calls, and `headrace router report` reads: one line of JSON for each, in a file for
each process. Structs and paths only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two answers. Seconds are from when it was asked for; the first token's and the last's."""

    model: str
    tokens: int
    first_s: float
    total_s: float
    cost_nano: int


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A call that two models answered.

    Attributes:
        features: of its prompt; see `bus.prompt_score`.
        likeness: of the two answers, from 0 to 1.
    """

    at_s: int
    route: str
    prompt_tokens: int
    features: tuple[float, ...]
    served: Arm
    mirror: Arm
    likeness: float


def shadow_file(state: Path, process: str) -> Path:
    """Where a process writes."""
    return state / "router" / f"{process}.jsonl"


def read_pairs(state: Path) -> Iterator[Pair]:
    """Everything that was written. A line that cannot be read is that of a process that died as it wrote, and is left
    out.

    Raises:
        OSError: a file cannot be read.
    """
    for path in sorted((state / "router").glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                try:
                    yield msgspec.json.decode(line, type=Pair)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
