"""One vector that an encoder was asked for. To a conversation it is what a `Generation` is, but that it only ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from bus.messages.requests import Finished, TokenLogprobs
from ingress.generation import Taken
from ingress.streams import Finish, Piece, Usage

Vector = npt.NDArray[np.float32]


class Awaited:
    """The state of one.

    Attributes:
        vector: float32 [dimensions]; None until it is there.
        spent_ns: computing that it has cost.
    """

    timing: Final = None
    cached_tokens = 0

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.emitted: list[int] = []
        self.vector: Vector | None = None
        self.spent_ns = 0

    def complete(self, vector: Vector, finished: Finished) -> Piece:
        """It is there."""
        self.vector, self.spent_ns = vector, finished.spent_ns
        return Piece(finish=Finish("stop", self._usage))

    def take(
        self,
        start: int,  # noqa: ARG002 (as of `Generation`)
        tokens: Sequence[int],  # noqa: ARG002
        logprobs: Sequence[TokenLogprobs | None] = (),  # noqa: ARG002
        finished: Finished | None = None,
    ) -> Taken:
        """It ends without one; nothing else is told of it in this way."""
        if finished is None:
            return Taken(None, "going")
        self.spent_ns = finished.spent_ns
        reason = finished.reason if finished.reason in ("abort", "error") else "error"
        return Taken(Piece(finish=Finish(reason, self._usage, None, finished.error)), "finished")

    def end(self, finish_reason: Literal["abort", "error"], error: str) -> Piece:
        """End it from this side."""
        return Piece(finish=Finish(finish_reason, self._usage, None, error))

    @property
    def _usage(self) -> Usage:
        return Usage(self.prompt_tokens, 0)
