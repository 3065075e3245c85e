"""The client for code without asyncio: an `AsyncClient` on a loop of its own, in a thread.

The thread keeps the connection alive while the caller is busy, and lets one client serve many threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from headrace_client._answers import Answer, Model, Piece, Ranked, Usage
from headrace_client._async import AsyncClient, AsyncStream
from headrace_client._calls import Input, Messages, Prompt
from headrace_client._connection import Curve
from headrace_client._errors import ConnectionFailed

T = TypeVar("T")


class Client:
    """See `AsyncClient`; the same arguments and methods, and no `await`. Threads may share one."""

    def __init__(
        self,
        *,
        run: str | Path | None = None,
        addresses: Sequence[str] = (),
        curve: Curve | None = None,
        api_key: str = "",
        timeout: float | None = 600.0,
        patience: float = 20.0,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-client", daemon=True)
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(
                run=run, addresses=addresses, curve=curve, api_key=api_key, timeout=timeout, patience=patience
            )

        self._client = self._wait(make())

    @overload
    def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        stream: Literal[False] = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer: ...
    @overload
    def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        stream: Literal[True],
        traceparent: str = "",
        **parameters: Any,
    ) -> Stream: ...
    def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        stream: bool = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer | Stream:
        """Answer a conversation, or a text that the user says. See `AsyncClient.chat`."""
        if stream:
            return Stream(
                self, self._wait(self._client.chat(messages, model, stream=True, traceparent=traceparent, **parameters))
            )
        answer: Answer = self._wait(self._client.chat(messages, model, traceparent=traceparent, **parameters))
        return answer

    @overload
    def complete(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        stream: Literal[False] = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer: ...
    @overload
    def complete(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        stream: Literal[True],
        traceparent: str = "",
        **parameters: Any,
    ) -> Stream: ...
    def complete(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        stream: bool = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer | Stream:
        """Continue a text or token ids. See `AsyncClient.complete`."""
        if stream:
            return Stream(
                self,
                self._wait(self._client.complete(prompt, model, stream=True, traceparent=traceparent, **parameters)),
            )
        answer: Answer = self._wait(self._client.complete(prompt, model, traceparent=traceparent, **parameters))
        return answer

    @overload
    def respond(
        self, input: Input, model: str | None = None, *, stream: Literal[False] = False, **parameters: Any
    ) -> Answer: ...
    @overload
    def respond(
        self, input: Input, model: str | None = None, *, stream: Literal[True], **parameters: Any
    ) -> Stream: ...
    def respond(
        self, input: Input, model: str | None = None, *, stream: bool = False, **parameters: Any
    ) -> Answer | Stream:
        """Answer as a response, which the server keeps. See `AsyncClient.respond`."""
        if stream:
            return Stream(self, self._wait(self._client.respond(input, model, stream=True, **parameters)))
        answer: Answer = self._wait(self._client.respond(input, model, **parameters))
        return answer

    def response(self, response_id: str) -> Answer:
        """A kept response as it stands; `raw["status"]` says how."""
        return self._wait(self._client.response(response_id))

    def follow(self, response_id: str, after: int = 0) -> Stream:
        """The events of a kept response after event number `after` (counted from 1), to its end."""
        return Stream(self, self._wait(self._client.follow(response_id, after)))

    def cancel_response(self, response_id: str) -> Answer:
        """End a response in the background; what it is then."""
        return self._wait(self._client.cancel_response(response_id))

    def delete_response(self, response_id: str) -> None:
        """Have a response kept no longer."""
        self._wait(self._client.delete_response(response_id))

    @overload
    def message(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 1024,
        stream: Literal[False] = False,
        **parameters: Any,
    ) -> Answer: ...
    @overload
    def message(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 1024,
        stream: Literal[True],
        **parameters: Any,
    ) -> Stream: ...
    def message(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 1024,
        stream: bool = False,
        **parameters: Any,
    ) -> Answer | Stream:
        """Answer a conversation as Anthropic's API does. See `AsyncClient.message`."""
        if stream:
            work = self._client.message(messages, model, max_tokens=max_tokens, stream=True, **parameters)
            return Stream(self, self._wait(work))
        answer: Answer = self._wait(self._client.message(messages, model, max_tokens=max_tokens, **parameters))
        return answer

    def count_tokens(self, messages: Messages, model: str | None = None, **parameters: Any) -> int:
        """How many tokens the prompt of a message has."""
        return self._wait(self._client.count_tokens(messages, model, **parameters))

    def models(self) -> list[Model]:
        """What is served."""
        return self._wait(self._client.models())

    def tokenize(self, text: Messages, model: str | None = None) -> list[int]:
        """Token ids of a text, or of messages as the model sees them."""
        return self._wait(self._client.tokenize(text, model))

    def detokenize(self, tokens: Sequence[int], model: str | None = None) -> str:
        """The text of token ids."""
        return self._wait(self._client.detokenize(tokens, model))

    def embed(
        self, texts: str | Sequence[str], model: str | None = None, *, dimensions: int | None = None
    ) -> list[list[float]]:
        """An embedding of each text. See `AsyncClient.embed`."""
        return self._wait(self._client.embed(texts, model, dimensions=dimensions))

    def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, *, top_n: int | None = None
    ) -> list[Ranked]:
        """Documents by what they have to do with a query, the best first."""
        return self._wait(self._client.rerank(query, documents, model, top_n=top_n))

    def ready(self) -> bool:
        """Whether every model of the server can answer now."""
        return self._wait(self._client.ready())

    def close(self) -> None:
        """Leave. Answers under way end in `ConnectionFailed`."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise ConnectionFailed("the client was closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: the call must not go on behind the caller's back
            raise


class Stream:
    """A streamed answer: iterate it once."""

    def __init__(self, client: Client, stream: AsyncStream) -> None:
        self._client, self._stream = client, stream

    @property
    def id(self) -> str:
        """Of the response."""
        return self._stream.id

    @property
    def usage(self) -> Usage | None:
        """What it cost; known when it is complete."""
        return self._stream.usage

    @property
    def timing(self) -> dict[str, Any] | None:
        """Where its time went, with `include_timing=True`; known when a choice is complete, and of that one."""
        return self._stream.timing

    @property
    def text(self) -> str:
        """Of the first choice, so far."""
        return self._stream.text

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        piece = self._client._wait(self._next())
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """No more is wanted: the work ends."""
        self._client._wait(self._stream.close())

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _next(self) -> Piece | None:
        return await anext(self._stream, None)
