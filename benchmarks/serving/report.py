"""Figures of several servers and rounds: medians, spreads, ratios; as a table, and as a file that is kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.scenarios import Figure

OURS: Final = "headrace"
Rounds = Mapping[str, Sequence[Sequence[Figure]]]  # by server: each round's figures


def table(rounds: Rounds) -> list[str]:
    """Lines: each figure of each server with its spread, then ours over the best of the others."""
    names = list(rounds)
    lines = [f"{'':28}" + "".join(f"{name:>22}" for name in names) + f"{'ours over the best':>22}"]
    for index, figure in enumerate(next(iter(rounds.values()))[0]):
        values = {name: [figures[index].value for figures in each] for name, each in rounds.items()}
        cells = [f"{_short(statistics.median(v))} ±{_spread(v):3.0f}% {figure.unit:5}" for v in values.values()]
        lines.append(f"{figure.name:28}" + "".join(f"{cell:>22}" for cell in cells) + f"{_over(values, figure):>22}")
    return lines


def keep(path: Path, machine: Mapping[str, Any], rounds: Rounds) -> None:
    """Write everything that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        name: {
            figure.name: {"unit": figure.unit, "rounds": [round(figures[index].value, 4) for figures in each]}
            for index, figure in enumerate(each[0])
        }
        for name, each in rounds.items()
    }
    path.write_text(json.dumps({"machine": machine, "servers": figures}, indent=1) + "\n")


def _over(values: Mapping[str, Sequence[float]], figure: Figure) -> str:
    """Above 1 is better for us, whatever is counted."""
    medians = {name: statistics.median(each) for name, each in values.items()}
    others = [value for name, value in medians.items() if name != OURS and value > 0]
    if OURS not in medians or not others or not medians[OURS]:
        return ""
    ratio = medians[OURS] / max(others) if figure.more else min(others) / medians[OURS]
    return f"{ratio:.2f}"


def _spread(values: Sequence[float]) -> float:
    """Half the range, in percent of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle * 100 if middle else 0.0


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
