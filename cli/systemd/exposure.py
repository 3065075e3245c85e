"""What the services are exposed to, as `systemd-analyze security` counts it, and what is the most that it may be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from cli.systemd.units import UNITS

STRICT: Final = 1.0  # those that hold everybody's pages and decide for everybody
OTHERS: Final = 1.6
_STRICT_UNITS: Final = re.compile(r"headrace-(kv|scheduler@.*)\.service")
_JUDGED: Final = re.compile(
    r"headrace-(kv|metrics|accounts|crash-report|(scheduler|worker|standby|ingress)@.*)\.service"
)


class Exposure(NamedTuple):
    """Of one unit, from 0 (safe) to 10."""

    unit: str
    score: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether it is within its limit."""
        return self.score <= self.limit


def limit_of(unit: str) -> float:
    """The most that a unit may be exposed to."""
    return STRICT if _STRICT_UNITS.fullmatch(unit) else OTHERS


def measure(root: Path) -> list[Exposure]:
    """Every service of headrace's own program that is installed below `root`, from its files: nothing need run.

    Raises:
        FileNotFoundError: systemd-analyze is not installed.
        ValueError: it cannot judge a unit; the message holds what it said.
    """
    units = root / UNITS
    names = {path.name for path in units.glob("headrace-*.service")}
    names |= {path.name.removesuffix(".d") for path in units.glob("headrace-*@?*.service.d")}
    found = []
    for name in sorted(name for name in names if _JUDGED.fullmatch(name) and "@." not in name):
        found.append(Exposure(name, _score(units, name), limit_of(name)))
    return found


def show(root: Path, *, as_json: bool) -> int:
    """Print them. Exit code 1 where one is above its limit."""
    try:
        found = measure(root)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 69 if isinstance(error, FileNotFoundError) else 1
    if as_json:
        print(json.dumps([{**each._asdict(), "good": each.good} for each in found]))
    else:
        for each in found:
            print(f"{'●' if each.good else '✖'} {each.unit:<44} {each.score:.1f}  (at most {each.limit:.1f})")
        if not found:
            print(f"no units of headrace are in {units_below(root)}; first: headrace systemd install", file=sys.stderr)
    return 0 if found and all(each.good for each in found) else 1


def units_below(root: Path) -> Path:
    """Where they are looked for."""
    return root / UNITS


def _score(units: Path, name: str) -> float:
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(units / name)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "LC_ALL": "C.UTF-8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if (match := re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)) is None:
        raise ValueError(f"{name}: {said.stderr.strip() or said.stdout.strip()}")
    return float(match[1])
