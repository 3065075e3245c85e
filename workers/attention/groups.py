"""Which decode rows are attended together. Pure.

Rows of a group are padded to its longest, so one long sequence among short ones would multiply the work; many groups
cost a handful of operator calls each per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Gathering a page and calling the operators of one more group cost about the same at this many pages (measured with
# 12 KiB a page and layer, two threads).
_PAGES_WORTH_A_GROUP: Final = 16


def group_rows(page_counts: Sequence[int], most_pages: int) -> list[list[int]]:
    """Cut rows into groups of similar length.

    Args:
        page_counts: pages of each row.
        most_pages: bound on rows * longest of a group, so that its scratch memory stays small. A row that is longer
            on its own is a group on its own.

    Returns:
        Indices into `page_counts`, the longest row of each group first; every row is in one group.
    """
    groups: list[list[int]] = []
    waste = 0
    for row in sorted(range(len(page_counts)), key=page_counts.__getitem__, reverse=True):
        longest = page_counts[groups[-1][0]] if groups else 0
        waste += longest - page_counts[row]
        if not groups or waste > _PAGES_WORTH_A_GROUP or (len(groups[-1]) + 1) * longest > most_pages:
            groups.append([])
            waste = 0
        groups[-1].append(row)
    return groups
