"""A picture of kept figures: tokens a second of each server, scenario by scenario.

    python -m benchmarks.serving.plot benchmarks/results/NAME.json docs/pictures/serving.svg

Bars are medians over the rounds, their whiskers the extremes. Needs matplotlib: `pip install matplotlib`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Final

UNIT: Final = "tok/s"
COLOURS: Final = ("#1b6ca8", "#c9c9c9", "#a3a3a3", "#7d7d7d", "#585858", "#333333")  # ours first


def draw(kept: dict[str, Any], picture: Path) -> None:
    """Write the picture, in the format that its name asks for.

    Args:
        kept: what `benchmarks.serving --keep` wrote.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    servers: dict[str, Any] = kept["servers"]
    shown = [name for name, figure in next(iter(servers.values())).items() if figure["unit"] == UNIT]
    width = 0.8 / len(servers)
    figure, axes = pyplot.subplots(figsize=(10, 4))
    for number, (name, figures) in enumerate(servers.items()):
        rounds = [figures[scenario]["rounds"] for scenario in shown]
        middle = [statistics.median(values) for values in rounds]
        reach = [[m - min(v) for m, v in zip(middle, rounds, strict=True)],
                 [max(v) - m for m, v in zip(middle, rounds, strict=True)]]  # fmt: skip
        places = [index + (number - (len(servers) - 1) / 2) * width for index in range(len(shown))]
        bars = axes.bar(places, middle, width, yerr=reach, label=name, color=COLOURS[number % len(COLOURS)])
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
    machine = kept["machine"]
    axes.set_title(
        f"{machine['model']}, {machine['threads']} threads of {machine['cpu']}, {machine['date']}", fontsize=9
    )
    axes.set_xticks(range(len(shown)), [name.replace(", ", "\n") for name in shown], fontsize=8)
    axes.set_ylabel("tokens a second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="what `benchmarks.serving --keep` wrote")
    parser.add_argument("picture", type=Path, help="an .svg or .png file")
    options = parser.parse_args()
    draw(json.loads(options.figures.read_text()), options.picture)


if __name__ == "__main__":
    main()
