"""A request through `headrace_client`, which recovers by itself: whatever it raises is an outcome."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from chaos.catalogue import Entry
from chaos.outcome import Outcome, Request
from headrace_client import Answer, AsyncClient, AsyncStream, HeadraceError

PATIENCE_S: Final = 60.0
_CLIENTS: Final = 3  # each at an ingress of its choice, carrying many calls


class ZmqDoor:
    """Some clients that share the calls.

    Args:
        run: the stack's run directory.
    """

    def __init__(self, run: Path) -> None:
        self._clients = [AsyncClient(run=run, patience=PATIENCE_S) for _ in range(_CLIENTS)]

    async def close(self) -> None:
        """Leave."""
        for client in self._clients:
            await client.close()

    async def make(self, request: Request, entry: Entry, outcome: Outcome) -> None:
        """Make the request; what happens goes into `outcome` as it happens."""
        client = self._clients[request.number % _CLIENTS]
        try:
            if request.stream:
                await self._stream(client, request, entry, outcome)
            elif request.manners == "leave":
                await asyncio.wait_for(self._whole(client, entry, outcome), 0.1 * request.after)
            else:
                await self._whole(client, entry, outcome)
        except TimeoutError:
            outcome.left = True
        except HeadraceError as error:
            outcome.error = f"{type(error).__name__}: {error}"

    async def _whole(self, client: AsyncClient, entry: Entry, outcome: Outcome) -> None:
        asked, parameters = _parts(entry)
        call = client.complete if entry.operation == "completions" else client.chat
        answer: Answer = await call(asked, **parameters)
        outcome.response = answer.id
        outcome.answer.body(answer.raw)
        outcome.complete = True

    async def _stream(self, client: AsyncClient, request: Request, entry: Entry, outcome: Outcome) -> None:
        asked, parameters = _parts(entry)
        call = client.complete if entry.operation == "completions" else client.chat
        stream: AsyncStream = await call(asked, stream=True, **parameters)
        async with stream:
            async for piece in stream:
                outcome.times.append(time.monotonic())
                outcome.response = stream.id
                outcome.answer.piece(
                    piece.index, piece.text, piece.token_ids, piece.logprobs, piece.finish_reason, piece.stop_reason
                )
                if request.manners == "leave" and len(outcome.times) >= request.after:
                    outcome.left = True
                    return
            if (usage := stream.usage) is not None:
                outcome.answer.used(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            outcome.complete = True


def _parts(entry: Entry) -> tuple[Any, dict[str, Any]]:
    """What is asked, and the parameters beside it."""
    parameters = dict(entry.body)
    return parameters.pop("prompt" if entry.operation == "completions" else "messages"), parameters
