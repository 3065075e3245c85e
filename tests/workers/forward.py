"""Runs models on pages without a worker around them: sequences, steps of any composition, ranks as threads."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from workers.kernels.pack import Kernels
from workers.layers.linear import pack
from workers.lora.adapter import Adapter
from workers.models.architecture import kv_shape
from workers.models.interface import Batch, Collectives, Model
from workers.models.load import load_model
from workers.operators.interface import MakeOperators
from workers.operators.plain import plain
from workers.pages import page_tensor
from workers.weights.loader import Form

T = TypeVar("T")


class Ranks:
    """Tensor-parallel ranks as threads of this process. Results are added in rank order, the same on every rank."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks)
        self._brought: list[Any] = [None] * ranks
        self.ranks = ranks

    def of(self, rank: int) -> Collectives:
        """The collectives of one rank."""
        return _Rank(self, rank)

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor."""
        self._brought[rank] = tensor
        self._barrier.wait(60)
        found = list(self._brought)
        self._barrier.wait(60)
        return found

    def each(self, run: Callable[[int], T]) -> list[T]:
        """Run on all ranks at once."""
        if self.ranks == 1:
            return [run(0)]
        results: list[Any] = [None] * self.ranks
        errors: list[BaseException] = []

        def body(rank: int) -> None:
            try:
                results[rank] = run(rank)
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(self.ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results


class _Rank:
    def __init__(self, ranks: Ranks, rank: int) -> None:
        self._ranks, self._rank = ranks, rank

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return torch.stack(self._ranks.exchange(self._rank, tensor.clone())).sum(0)

    def all_gather_last(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        assert tensor.shape[-1] == sizes[self._rank]
        return torch.cat(self._ranks.exchange(self._rank, tensor), -1)


class Runner:
    """Sequences on pages of one model, which all ranks share.

    Pages begin as NaN everywhere (of int8: their scales), so that anything read that was not written shows.
    """

    def __init__(
        self,
        path: Path,
        *,
        ranks: int = 1,
        page_tokens: int = 16,
        cells: int = 512,
        dtype: torch.dtype = torch.float32,
        kernels: Kernels | None = None,
        context: int = 0,
        make_operators: MakeOperators = plain,
        form: Form | None = None,
    ) -> None:
        self._ranks = Ranks(ranks)
        self.models: list[Model] = self._ranks.each(
            lambda rank: load_model(
                path,
                dtype=torch.float32,
                device=torch.device("cpu"),
                rank=rank,
                ranks=ranks,
                kernels=kernels,
                context=context,
                make_operators=make_operators,
                lay_out=pack if make_operators is plain else lambda weight: weight,
                form=form,
                **self.collectives(rank),
            )
        )
        a = self.models[0].architecture
        shape = kv_shape(a, page_tokens, dtype)
        self.pages = page_tensor(torch.full((cells, shape.page_bytes), 255, dtype=torch.uint8), shape)
        self._page_tokens = page_tokens
        self._free = list(range(cells))
        random.Random(1).shuffle(self._free)
        self._tables: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}
        self.adapters: dict[str, Sequence[Adapter]] = {}  # of sequences: each rank's

    def collectives(self, rank: int) -> dict[str, Any]:
        """For `load_model`."""
        return {} if self._ranks.ranks == 1 else {"collectives": self._ranks.of(rank)}

    def step(self, rows: Sequence[tuple[str, Sequence[int]]]) -> list[Tensor]:
        """One step: each row appends ids to a sequence. Returns hidden states, [ids of the row, hidden] per row."""
        ids, batch = self._batch(rows)
        names = [name for name, _ in rows]
        hidden = self._ranks.each(
            lambda rank: self.models[rank].forward(
                ids, dataclasses.replace(batch, adapters=self._adapters(names, rank)), self.pages
            )
        )
        for other in hidden[1:]:
            assert torch.equal(hidden[0], other), "ranks disagree"
        return list(hidden[0].split([len(new) for _, new in rows]))

    def logits(self, hidden: Tensor, names: Sequence[str] = ()) -> Tensor:
        """float32 [rows, vocabulary]. names: of the rows' sequences, where some have adapters."""
        return self._ranks.each(lambda rank: self.models[rank].logits(hidden, self._adapters(names, rank)))[0]

    def _adapters(self, names: Sequence[str], rank: int) -> list[Adapter | None]:
        found = [self.adapters[name][rank] if name in self.adapters else None for name in names]
        return found if any(found) else []

    def share(self, name: str, other: str, tokens: int) -> None:
        """Begin a sequence with the first pages of another one."""
        assert tokens % self._page_tokens == 0
        self._tables[other] = self._tables[name][: tokens // self._page_tokens]
        self._lengths[other] = tokens

    def table(self, name: str) -> list[int]:
        """Cells of a sequence."""
        return self._tables[name]

    def free(self, name: str) -> None:
        """Give a sequence's pages back, with what is in them."""
        self._free += self._tables.pop(name)
        del self._lengths[name]

    def greedy(
        self, prompts: Sequence[Sequence[int]], steps: int, chunk: int = 1 << 30
    ) -> list[tuple[list[int], list[float]]]:
        """Decode prompts together: tokens and their log probabilities. Prefill goes in chunks of `chunk` tokens, and
        a sequence decodes as soon as it can, beside the others' prefill."""
        names = [f"{id(prompts)}-{index}" for index in range(len(prompts))]
        left = [list(prompt) for prompt in prompts]
        done: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        while any(len(tokens) < steps for tokens, _ in done):
            live = [index for index, (tokens, _) in enumerate(done) if len(tokens) < steps]
            rows = [(index, left[index][:chunk]) for index in live]
            rows.sort(key=lambda row: len(row[1]) == 1)  # prefill first
            hidden = self.step([(names[index], new) for index, new in rows])
            ready = [at for at, (index, new) in enumerate(rows) if len(new) == len(left[index])]
            for index, new in rows:
                left[index] = left[index][len(new) :]
            if not ready:
                continue
            best, tokens = self.logits(torch.stack([hidden[at][-1] for at in ready])).log_softmax(-1).max(-1)
            for at, logprob, token in zip(ready, best.tolist(), tokens.tolist(), strict=True):
                index = rows[at][0]
                done[index][0].append(token)
                done[index][1].append(logprob)
                left[index] = [token]
        for name in names:
            self.free(name)
        return done

    def _batch(self, rows: Sequence[tuple[str, Sequence[int]]]) -> tuple[Tensor, Batch]:
        ids: list[int] = []
        positions: list[int] = []
        cells: list[int] = []
        starts, contexts, tables = [0], [], []
        for name, new in rows:
            begin = self._lengths.get(name, 0)
            end = self._lengths[name] = begin + len(new)
            table = self._tables.setdefault(name, [])
            while len(table) * self._page_tokens < end:
                table.append(self._free.pop())
            ids += new
            positions += range(begin, end)
            cells += [table[position // self._page_tokens] for position in range(begin, end)]
            starts.append(len(ids))
            contexts.append(end)
            tables.append(torch.tensor(table))
        at = torch.tensor(positions)
        batch = Batch(at, torch.tensor(cells), at % self._page_tokens, starts, contexts, tables)
        return torch.tensor(ids), batch
