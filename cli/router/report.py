"""`headrace router report`: what mirrored calls say of two models, cost against how much their answers have in
common."""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bus.names import state_directory
from bus.shadow import Arm, Pair, read_pairs

ALIKE = 0.8
NANO = 1e9


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Two models of a route. Costs are means of a call; seconds medians, from when each was asked; `alike` is the share
    of calls whose answers have at least so much in common, `alike_low` and `alike_high` with 95 % confidence."""

    route: str
    served: str
    mirror: str
    calls: int
    served_cost: float
    mirror_cost: float
    served_first_s: float
    mirror_first_s: float
    served_total_s: float
    mirror_total_s: float
    alike: float
    alike_low: float
    alike_high: float


def compare(pairs: Sequence[Pair]) -> list[Compared]:
    """By route and models."""
    groups: dict[tuple[str, str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.route, pair.served.model, pair.mirror.model].append(pair)
    return [_compared(key, group) for key, group in sorted(groups.items())]


def run(route: str, *, as_json: bool, state: Path | None = None) -> int:
    """Print it."""
    try:
        pairs = [pair for pair in read_pairs(state or state_directory()) if route in ("", pair.route)]
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    found = compare(pairs)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return 0
    if not found:
        print("no call was mirrored: name a model in mirror, and a mirror_share above 0, of a [[route]]")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("route", "served", "mirror"):
        table.add_column(title)
    for title in ("calls", "cost a call", "first token, s", "whole, s", f"alike ({ALIKE:g})"):
        table.add_column(title, justify="right")
    for one in found:
        table.add_row(
            one.route, one.served, one.mirror, str(one.calls),
            f"{one.served_cost:.3g} / {one.mirror_cost:.3g}", f"{one.served_first_s:.2f} / {one.mirror_first_s:.2f}",
            f"{one.served_total_s:.2f} / {one.mirror_total_s:.2f}",
            f"{one.alike:.0%} ({one.alike_low:.0%} to {one.alike_high:.0%})",
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "\nServed / mirror. Alike answers say the same words; which of two others is right, nobody has looked at."
    )
    return 0


def _compared(key: tuple[str, str, str], pairs: Sequence[Pair]) -> Compared:
    served, mirror = [pair.served for pair in pairs], [pair.mirror for pair in pairs]
    alike = sum(pair.likeness >= ALIKE for pair in pairs)
    low, high = wilson(alike, len(pairs))
    return Compared(
        route=key[0], served=key[1], mirror=key[2], calls=len(pairs), served_cost=_cost(served),
        mirror_cost=_cost(mirror), served_first_s=_median(served, "first_s"),
        mirror_first_s=_median(mirror, "first_s"), served_total_s=_median(served, "total_s"),
        mirror_total_s=_median(mirror, "total_s"), alike=alike / len(pairs), alike_low=low, alike_high=high,
    )  # fmt: skip


def wilson(count: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The share that lies behind a count, with 95 % confidence (Wilson's interval)."""
    if not of:
        return 0.0, 1.0
    part, shrink = count / of, 1 + z * z / of
    middle, half = part + z * z / (2 * of), z * math.sqrt(part * (1 - part) / of + z * z / (4 * of * of))
    return max(0.0, (middle - half) / shrink), min(1.0, (middle + half) / shrink)


def _cost(arms: Sequence[Arm]) -> float:
    return sum(arm.cost_nano for arm in arms) / len(arms) / NANO


def _median(arms: Sequence[Arm], name: str) -> float:
    values: list[Any] = [getattr(arm, name) for arm in arms]
    return float(statistics.median(values))
