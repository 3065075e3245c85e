"""The choices of one call, each a stream of the engine: opened together, collected together, and aborted together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from ingress.api.answer import failure
from ingress.engine import Engine, Finish, Job, Piece, Stream
from ingress.streams import merge


async def open_all(engine: Engine, jobs: Sequence[Job]) -> list[Stream]:
    """Open every job, or none. A job that is searched for has as many streams as answers.

    Raises:
        ApiError: the first refusal; what was opened is aborted.
    """
    if jobs[0].beams is None:
        return await opened_together([partial(engine.open, job) for job in jobs])
    return await search_all(engine, jobs)


async def search_all(engine: Engine, jobs: Sequence[Job], *, promised: bool = False) -> list[Stream]:
    """The same for jobs that are searched for. promised: by an ingress that died.

    Raises:
        ApiError: see `open_all`.
    """
    streams: list[Stream] = []
    try:
        for job in jobs:
            streams += await engine.search(job, promised=promised)
    except BaseException:
        engine.abort({stream.request for stream in streams})
        raise
    return streams


async def opened_together(openings: Sequence[Callable[[], Coroutine[Any, Any, Stream]]]) -> list[Stream]:
    """Open every choice, or none.

    Raises:
        ApiError: the first refusal; what was opened is aborted.
    """
    if len(openings) == 1:
        return [await openings[0]()]
    opening = [asyncio.ensure_future(opens()) for opens in openings]
    try:
        return await asyncio.gather(*opening)
    except BaseException:
        for task in opening:
            task.add_done_callback(_abort_opened)
            task.cancel()
        raise


async def collect(streams: Sequence[Stream]) -> list[Piece]:
    """Every stream to its end, each as one piece.

    Raises:
        ApiError: one of them failed; the others are not waited for.
    """
    return list(await asyncio.gather(*map(_whole, streams)))


def broken(finish: Finish | None) -> bool:
    """Whether an answer ended before its end."""
    return finish is not None and finish.reason in ("error", "abort")


async def _whole(stream: Stream) -> Piece:
    answer = merge([piece async for piece in stream])
    if answer.finish is not None and broken(answer.finish):
        raise failure(answer.finish)
    return answer


def _abort_opened(task: asyncio.Task[Stream]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort("client")
