"""A device that computes beside the host, as late as it may: what is launched happens when it is waited for.

Torch's operators and Triton's launches go to a queue, as to a CUDA stream; results are memory that holds rubbish until
then. So a host that reads too early reads rubbish, and one that waits where it need not is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

from bus.messages.requests import Sampling
from workers.hbm.copier import HostCopier, Pair, Wait
from workers.kernels.triton.launch import Launch, launches
from workers.models.interface import Batch
from workers.sampling.banned import Banned
from workers.sampling.draw import Drawn, Later, RowLogprobs
from workers.sampling.table import SamplingTable
from workers.step.readback import Reading

RUBBISH = 77


class Stream:
    """Work in the order in which it was launched.

    Attributes:
        waits: how often the host waited for a value within a launch.
        reads: copies to the host.
    """

    def __init__(self) -> None:
        self._queue: deque[Callable[[], object]] = deque()
        self._done = self._put = 0
        self.waits = self.reads = 0

    def put(self, work: Callable[[], object]) -> int:
        """Launch. Returns how much has to be done until it is."""
        self._queue.append(work)
        self._put += 1
        return self._put

    def advance(self, pieces: int) -> None:
        """The device gets on."""
        with _disable_current_modes(), torch.inference_mode():
            for _ in range(min(pieces, len(self._queue))):
                self._queue.popleft()()
                self._done += 1

    def until(self, mark: int) -> None:
        self.advance(max(0, mark - self._done))

    def synchronize(self) -> None:
        self.advance(len(self._queue))

    def is_done(self, mark: int) -> bool:
        return self._done >= mark

    @property
    def mark(self) -> int:
        """How much has been launched."""
        return self._put

    @contextmanager
    def current(self) -> Iterator[None]:
        """Everything within is launched on this stream."""
        with launches(run=False) as launched, _Launching(self, launched) as mode:
            yield
            mode.take_launches()


class _Launching(TorchDispatchMode):
    def __init__(self, stream: Stream, launched: list[Launch]) -> None:
        super().__init__()
        self._stream, self._launched = stream, launched

    def take_launches(self) -> None:
        for each in self._launched:
            self._stream.put(each.run)
        self._launched.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        self.take_launches()
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        if not tensors:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._stream.put(lambda: func(*args, **kwargs))
            return kwargs.get("out", args[0])
        metas = {id(each): torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device="meta")
                 for each in tensors}  # fmt: skip
        try:
            found = func(*_on_meta(args, metas), **_on_meta(kwargs, metas))
        except (RuntimeError, NotImplementedError):  # its result's shape hangs on values
            self._stream.waits += 1
            self._stream.synchronize()
            return func(*args, **kwargs)
        if not isinstance(found, Tensor):
            parts = list(found) if isinstance(found, tuple | list) else []
            if not parts or any(_lies_in(each, metas) for each in parts):
                return func(*args, **kwargs)
            outs = [_rubbish(each) for each in parts]
            self._stream.put(lambda: [out.copy_(a) for out, a in zip(outs, func(*args, **kwargs), strict=True)])
            return type(found)(outs)
        if _lies_in(found, metas):
            return func(*args, **kwargs)  # a view is one at once
        out = _rubbish(found)
        self._stream.put(lambda: out.copy_(func(*args, **kwargs)))
        return out


def _on_meta(values: Any, metas: dict[int, Tensor]) -> Any:
    values = tree_map_only(Tensor, lambda each: metas[id(each)], values)
    return tree_map_only(torch.device, lambda _: torch.device("meta"), values)


def _lies_in(out: Tensor, metas: dict[int, Tensor]) -> bool:
    place = out.untyped_storage()._cdata
    return any(each.untyped_storage()._cdata == place for each in metas.values())


def _rubbish(like: Tensor) -> Tensor:
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    return made.fill_(1 if like.dtype == torch.bool else RUBBISH)


class StreamReader:
    """Implements `workers.step.readback.Reader`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, values: Tensor) -> Reading:
        host = torch.full_like(values, RUBBISH)  # the stream's work too
        host.copy_(values)
        self._stream.reads += 1
        return _Reading(self._stream, host)


class _Reading:
    def __init__(self, stream: Stream, host: Tensor) -> None:
        self._stream, self._host, self._mark = stream, host, stream.mark

    def ready(self) -> bool:
        return self._stream.is_done(self._mark)

    def wait(self) -> None:
        self._stream.until(self._mark)

    def values(self) -> npt.NDArray[np.int32]:
        self.wait()
        return self._host.numpy()


class StreamCopier(HostCopier):
    """Copies in are the stream's work; copies out happen when they are waited for, on a stream of their own that
    begins when the steps before them are through."""

    def __init__(self, stream: Stream, frames: Tensor, cells: Tensor) -> None:
        super().__init__(frames, cells)
        self._stream = stream

    def load(self, pairs: Sequence[Pair]) -> None:
        self._stream.put(lambda: HostCopier.load(self, pairs))

    def store(self, pairs: Sequence[Pair]) -> Wait:
        mark = self._stream.mark

        def wait() -> None:
            self._stream.until(mark)
            HostCopier.store(self, pairs)

        return wait


class OnStream:
    """A model whose steps are one kernel each. Implements `workers.models.interface.Model`."""

    def __init__(self, stream: Stream, model: Any, hidden: int) -> None:
        self._stream, self._model, self._hidden = stream, model, hidden
        self.architecture, self.device, self.dtype = model.architecture, model.device, model.dtype

    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        out = _rubbish(torch.empty(len(ids), self._hidden, device="meta"))

        def work() -> None:
            assert int(ids.min()) >= 0, "a lookup out of bounds, which ends a GPU's context"
            out.copy_(self._model.forward(ids, batch, pages))

        self._stream.put(work)
        return out

    def logits(self, hidden: Tensor, adapters: object = ()) -> Tensor:
        del adapters
        out = _rubbish(torch.empty(len(hidden), self.architecture.vocabulary, device="meta"))
        self._stream.put(lambda: out.copy_(self._model.logits(hidden)))
        return out

    def spent_ns(self) -> dict[str, int]:
        return {}


class TableOnStream:
    """A sampler whose calls are one kernel each. Implements `workers.sampling.table.Sampler`."""

    def __init__(self, stream: Stream, table: SamplingTable) -> None:
        self._stream, self._table = stream, table

    def open(self, slot: int, sampling: Sampling, prompt: Tensor, output: Tensor) -> None:
        self._stream.put(lambda: self._table.open(slot, sampling, prompt, output))

    def close(self, slot: int) -> None:
        self._stream.put(lambda: self._table.close(slot))

    def append(self, slots: npt.NDArray[np.int64], tokens: Tensor) -> None:
        self._stream.put(lambda: self._table.append(slots, tokens))

    def draw(
        self,
        logits: Tensor,
        slots: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        banned: Mapping[int, Banned],
        forced: Mapping[int, int],
    ) -> Drawn:
        out = _rubbish(torch.empty(len(slots), dtype=torch.int64, device="meta"))
        logprobs: list[RowLogprobs] = []

        def work() -> None:
            drawn = self._table.draw(logits, slots, positions, banned, forced)
            out.copy_(drawn.tokens)
            logprobs.append(drawn.logprobs)

        self._stream.put(work)
        none = torch.zeros(len(slots), 1, dtype=torch.int32)
        return Drawn(out, (), Later(none, lambda _: logprobs[0]))
