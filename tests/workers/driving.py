"""Drives an executor the way a scheduler does: hand-made plans, hand-made pages, memory instead of the arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen, StepPlan, StepResult
from bus.packed import pack_u32, unpack_u32
from workers.step.execute import Executor
from workers.step.rows import Written

Row = tuple[int, int, int, bool]  # slot, start, count, sampled


def make_plan(
    step: int,
    rows: Sequence[Row] = (),
    *,
    opens: Sequence[SlotOpen] = (),
    closes: Sequence[int] = (),
    pages: Sequence[tuple[int, int, int]] = (),
) -> StepPlan:
    """A plan; `pages` are (slot, page, generation)."""
    slots, starts, counts, samples = zip(*rows, strict=True) if rows else ((), (), (), ())
    page_slots, numbers, generations = zip(*pages, strict=True) if pages else ((), (), ())
    return StepPlan(
        step,
        pack_u32(closes),
        tuple(opens),
        pack_u32(slots),
        pack_u32(starts),
        pack_u32(counts),
        bytes(samples),
        pack_u32(page_slots),
        pack_u32(numbers),
        pack_u32(generations),
    )


def make_open(
    slot: int,
    tokens: Sequence[int],
    pages: Sequence[int] = (),
    *,
    sampling: Sampling | None = None,
    prompt_tokens: int | None = None,
    computed: int = 0,
    prompt_logprobs: int = -1,
) -> SlotOpen:
    """A slot's opening; generation of page p is p + 1000."""
    return SlotOpen(
        slot,
        slot + 1,
        pack_u32(tokens),
        len(tokens) if prompt_tokens is None else prompt_tokens,
        computed,
        pack_u32(pages),
        pack_u32([page + 1000 for page in pages]),
        sampling or Sampling(),
        prompt_logprobs,
    )


@dataclass
class PlainPages:
    """Pages in plain memory, and the commits that were made."""

    tensor: torch.Tensor
    valid: dict[tuple[int, int], int] = field(default_factory=dict)

    def launched(self, written: Written) -> None:
        """They are written in place."""

    def abandon(self) -> None:
        """Nobody reads what was not committed."""

    def commit(self, written: Written) -> None:
        for page, generation, tokens in zip(*(values.tolist() for values in written), strict=True):
            self.valid[page, generation] = tokens


@dataclass
class Running:
    """A request, as the driver follows it."""

    slot: int
    tokens: list[int]
    pages: list[int]
    computed: int = 0
    drawn_ahead: int = 0  # draws planned and not yet seen


class Driver:
    """A scheduler of the simplest kind: every request is prefilled in chunks, then decodes with the others.

    Args:
        executor: the worker.
        page_tokens, cells: of its pages.
        chunk: tokens of a prefill chunk.
        ahead: plans that are made before the results of earlier ones are looked at (as with plans in flight).
    """

    def __init__(self, executor: Executor, page_tokens: int, cells: int, *, chunk: int = 512, ahead: int = 1) -> None:
        self.executor, self.page_tokens, self.chunk, self.ahead = executor, page_tokens, chunk, ahead
        self.free = list(range(cells))[::-1]  # so that block tables are not in order
        self.step = 0
        self.results: list[StepResult] = []

    def pages_for(self, tokens: int) -> list[int]:
        return [self.free.pop(len(self.free) // 3) for _ in range(-(-tokens // self.page_tokens))]

    def run(self, rows: Sequence[Row] = (), **changes: object) -> StepResult:
        """Run one plan made by hand."""
        self.step += 1
        self.results.append(self.executor.run(make_plan(self.step, rows, **changes)))  # type: ignore[arg-type]
        return self.results[-1]

    def generate(
        self, prompts: Sequence[Sequence[int]], count: int, samplings: Sequence[Sampling] | None = None
    ) -> list[list[int]]:
        """Draw `count` tokens for each prompt, all prompts in one batch, then close their slots."""
        sequences = [Running(slot, list(prompt), self.pages_for(len(prompt))) for slot, prompt in enumerate(prompts)]
        parameters = samplings or [Sampling()] * len(prompts)
        opens = [
            make_open(sequence.slot, sequence.tokens, sequence.pages, sampling=sampling)
            for sequence, sampling in zip(sequences, parameters, strict=True)
        ]
        out: list[list[int]] = [[] for _ in prompts]
        pending: list[StepResult] = []
        while any(len(tokens) < count for tokens in out):
            rows, pages = self._next_rows(sequences, out, count)
            if rows or opens:
                pending.append(self.run(rows, opens=opens, pages=pages))
                opens = []
            while pending and (len(pending) >= self.ahead or not rows):
                self._take(pending.pop(0), sequences, out)
        for result in pending:
            self._take(result, sequences, out)
        self.run(closes=[sequence.slot for sequence in sequences])
        for sequence in sequences:
            self.free += sequence.pages
        return [tokens[:count] for tokens in out]

    def _next_rows(
        self, sequences: list[Running], out: list[list[int]], count: int
    ) -> tuple[list[Row], list[tuple[int, int, int]]]:
        rows: list[Row] = []
        pages: list[tuple[int, int, int]] = []
        for sequence in sequences:
            length = len(sequence.tokens) + sequence.drawn_ahead
            if len(out[sequence.slot]) + sequence.drawn_ahead >= count:
                continue
            end = min(length, sequence.computed + self.chunk)
            while len(sequence.pages) * self.page_tokens < end:
                (page,) = self.pages_for(1)
                sequence.pages.append(page)
                pages.append((sequence.slot, page, page + 1000))
            rows.append((sequence.slot, sequence.computed, end - sequence.computed, end == length))
            sequence.computed = end
            sequence.drawn_ahead += end == length
        rows.sort(key=lambda row: row[2] == 1)
        return rows, pages

    def _take(self, result: StepResult, sequences: list[Running], out: list[list[int]]) -> None:
        for slot, token in zip(unpack_u32(result.slots).tolist(), unpack_u32(result.tokens).tolist(), strict=True):
            out[slot].append(token)
            sequences[slot].tokens.append(token)
            sequences[slot].drawn_ahead -= 1


def as_array(packed: bytes) -> list[int]:
    """Packed numbers as a list."""
    return [int(value) for value in np.frombuffer(packed, "<u4")]
