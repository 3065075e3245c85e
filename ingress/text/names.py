"""Patterns of many names. Pure.

A vocabulary may have thousands of control tokens (Gemma: 6,249). An alternative for each of them is tried at every
character; here names that begin alike are told apart by the first character in which they differ.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Final

NOTHING: Final = r"(?!)"
"""Matches nowhere."""


def longest_of(names: Iterable[str]) -> str:
    """A pattern that matches the longest of some names that stands at a place, and nothing else."""
    found = sorted({name for name in names if name})
    return _any_of(found) if found else NOTHING


def _any_of(names: Sequence[str]) -> str:
    """Of distinct names in order. Recursion is as deep as names branch, not as they are long."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(names[0], names[-1], strict=False))
    shared = "".join(first for first, _ in alike)
    rests = [name[len(shared) :] for name in names]
    ends = rests[0] == ""  # the shortest is the first
    branches = [_any_of(list(group)) for _, group in itertools.groupby(rests[ends:], key=lambda rest: rest[0])]
    if ends:
        branches.append("")  # the last: a longer one goes first
    rest = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return re.escape(shared) + rest
