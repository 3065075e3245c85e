"""A scheduler of the simplest kind that has two plans in flight, for a worker that computes beside the host.

It keeps the rules that executors rely on: results come in order; what a request held is given to others when the last
step that may write it is complete, and is forgotten then; a block has a name when its step was answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from driving import make_open, make_plan

from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen, StepPlan, StepResult
from bus.packed import pack_u32, unpack_u32


@dataclass(eq=False)
class Asked:
    """A request, and what came of it. `stop` is a token that ends it."""

    prompt: list[int]
    count: int
    sampling: Sampling
    stop: int = -1
    emitted: list[int] = field(default_factory=list)
    named: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.emitted

    @property
    def over(self) -> bool:
        return len(self.emitted) >= self.count or (bool(self.emitted) and self.emitted[-1] == self.stop)


@dataclass(eq=False)
class Seat:
    """A request in a slot. `planned` tokens are computed by steps that were sent, `drawn` of them not known yet."""

    asked: Asked
    slot: int
    pages: list[int]
    planned: int
    drawn: int = 0
    computed: int = 0


@dataclass(eq=False)
class Sent:
    plan: StepPlan
    rows: list[tuple[Seat, int, bool]]  # with where it ends, and whether it draws


class TwoAhead:
    """The scheduler.

    Args:
        cells: pages that there are.
        frames: pages that slots can hold at once.
        chunk: most tokens of a prefill.
    """

    def __init__(
        self, asked: Sequence[Asked], slots: int, cells: int, frames: int, page_tokens: int, chunk: int
    ) -> None:
        self.cells, self.frames = cells, frames
        self.waiting = deque(asked)
        self.page_tokens, self.chunk, self.slots = page_tokens, chunk, slots
        self.free = list(range(cells))
        self.seats: list[Seat] = []
        self.free_slots = list(range(slots))
        self.sent: deque[Sent] = deque()
        self.step = self.completed = 0
        self.closing: list[int] = []
        self.forgets: list[int] = []
        self.retired: list[tuple[int, int, list[int]]] = []

    @property
    def over(self) -> bool:
        return not self.waiting and not self.seats and not self.sent

    def plan(self) -> StepPlan | None:
        """The next step; None where two are in flight, or there is nothing to do."""
        if len(self.sent) >= 2:
            return None
        opens = self._opens()
        rows: list[tuple[Seat, int, bool]] = []
        columns: list[tuple[int, int, int, bool]] = []
        pages: list[tuple[int, int, int]] = []
        for seat in self.seats:
            known = len(seat.asked.tokens) + seat.drawn
            if len(seat.asked.emitted) + seat.drawn >= seat.asked.count:
                continue
            end = min(known, seat.planned + self.chunk)
            more = -(-end // self.page_tokens) - len(seat.pages)
            if more > min(len(self.free), self.frames - sum(len(each.pages) for each in self.seats)):
                continue
            for page in [self.free.pop(0) for _ in range(max(0, more))]:
                seat.pages.append(page)
                pages.append((seat.slot, page, page + 1000))
            draws = end == known
            columns.append((seat.slot, seat.planned, end - seat.planned, draws))
            rows.append((seat, end, draws))
            seat.planned, seat.drawn = end, seat.drawn + draws
        if not rows and not opens and not self.closing:
            return None
        self.step += 1
        made = make_plan(self.step, columns, opens=opens, closes=self.closing, pages=pages)
        made = msgspec.structs.replace(made, forgets=pack_u32(self.forgets))
        self.closing, self.forgets = [], []
        self.sent.append(Sent(made, rows))
        return made

    def answered(self, result: StepResult) -> list[tuple[int, list[int]]]:
        """Take a result. Returns what got a name: pages, and the tokens in them."""
        sent = self.sent.popleft()
        assert result.step == sent.plan.step
        drawers = [seat for seat, _, draws in sent.rows if draws]
        assert unpack_u32(result.slots).tolist() == [seat.slot for seat in drawers]
        drawn = dict(zip(map(id, drawers), unpack_u32(result.tokens).tolist(), strict=True))
        named: list[tuple[int, list[int]]] = []
        for seat, end, _ in sent.rows:
            if seat not in self.seats:
                continue  # computed in vain
            seat.computed = end
            for place in range(len(seat.asked.named), end // self.page_tokens):
                seat.asked.named.append(seat.pages[place])
                begin = place * self.page_tokens
                named.append((seat.pages[place], seat.asked.tokens[begin : begin + self.page_tokens]))
            if id(seat) in drawn:
                seat.asked.emitted.append(drawn[id(seat)])
                seat.drawn -= 1
        self._complete(result.step)
        for seat in [seat for seat in self.seats if seat.asked.over]:
            seat.asked.named = []
            self._leave(seat)
        return named

    def preempt(self, seat: Seat) -> None:
        """A request goes back to the queue."""
        self._leave(seat)
        self.waiting.appendleft(seat.asked)

    def worker_died(self) -> None:
        """Nothing in flight will be answered; what has a name is there."""
        for seat in self.seats:
            self.waiting.append(seat.asked)
        self.sent.clear()
        held = {page for asked in self.waiting for page in asked.named}
        self.free = [page for page in range(self.cells) if page not in held]
        self.seats, self.retired, self.closing, self.forgets = [], [], [], []
        self.free_slots = list(range(self.slots))
        self.completed = self.step

    def _opens(self) -> list[SlotOpen]:
        opens: list[SlotOpen] = []
        while self.waiting and self.free_slots:
            if sum(len(each.pages) for each in self.seats) + len(self.waiting[0].named) > self.frames:
                break
            asked = self.waiting.popleft()
            kept = min(len(asked.named), (len(asked.tokens) - 1) // self.page_tokens)
            slot = self.free_slots.pop(0)
            seat = Seat(asked, slot, asked.named[:kept], kept * self.page_tokens, computed=kept * self.page_tokens)
            opened = make_open(
                slot, asked.tokens, seat.pages, sampling=asked.sampling, prompt_tokens=len(asked.prompt),
                computed=seat.planned,
            )  # fmt: skip
            if kept < len(asked.named):  # a last full page is computed once more, into another
                self.retired.append((self.step, -1, asked.named[kept:]))
                asked.named = asked.named[:kept]
            self.seats.append(seat)
            opens.append(opened)
        return opens

    def _leave(self, seat: Seat) -> None:
        self.seats.remove(seat)
        self.closing.append(seat.slot)
        rest = [page for page in seat.pages if page not in seat.asked.named]
        if self.completed >= self.step:
            self._give_back(seat.slot, rest)
        else:
            self.retired.append((self.step, seat.slot, rest))

    def _complete(self, step: int) -> None:
        self.completed = step
        for after, slot, pages in [each for each in self.retired if each[0] <= step]:
            self.retired.remove((after, slot, pages))
            self._give_back(slot, pages)

    def _give_back(self, slot: int, pages: list[int]) -> None:
        if slot >= 0:
            self.free_slots.append(slot)
        self.free += pages
        self.forgets += pages


class Follower:
    """Stands for `workers.sampling.grammar.Grammars`: a slot's next token never has the last one's remainder of three,
    so that a mask that was made without the last token is a wrong one."""

    def __init__(self, vocabulary: int, banned: Any) -> None:
        self._vocabulary, self._banned = vocabulary, banned
        self._last: dict[int, int] = {}
        self._due: list[int] = []

    def __contains__(self, slot: int) -> bool:
        return slot in self._last

    def open(self, slot: int, grammar: object, emitted: Sequence[int]) -> None:
        del grammar
        self._last[slot] = emitted[-1] if emitted else 0

    def close(self, slot: int) -> None:
        self._last.pop(slot, None)

    def append(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        for slot, token in zip(slots, tokens, strict=True):
            if slot in self._last:
                self._last[slot] = token

    def begin(self, slots: Sequence[int]) -> None:
        self._due = list(slots)

    def masks(self) -> Any:
        rows = {at: self._last[slot] for at, slot in enumerate(self._due) if slot in self._last}
        return self._banned(rows) if rows else None
