"""Beam search as a state machine: what the running beams could go on with comes in, the beams to extend come out. Pure.

The rules are those of `transformers.generate(num_beams=…)` (version 5): candidates are ranked by the sum of their log
probabilities; of the best (1 + stop ids) x width, those that end and are among the best `width` are finished; the best
that do not end run on. A finished one's score is its sum over its length to the power of `length_penalty`
(Wu et al. 2016, without coverage).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from bus.messages.requests import TokenLogprobs

EarlyStopping = bool | Literal["never"]


class Beams(NamedTuple):
    """A search as it is asked for.

    Attributes:
        width: beams that run at once.
        returned: how many answers are wanted, at most `width`.
        length_penalty: above 0 favours long answers, below 0 short ones.
        early_stopping: True ends at once when `width` are finished; False when no running beam, at its present length,
            would be better than the worst of them; "never" when none could be at any length.
    """

    width: int
    returned: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False


class Candidate(NamedTuple):
    """A token that a beam could go on with; `value` is its log probability as it travels, for the answer's account."""

    token: int
    logprob: float
    value: TokenLogprobs


class Beam(NamedTuple):
    """A beginning of an answer, or one.

    Attributes:
        score: sum of its log probabilities; of a finished one, with its length taken into account.
        ended: "stop" or "length" where it is finished.
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    values: tuple[TokenLogprobs, ...] = ()
    ended: Literal["", "stop", "length"] = ""


class BeamSearch:
    """One search.

    Args:
        asked: how.
        stops: ids that end an answer.
        max_tokens: longest answer, at least 1.

    Attributes:
        running: the beams to extend, best first; empty when it is over.
        finished: best first, at most `width`.
        keep: candidates of each beam that must be given.
    """

    def __init__(self, asked: Beams, stops: Iterable[int], max_tokens: int) -> None:
        self._asked, self._stops, self._max_tokens = asked, frozenset(stops), max_tokens
        self.keep = max(2, 1 + len(self._stops)) * asked.width
        self.running: list[Beam] = [Beam()]
        self.finished: list[Beam] = []
        self._length = 0

    @property
    def over(self) -> bool:
        """Whether nothing is left to extend."""
        return not self.running

    def advance(self, candidates: Sequence[Sequence[Candidate]]) -> None:
        """One token further.

        Args:
            candidates: of each running beam, best first; `keep` of them, or all there are.
        """
        width = self._asked.width
        self._length += 1
        at_end = self._length == self._max_tokens
        ranked = [
            (beam.score + candidate.logprob, beam, candidate)
            for beam, nexts in zip(self.running, candidates, strict=True)
            for candidate in nexts[: self.keep]
        ]
        ranked.sort(key=lambda each: -each[0])  # stable: of equals the better beam's, then the better token
        going: list[Beam] = []
        done: list[Beam] = []
        for rank, (score, beam, candidate) in enumerate(ranked[: self.keep]):
            stops = candidate.token in self._stops
            if stops or at_end:
                if rank < width:
                    ended: Literal["stop", "length"] = "stop" if stops else "length"
                    done.append(_extended(beam, candidate, self._final(score), ended))
            elif len(going) < width:
                going.append(_extended(beam, candidate, score))
        self._finish(done)
        self.running = going if going and self._may_improve(going[0].score) else []

    def end(self) -> None:
        """No token more may be drawn: the running beams end as they are."""
        self._finish([beam._replace(score=self._final(beam.score), ended="length") for beam in self.running])
        self.running = []

    def best(self) -> list[Beam]:
        """The answers that are wanted, best first; one is empty where there are not so many."""
        found = self.finished[: self._asked.returned]
        return found + [Beam(ended="length")] * (self._asked.returned - len(found))

    @property
    def _full(self) -> bool:
        return len(self.finished) == self._asked.width

    def _final(self, score: float) -> float:
        return score / math.pow(max(1, self._length), self._asked.length_penalty)

    def _finish(self, beams: list[Beam]) -> None:
        both = [*self.finished, *beams]
        both.sort(key=lambda beam: -beam.score)
        self.finished = both[: self._asked.width]

    def _may_improve(self, best: float) -> bool:
        """Whether it is worth going on with beams of which the best has this score."""
        if not self._full:
            return True
        if self._asked.early_stopping is True:
            return False
        longest = self._asked.early_stopping == "never" and self._asked.length_penalty > 0
        length = self._max_tokens if longest else self._length
        return best / math.pow(length, self._asked.length_penalty) > self.finished[-1].score


def _extended(beam: Beam, candidate: Candidate, score: float, ended: Literal["", "stop", "length"] = "") -> Beam:
    return Beam((*beam.tokens, candidate.token), score, (*beam.values, candidate.value), ended)
