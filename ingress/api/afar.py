"""An answer from elsewhere whose ingress has died: what another one makes of its journal.

The upstream's connection is gone, and no upstream can be asked for the rest of an answer. So: where nobody has seen any
of it, it is asked for again. Where a model of this host is the same (`continue_with`), that goes on after the text that
was told. Else the client is told that the rest is lost, after all that there was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from ingress.api.answer import Renderer
from ingress.api.choices import opened_together
from ingress.api.jobs import Caller, Plan
from ingress.api.schema_chat import ChatRequest
from ingress.api.telling import Telling, Whole
from ingress.engine import Job
from ingress.errors import ApiError
from ingress.records import Adopted, Drawn, Opening, Record
from ingress.samples.choosing import Choosing
from ingress.streams import Finish, Part, Piece, Stream, joined
from ingress.upstreams.upstreams import Elsewhere, Upstreams

Wrap = Callable[[Stream], Stream]


async def retell(
    opening: Opening,
    records: Sequence[Record],
    chat: ChatRequest,
    model: Elsewhere,
    upstreams: Upstreams,
    caller: Caller,
    render: Callable[[Plan], Renderer],
    choose: Callable[[Plan], Choosing],
    guard: Wrap | None,
) -> Telling | Whole:
    """The rest of an answer.

    Args:
        choose: how its answers come of its streams.
        guard: puts a stream behind the call's guards; None where it has none. What those have held back of the text
            is not in the journal, so nobody can go on behind them.

    Raises:
        ApiError: it is lost, or cannot be asked for again.
    """
    plan = await upstreams.plan(chat, model, caller)
    jobs = [replace(job, request=request) for job, request in zip(plan.jobs, opening.requests, strict=True)]
    plan = plan._replace(jobs=jobs)
    drawn = [record for record in records if isinstance(record, Drawn)]
    told = {index: _told(drawn, index) for index in range(len(jobs))}
    renderer = render(plan)
    begun = any(not isinstance(record, Adopted) for record in records)
    if not any(parts for parts, _ in told.values()):
        for job in jobs:
            upstreams.adopt(job, model)
        again = [partial(upstreams.answer, job, chat, model) for job in jobs]
        streams = await opened_together(again)
        streams = [guard(stream) for stream in streams] if guard is not None else streams
        if not plan.streams:
            return Whole(renderer, streams, choose(plan))
        if begun:
            renderer.first()
        return Telling(renderer, dict(enumerate(streams)), begun=begun)
    renderer.first()
    finishes: dict[int, Finish] = {}
    going: dict[int, Stream] = {}
    for index, (parts, finish) in told.items():
        if finish is not None:
            finishes[index] = finish
            continue
        going[index] = await _go_on(jobs[index], chat, model, upstreams, parts, guarded=guard is not None)
        renderer.piece(index, _piece(parts), ())
    return Telling(renderer, going, finishes, begun=True)


async def _go_on(
    job: Job, chat: ChatRequest, model: Elsewhere, upstreams: Upstreams, parts: Sequence[Part], *, guarded: bool
) -> Stream:
    text = "".join(part.text for part in parts)
    upstreams.lost(job, chat, model, text)
    if guarded or not model.config.continue_with or any(part.kind != "text" for part in parts):
        raise ApiError(
            502, "server_error", "The process that heard this answer from its server died: the rest is lost.",
            code="upstream_lost",
        )  # fmt: skip
    return await upstreams.go_on_after(job, chat, model, text)


def _told(drawn: Sequence[Drawn], index: int) -> tuple[Sequence[Part], Finish | None]:
    mine = [record for record in drawn if record.choice == index]
    parts = joined(part for record in mine for part in record.parts)
    return parts, mine[-1].finish if mine else None


def _piece(parts: Sequence[Part]) -> Piece:
    return Piece("".join(part.text for part in parts))
