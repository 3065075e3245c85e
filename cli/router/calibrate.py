"""`headrace router calibrate`: labelled prompts in, a score for `[route.score]` out, and what that is worth."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from bus.names import state_directory
from bus.prompt_score import FEATURES, FORMAT, Calibration, Worth, features
from bus.shadow import read_pairs
from cli.router.fitting import Area, Point, area, curve, fit, gain, unseen

LEAST_ROWS: Final = 50
LEAST_OF_A_KIND: Final = 10
LENGTH: Final = FEATURES.index("log_characters")


class Rows(NamedTuple):
    """Labelled prompts. `small` and `large`: whether each model answered it well; `sets`: where it is from."""

    features: list[tuple[float, ...]]
    small: list[bool]
    large: list[bool]
    sets: list[str]


class _Row(msgspec.Struct):
    prompt: str
    small_ok: bool | None = None
    large_ok: bool | None = None
    weak_ok: bool | None = None
    strong_ok: bool | None = None
    set: str = ""


class _Rows(msgspec.Struct):
    rows: list[_Row]


class Unusable(ValueError):
    """Nothing can be made of what was given. The message says why."""


class Found(NamedTuple):
    """A calibration, and how it does on what it has not seen."""

    calibration: Calibration
    area: Area
    length_area: Area
    curve: list[Point]
    length_curve: list[Point]


def from_file(path: Path) -> Rows:
    """Rows of `prompt`, `small_ok` and `large_ok`: lines of JSON, or one object with `rows`. `weak_ok` and `strong_ok`
    are the same by other names.

    Raises:
        Unusable: they are not.
    """
    try:
        data = path.read_bytes()
        rows = _decoded(data)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"{path}: {error}") from None
    found = Rows([], [], [], [])
    for number, row in enumerate(rows, start=1):
        small = row.small_ok if row.small_ok is not None else row.weak_ok
        large = row.large_ok if row.large_ok is not None else row.strong_ok
        if small is None:
            raise Unusable(f"{path}: row {number} does not say small_ok")
        found.features.append(features(row.prompt))
        found.small.append(small)
        found.large.append(True if large is None else large)
        found.sets.append(row.set)
    return found


def from_shadow(route: str, small: str, likeness: float, state: Path | None = None) -> Rows:
    """Mirrored calls of a route, of which one model was `small`: it does as well where the two answers are that much
    alike. That is a guess: two answers may be alike and wrong, or unlike and right."""
    found = Rows([], [], [], [])
    for pair in read_pairs(state or state_directory()):
        if pair.route == route and small in (pair.served.model, pair.mirror.model):
            found.features.append(pair.features)
            found.small.append(pair.likeness >= likeness)
            found.large.append(True)
            found.sets.append("")
    return found


def calibrate(rows: Rows, large_share: float) -> Found:
    """Make a score whose threshold sends that share of calls to the large model.

    Raises:
        Unusable: there are too few rows to say anything.
    """
    small, large = np.array(rows.small, dtype=bool), np.array(rows.large, dtype=bool)
    labels = small | ~large  # where neither is right nothing is lost with the cheaper one
    count, kinds = len(labels), (int(labels.sum()), int((~labels).sum()))
    if count < LEAST_ROWS or min(kinds) < LEAST_OF_A_KIND:
        raise Unusable(
            f"{count} prompts, of which the small model does for {kinds[0]}: at least {LEAST_ROWS} are needed, and "
            f"{LEAST_OF_A_KIND} of either kind"
        )
    read = np.array(rows.features)
    scores = unseen(read, labels, rows.sets)
    length = unseen(read[:, LENGTH : LENGTH + 1], labels, rows.sets)
    told, by_length = area(scores, labels), area(length, labels)
    whole = fit(read, labels)
    threshold = float(np.quantile(1 / (1 + np.exp(-scores)), large_share))
    worth = Worth(
        rows=count, small_ok=round(float(labels.mean()), 4), auc=round(told.value, 4), auc_low=round(told.low, 4),
        auc_high=round(told.high, 4), length_auc=round(by_length.value, 4),
    )  # fmt: skip
    calibration = Calibration(
        format=FORMAT, features=FEATURES, mean=_plain(whole.mean), scale=_plain(whole.scale),
        weights=_plain(whole.weights), bias=whole.bias, threshold=threshold, worth=worth,
    )  # fmt: skip
    return Found(calibration, told, by_length, curve(scores, small, large), curve(length, small, large))


def run(rows: Rows, out: Path | None, large_share: float, *, even_so: bool, as_json: bool) -> int:
    """Print what a score is worth, and write it where it is worth anything; 1 where it is not written."""
    try:
        found = calibrate(rows, large_share)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    chance = found.area.low <= 0.5
    if as_json:
        print(msgspec.json.encode(_told(found)).decode())
    else:
        _print(found)
    if chance and not even_so:
        print("Not better than chance, so nothing is written. --even-so writes it.", file=sys.stderr)
        return 1
    if out is not None:
        _write(out, msgspec.json.format(msgspec.json.encode(found.calibration), indent=1) + b"\n")
        print(f"written to {out}", file=sys.stderr)
    return 0


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: an ingress may start meanwhile."""
    before = path.with_name(f".{path.name}.{os.getpid()}")
    before.write_bytes(data)
    before.replace(path)


def _decoded(data: bytes) -> Sequence[_Row]:
    try:
        return msgspec.json.decode(data, type=_Rows).rows
    except msgspec.DecodeError:
        decode = msgspec.json.Decoder(_Row).decode
        return [decode(line) for line in data.splitlines() if line.strip()]


def _plain(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _told(found: Found) -> dict[str, Any]:
    return {
        "worth": msgspec.to_builtins(found.calibration.worth),
        "threshold": found.calibration.threshold,
        "gain": gain(found.curve),
        "length_gain": gain(found.length_curve),
        "curve": [point._asdict() for point in found.curve],
    }


def _print(found: Found) -> None:
    console, worth = Console(highlight=False), found.calibration.worth
    console.print(f"{worth.rows} prompts; the small model does for {worth.small_ok:.1%} of them.")
    console.print(
        f"On prompts that it was not made from, the score is right about two of them {worth.auc:.3f} of the time "
        f"({worth.auc_low:.3f} to {worth.auc_high:.3f} with 95 % confidence; 0.5 is chance). The length alone: "
        f"{worth.length_auc:.3f}."
    )
    console.print(f"Of the distance between the models it wins {gain(found.curve):.2f} on average; a coin 0.50.\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("calls at the large model", "right answers", "by a coin"):
        table.add_column(title, justify="right")
    least, most = found.curve[0].right, found.curve[-1].right
    for point in found.curve:
        coin = least + (most - least) * point.large_share
        table.add_row(f"{point.large_share:.0%}", f"{point.right:.1%}", f"{coin:.1%}")
    console.print(table)
