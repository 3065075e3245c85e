"""The one place that a kernel is launched from, so that launches can be looked at instead of carried out.

The ahead-of-time check (`aot.py`) compiles exactly what the wrappers would launch, arguments and alignment included,
and tests play launches back as a CUDA graph would.

Triton compiles a kernel anew for numbers that are 1 or multiples of 16 and for pointers that are aligned. Arguments
that change from step to step, lengths and pieces of packed arrays, are therefore named at each kernel as not to be
specialised on: else the first step of some length would wait for a compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of one kernel.

    Attributes:
        kernel: what `triton.jit` made.
        grid: programs in each of up to three dimensions.
        arguments: by name: tensors, numbers and what is fixed at compilation.
        warps, stages: of each program; how deep its loops are pipelined.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int

    def run(self) -> None:
        """Carry it out."""
        self.kernel[self.grid](**self.arguments, num_warps=self.warps, num_stages=self.stages)


_KEPT: Final[ContextVar[tuple[list[Launch], bool] | None]] = ContextVar("launches", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *, warps: int = 4, stages: int = 3, **arguments: Any) -> None:
    """Launch a kernel. Nothing is launched where a dimension of the grid is 0."""
    if 0 in grid:
        return
    one, kept = Launch(kernel, grid, arguments, warps, stages), _KEPT.get()
    if kept is not None:
        kept[0].append(one)
    if kept is None or kept[1]:
        one.run()


@contextmanager
def launches(*, run: bool) -> Iterator[list[Launch]]:
    """Keep what is launched within; with `run` it is carried out as well.

    Without `run` tensors may be on torch's "meta" device: shapes of a large model cost no memory.
    """
    kept: list[Launch] = []
    token = _KEPT.set((kept, run))
    try:
        yield kept
    finally:
        _KEPT.reset(token)
