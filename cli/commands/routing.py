"""Routes: what mirrored calls say of two models, and a score made of labelled prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from cli.commands.base import LOOKING, Switch, app

router = cyclopts.App(name="router", help="Which of two models a route should ask: reports and calibration.")
router.group, router.sort_key = (LOOKING,), 21
app.command(router)


@router.command(sort_key=1)
def report(route: str = "", *, json: Switch = False) -> int:
    """What the mirrored calls of routes say: cost, time, and how much the two answers have in common.

    Args:
        route: Only this one.
        json: Print it as JSON.
    """
    from cli.router.report import run

    return run(route, as_json=json)


@router.command(sort_key=2)
def calibrate(
    file: Path | None = None,
    *,
    out: Path | None = None,
    route: str = "",
    small: str = "",
    likeness: float = 0.8,
    large_share: float = 0.5,
    even_so: Annotated[bool, Parameter(negative=())] = False,
    json: Switch = False,
) -> int:
    """Make the score of `[route.score]` from labelled prompts, and say what it is worth on prompts it has not seen.

    For example:

        headrace router calibrate labelled.jsonl --out /etc/headrace/score.json

    Args:
        file: Rows of prompt, small_ok and large_ok, as lines of JSON or an object with rows.
        out: Where the calibration is written; without it, only its worth is printed.
        route: Take mirrored calls of this route in place of a file; needs --small.
        small: The small model of these.
        likeness: How much two answers must have in common for the small model to have done as well.
        large_share: Share of calls that shall go to the large model.
        even_so: Write it also where it is not better than chance.
        json: Print it as JSON.
    """
    from cli.router.calibrate import Unusable, from_file, from_shadow, run

    if (file is None) == (not route) or (route and not small):
        print("give a file, or --route and --small", file=sys.stderr)
        return 2
    try:
        rows = from_file(file) if file is not None else from_shadow(route, small, likeness)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    return run(rows, out, large_share, even_so=even_so, as_json=json)
