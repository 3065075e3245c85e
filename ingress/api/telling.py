"""One answer that is kept: pieces of its choices in, records of what its listeners are told out. Numbers and files are
not here.

An answer that another ingress has begun is told on: `retell` brings everything to where its journal ends. One that does
not stream tells nothing before its end, and is asked for again from its beginning: the scheduler still has its tokens,
or draws the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from ingress.api.answer import Renderer, envelope, failure
from ingress.api.choices import broken
from ingress.api.jobs import Plan
from ingress.engine import Finish, Job, Piece, Stream, TokenText
from ingress.records import Adopted, Drawn, Opening, Record, Said
from ingress.samples.choosing import Choosing
from ingress.streams import parts_of

GoOn = Callable[[Job, int, int, Sequence[Drawn]], tuple[Stream, list[Piece]]]
Say = Callable[[Drawn | Said], None]


class Telling:
    """The rest of an answer, from its beginning or from somewhere in the middle.

    Args:
        streams: the choices that have not ended.
        finishes: how the others did.
        begun: whether anything was told.
        samples: choices of a prompt. The first of them has it scored, where it is; the others begin after it.
        told: choices of which something was told.
    """

    def __init__(
        self,
        renderer: Renderer,
        streams: Mapping[int, Stream],
        finishes: Mapping[int, Finish] | None = None,
        *,
        begun: bool = False,
        samples: int = 1,
        told: Iterable[int] = (),
    ) -> None:
        self._renderer, self._streams, self._begun = renderer, streams, begun
        self._finishes = dict(finishes or {})
        self._samples, self._told = samples, set(told)
        self._held: list[tuple[int, Piece]] = []  # of choices that wait for the first of their prompt

    async def tell(self, say: Say) -> None:
        """Say what there is to tell, as it comes; the last record says so. An error stands in place of the rest.

        Raises:
            Exception: what `say` or the renderer raises.
        """
        if not self._begun and (events := self._renderer.first()):
            say(Said(tuple(events)))
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(index: int, piece: Piece) -> None:
            if over.done():
                return
            try:
                if self._hear(index, piece, say):
                    over.set_result(None)
            except Exception as error:
                over.set_exception(error)

        for index, stream in self._streams.items():
            stream.listen(partial(hear, index))
        if self._streams:
            await over
        else:
            self._last(say)

    def _hear(self, index: int, piece: Piece, say: Say) -> bool:
        """Say one piece, or hold it back until the log probabilities of its prompt are there; whether that was all."""
        if self._waits(index):
            self._held.append((index, piece))
            return False
        if self._piece(index, piece, say):
            return True
        due = [each for each in self._held if not self._waits(each[0])] if self._held else []
        if due:
            self._held = [each for each in self._held if self._waits(each[0])]
        return any(self._piece(*each, say) for each in due)

    def _waits(self, index: int) -> bool:
        first = self._first(index)
        return (
            index != first
            and first in self._streams
            and first not in self._told
            and bool(self._streams[first].prompt_logprobs)
            and not self._streams[index].prompt_logprobs
        )

    def _first(self, index: int) -> int:
        return index - index % self._samples

    def _prompt(self, index: int) -> Sequence[TokenText | None]:
        """Log probabilities of its prompt: its own, or those that the first choice of it has."""
        own = self._streams[index].prompt_logprobs
        first = self._streams.get(self._first(index))
        return own or (first.prompt_logprobs if first is not None else ())

    def _piece(self, index: int, piece: Piece, say: Say) -> bool:
        """Say one piece; whether that was all."""
        if piece.finish is not None:
            if broken(piece.finish):
                if parts_of(piece):  # what came with the error
                    self._piece(index, replace(piece, finish=None), say)
                say(Said((envelope(failure(piece.finish)),), last=True))
                return True
            self._finishes[index] = piece.finish
        self._told.add(index)
        events = self._renderer.piece(index, piece, self._prompt(index))
        said = () if piece.tokens else parts_of(piece)
        say(Drawn(index, piece.tokens, tuple(events), piece.cached_tokens, piece.raw, piece.finish, piece.timing, said))
        if piece.finish is None or not self._finishes.keys() >= self._streams.keys():
            return False
        self._last(say)
        return True

    def _last(self, say: Say) -> None:
        say(Said(tuple(self._renderer.last([finish for _, finish in sorted(self._finishes.items())])), last=True))


class Whole:
    """An answer in one piece, at its end.

    Args:
        choosing: the choices are these of the streams.
    """

    def __init__(self, renderer: Renderer, streams: Sequence[Stream], choosing: Choosing) -> None:
        self._renderer, self._streams, self._choosing = renderer, streams, choosing

    async def tell(self, say: Say) -> None:
        """Say one record.

        Raises:
            ApiError: it failed.
        """
        answers = await self._choosing.answers(self._streams)
        prompts = [stream.prompt_logprobs for stream in self._streams[:: self._choosing.samples]]
        say(Said((self._renderer.whole(answers, prompts),), last=True))


def retell(
    opening: Opening,
    records: Sequence[Record],
    plan: Plan,
    renderer: Renderer,
    go_on: GoOn,
    choosing: Choosing | None = None,
) -> Telling | Whole:
    """The same answer after what was told of it: choices are taken up with the tokens that they had, and the renderer
    has seen what it has seen. What it writes this time is what the records hold, and is thrown away.

    Args:
        go_on: the engine's.
        choosing: how its answers come of its streams; None where all are answers.

    Raises:
        ApiError, ValueError: the engine's.
    """
    adopted = 1 + sum(isinstance(record, Adopted) for record in records)
    if not plan.streams:
        again = [go_on(job, opening.requests[index], adopted, ())[0] for index, job in enumerate(plan.jobs)]
        return Whole(renderer, again, choosing or Choosing(plan.n, plan.samples))
    begun = any(not isinstance(record, Adopted) for record in records)
    if begun:
        renderer.first()
    streams: dict[int, Stream] = {}
    finishes: dict[int, Finish] = {}
    begun_choices = {record.choice for record in records if isinstance(record, Drawn)}
    for index, job in enumerate(plan.jobs):
        first = index - index % plan.samples
        if first in begun_choices and index not in begun_choices:  # what the first knew of the prompt died with it
            job = replace(job, prompt_logprobs=plan.jobs[first].prompt_logprobs)
        drawn = [record for record in records if isinstance(record, Drawn) and record.choice == index]
        if drawn and (finish := drawn[-1].finish) is not None:
            finishes[index] = finish
            if job.pool is not None:
                job.pool.take(sum(len(record.tokens) for record in drawn))
            continue
        streams[index], told = go_on(job, opening.requests[index], adopted, drawn)
        for piece in told:
            renderer.piece(index, piece, ())
    return Telling(renderer, streams, finishes, begun=begun, samples=plan.samples, told=begun_choices)
