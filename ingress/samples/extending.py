"""One beam by one token. To a conversation it is what a `Generation` is: it has tokens already, and ends with the next.

It is submitted as an answer that has come as far as the beam, so penalties, `min_tokens` and a grammar know what is the
prompt's and what is not, and the scheduler takes it as it takes one that it has promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from bus.messages.requests import Finished, TokenLogprobs
from bus.packed import unpack_f32, unpack_u32
from ingress.generation import Taken
from ingress.samples.beams import Candidate
from ingress.streams import Finish, Piece, Usage


class Extension:
    """The state of one.

    Attributes:
        emitted: the beam's tokens, and in the end one more, which means nothing: what counts are the alternatives.
        candidates: what the beam could go on with, best first; None until they are there.
        spent_ns, prefill_ns: computing that it has cost.
    """

    timing: Final = None

    def __init__(self, prompt_tokens: int, tokens: Sequence[int]) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.emitted = list(tokens)
        self.candidates: list[Candidate] | None = None
        self.spent_ns = self.prefill_ns = 0

    def take(
        self,
        start: int,
        tokens: Sequence[int],
        logprobs: Sequence[TokenLogprobs | None] = (),
        finished: Finished | None = None,
    ) -> Taken:
        """A delivery; see `Generation.take`."""
        known = len(self.emitted)
        if start > known:
            return Taken(None, "gap")
        if self.candidates is None and tokens[known - start :] and logprobs:
            value = logprobs[known - start]
            self.emitted.append(tokens[known - start])
            self.candidates = candidates(value) if value is not None else []
        if finished is None:
            return Taken(None, "going")
        self.spent_ns, self.prefill_ns = finished.spent_ns, finished.prefill_ns
        self.cached_tokens = self.cached_tokens or finished.cached_tokens
        if finished.reason in ("stop", "length") and self.candidates is None:
            return Taken(None, "gap")
        return Taken(Piece(finish=Finish(finished.reason, self._usage, None, finished.error)), "finished")

    def end(self, finish_reason: Literal["abort", "error"], error: str) -> Piece:
        """End it from this side."""
        return Piece(finish=Finish(finish_reason, self._usage, None, error))

    @property
    def _usage(self) -> Usage:
        return Usage(self.prompt_tokens, 0)


def candidates(value: TokenLogprobs) -> list[Candidate]:
    """The alternatives at one position, best first, each as if it had been drawn."""
    tokens, logprobs = unpack_u32(value.top_ids).tolist(), unpack_f32(value.top).tolist()
    return [
        Candidate(token, logprob, TokenLogprobs(logprob, value.top_ids, value.top))
        for token, logprob in zip(tokens, logprobs, strict=True)
    ]
