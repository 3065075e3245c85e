"""How a table is looked at: filter, order, faults only. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from admin_tui.filters import Value, matches, parse
from admin_tui.text import sanitize


class Look(NamedTuple):
    """One way to look at a table."""

    sort: str
    reverse: bool = False
    filter: str = ""
    faults_only: bool = False
    wide: bool = False

    def sorted_by_next(self, sorts: Sequence[str]) -> Look:
        """By the next of `sorts`."""
        return self._replace(sort=sorts[(sorts.index(self.sort) + 1) % len(sorts)])

    def keeps(self, row: Mapping[str, Value], *, faulty: bool) -> bool:
        """Whether a row is shown."""
        return (faulty or not self.faults_only) and matches(parse(self.filter), row)

    def describe(self) -> str:
        """For the edge of the table."""
        parts = [f"sort {self.sort}{', reversed' if self.reverse else ''}"]
        parts += ["faults only"] if self.faults_only else []
        parts += ["wide"] if self.wide else []
        parts += [f"filter {sanitize(self.filter, 40)}"] if self.filter else []
        return " | ".join(parts)
