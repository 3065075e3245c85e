"""Pages behind the windows of a running request: what nobody reads any more is given back while it runs.

A layer with a window reads the last `Replica.window` tokens. Where all layers have one, a block that is wholly behind
it is let go of as it is. Where some see everything, their share of such blocks is brought together first: the worker
copies it from `Replica.fold` blocks into one page, a *fold*, and when the step that does so is done, the blocks are
let go of.

    table   [ -  -  -  -  -  -  -  - | w  w  w ]      w: whole pages, of the window
    folds   [   fold   |   fold      ]                -: let go of

A block that is let go of loses only this request's reference. kv keeps its page, whole and under its digest, for as
long as it has room, so prefixes, turns of chats and requests that begin again find what they always found. A fold is
its request's alone, has no name, and ends with it.

vLLM and SGLang give groups of layers pages of their own (https://arxiv.org/abs/2503.18292), which also makes what is
only cached smaller, and every table, look-up, name and hand-over one for each group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scheduler.core.pages import PagePool
    from scheduler.core.replica import Ints, Replica
    from scheduler.core.request import Request
    from scheduler.core.state import State

NO_PAGE: Final = -1
FOLDS_AT_ONCE: Final = 8  # of a request in a step: a long prompt that was found is folded in some steps


@dataclass(slots=True, eq=False)
class Behind:
    """What a running request has let go of.

    Attributes:
        blocks: the leading blocks of its table without a page.
        folds: pages with what the layers without a window have of those, and of blocks that are being folded.
        folding: the step that is to fold blocks, and up to which one, oldest first.
    """

    blocks: int = 0
    folds: list[int] = field(default_factory=list)
    folding: list[tuple[int, int]] = field(default_factory=list)

    @property
    def planned(self) -> int:
        """Leading blocks that are let go of, or are going to be."""
        return self.folding[-1][1] if self.folding else self.blocks


def plan_folds(replica: Replica, pool: PagePool, slots: Ints, step: int) -> tuple[list[int], list[int]]:
    """Slots, and the page that the next blocks of each are folded into, for a step with rows of `slots`.

    Only what frees pages: blocks that others share are left where they are. And only with pages that nobody is about
    to want; what waits for pages has the rest of a window to go.
    """
    of: list[int] = []
    pages: list[int] = []
    if not replica.fold:
        return of, pages
    for slot in slots.tolist():
        request = replica.requests[slot]
        assert request is not None
        if slot in replica.handing:
            continue
        for _ in range(FOLDS_AT_ONCE):
            first = request.behind.planned
            upto = first + replica.fold
            if upto > _unseen(replica, slot) or pool.free <= replica.running or not _alone(request, first, upto):
                break
            page = pool.take(1)[0]
            request.behind.folds.append(page)
            request.behind.folding.append((step, upto))
            of.append(slot)
            pages.append(page)
    return of, pages


def let_go(state: State, replica: Replica, slots: Iterable[int]) -> None:
    """A step is complete: requests in `slots` let go of the blocks that no step in flight or to come reads."""
    if not replica.window:
        return
    for slot in slots:
        request = replica.requests[slot]
        if request is None or slot in replica.handing:
            continue
        behind = request.behind
        upto = behind.blocks
        if not replica.fold:
            upto = max(upto, _unseen(replica, slot))
            if request.reuse:
                upto = min(upto, max(len(request.entries), behind.blocks))  # the others are to be named first
        while behind.folding and behind.folding[0][0] <= replica.completed_step:
            upto = behind.folding.pop(0)[1]
        if upto > behind.blocks:
            state.ledger.let_go(request, upto)


def _unseen(replica: Replica, slot: int) -> int:
    """Leading blocks that are wholly behind the window of the next token to compute."""
    return max(0, int(replica.computed[slot]) - replica.window + 1) // replica.page_tokens


def _alone(request: Request, first: int, upto: int) -> bool:
    """Whether nobody else uses these blocks."""
    if not request.reuse:
        return True
    entries = request.entries[first:upto]
    return len(entries) == upto - first and all(entry.refs == 1 for entry in entries)
