"""The client on asyncio: finds a server, multiplexes calls, and carries them over to another server."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, overload

import msgspec
import zmq

from bus.messages.clients import Call, CallFailed, Cancel, Chunk, Operation, Reply, Resume, StreamEnd
from bus.names import CLIENTS_DOOR, ipc, run_directory
from headrace_client import _answers, _calls, _surfaces
from headrace_client._answers import Answer, Model, Piece, Progress, Ranked, Usage
from headrace_client._calls import Input, Messages, Prompt
from headrace_client._connection import Connection, Curve
from headrace_client._errors import CallTimeout, ConnectionFailed, HeadraceError, from_failure
from headrace_client._session import Refused, Session

_WELCOME_S: Final = 2.0  # for one server to welcome us, before the next is tried
_PAUSE_S: Final = 0.1


class _Lost(NamedTuple):
    """In place of a message: the connection is gone."""

    reason: str


_Told = Chunk | StreamEnd | Reply | CallFailed | Refused | _Lost


class AsyncClient:
    """Talks to the ingresses of a host, over their sockets in the run directory, or of another host, over tcp.

    Args:
        run: the run directory; default `$HEADRACE_RUN` and where headrace looks next.
        addresses: `tcp://…` addresses instead; they need `curve`.
        curve: keys for tcp, a `bus.curve.CurveClient`.
        api_key: sent as `Bearer`.
        timeout: seconds without any word on a call; None for ever.
        patience: seconds to look for a server, at first and when one was lost.
    """

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
        self._run = Path(run) if run is not None else None
        self._addresses, self._curve = tuple(addresses), curve
        self._authorization = f"Bearer {api_key}" if api_key else ""
        self._timeout, self._patience = timeout, patience
        self._name = f"client@{os.getpid()}-{secrets.token_hex(6)}"
        self._epoch = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._last_address = ""
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Queue[_Told]] = {}
        self._sent: dict[int, int] = {}  # message number -> call, of this connection
        self._closed = False

    # --- what one does with it -------------------------------------------------------------------------------------

    @overload
    async def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        stream: Literal[False] = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer: ...
    @overload
    async def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        stream: Literal[True],
        traceparent: str = "",
        **parameters: Any,
    ) -> AsyncStream: ...
    async def chat(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        stream: bool = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer | AsyncStream:
        """Answer a conversation, or a text that the user says.

        Args:
            model: None takes the only one that is served.
            stream: return an iterator of pieces instead of the whole.
            traceparent: of the trace that the caller is in (W3C Trace Context): the request becomes a part of it.
            parameters: as in OpenAI's API: temperature, max_tokens, stop, …

        Raises:
            HeadraceError: see the package's docstring.
        """
        body = _calls.chat(messages, model or await self._only_model(), stream, parameters)
        return await self._generate("chat.completions", body, stream, traceparent)

    @overload
    async def complete(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        stream: Literal[False] = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer: ...
    @overload
    async def complete(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        stream: Literal[True],
        traceparent: str = "",
        **parameters: Any,
    ) -> AsyncStream: ...
    async def complete(
        self,
        prompt: Prompt,
        model: str | None = None,
        *,
        stream: bool = False,
        traceparent: str = "",
        **parameters: Any,
    ) -> Answer | AsyncStream:
        """Continue a text or token ids. Arguments and errors as in `chat`."""
        body = _calls.completion(prompt, model or await self._only_model(), stream, parameters)
        return await self._generate("completions", body, stream, traceparent)

    @overload
    async def respond(
        self, input: Input, model: str | None = None, *, stream: Literal[False] = False, **parameters: Any
    ) -> Answer: ...
    @overload
    async def respond(
        self, input: Input, model: str | None = None, *, stream: Literal[True], **parameters: Any
    ) -> AsyncStream: ...
    async def respond(
        self, input: Input, model: str | None = None, *, stream: bool = False, **parameters: Any
    ) -> Answer | AsyncStream:
        """Answer as a response, which the server keeps (`store=False` does not). With `background=True` the answer is
        the queued response, to be asked for with `response` or followed.

        Args:
            input: what the user says, or items.
            model, stream: as in `chat`.
            parameters: as in OpenAI's Responses: instructions, previous_response_id, max_output_tokens, …

        Raises:
            HeadraceError: see the package's docstring.
        """
        body = _calls.response(input, model or await self._only_model(), stream, parameters)
        return await self._generate("responses", body, stream, "")

    async def response(self, response_id: str) -> Answer:
        """A kept response as it stands; `raw["status"]` says how."""
        return _surfaces.answer("responses", await self._reply("responses.retrieve", _calls.kept(response_id)))

    async def follow(self, response_id: str, after: int = 0) -> AsyncStream:
        """The events of a kept response after event number `after` (counted from 1), to its end."""
        progress = Progress(_surfaces.chunk("responses"), response=response_id, event=after)
        pieces = AsyncStream(progress, self._pieces("responses", b"", progress, ""))
        await pieces.begin()
        return pieces

    async def cancel_response(self, response_id: str) -> Answer:
        """End a response in the background; what it is then."""
        return _surfaces.answer("responses", await self._reply("responses.cancel", _calls.kept(response_id)))

    async def delete_response(self, response_id: str) -> None:
        """Have a response kept no longer."""
        await self._reply("responses.delete", _calls.kept(response_id))

    @overload
    async def message(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 1024,
        stream: Literal[False] = False,
        **parameters: Any,
    ) -> Answer: ...
    @overload
    async def message(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 1024,
        stream: Literal[True],
        **parameters: Any,
    ) -> AsyncStream: ...
    async def message(
        self,
        messages: Messages,
        model: str | None = None,
        *,
        max_tokens: int = 1024,
        stream: bool = False,
        **parameters: Any,
    ) -> Answer | AsyncStream:
        """Answer a conversation as Anthropic's API does; arguments and errors as in `chat`, parameters as there."""
        body = _calls.message(messages, model or await self._only_model(), max_tokens, stream, parameters)
        return await self._generate("messages", body, stream, "")

    async def count_tokens(self, messages: Messages, model: str | None = None, **parameters: Any) -> int:
        """How many tokens the prompt of a message has."""
        body = _calls.count(messages, model or await self._only_model(), parameters)
        return int(msgspec.json.decode(await self._reply("messages.count_tokens", body))["input_tokens"])

    async def models(self) -> list[Model]:
        """What is served."""
        return _answers.models(await self._reply("models", b"{}"))

    async def tokenize(self, text: Messages, model: str | None = None) -> list[int]:
        """Token ids of a text, or of messages as the model sees them."""
        body = await self._reply("tokenize", _calls.tokenize(text, model or await self._only_model()))
        ids: list[int] = msgspec.json.decode(body)["tokens"]
        return ids

    async def detokenize(self, tokens: Sequence[int], model: str | None = None) -> str:
        """The text of token ids."""
        body = await self._reply("detokenize", _calls.detokenize(tokens, model or await self._only_model()))
        return str(msgspec.json.decode(body)["prompt"])

    async def embed(
        self, texts: str | Sequence[str], model: str | None = None, *, dimensions: int | None = None
    ) -> list[list[float]]:
        """An embedding of each text.

        Args:
            dimensions: to which they are cut, where the model can be.
        """
        body = _calls.embedding(texts, model or await self._only_model(), dimensions)
        return _answers.embeddings(await self._reply("embeddings", body))

    async def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, *, top_n: int | None = None
    ) -> list[Ranked]:
        """Documents by what they have to do with a query, the best first."""
        body = _calls.rerank(query, documents, model or await self._only_model(), top_n)
        return _answers.rankings(await self._reply("rerank", body))

    async def ready(self) -> bool:
        """Whether every model of the server can answer now."""
        try:
            await self._reply("ready", b"{}")
        except HeadraceError as error:
            if getattr(error, "status", 0) == 503:
                return False
            raise
        return True

    async def close(self) -> None:
        """Leave. Answers under way end in `ConnectionFailed`."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for told in self._calls.values():
            told.put_nowait(_Lost("the client was closed"))
        self._context.term()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- calls -----------------------------------------------------------------------------------------------------

    async def _only_model(self) -> str:
        served = await self.models()
        if len(served) != 1:
            names = ", ".join(model.id for model in served)
            raise HeadraceError(f"say which model: {names or 'none'} served")
        return served[0].id

    async def _generate(
        self, operation: Operation, body: bytes, stream: bool, traceparent: str
    ) -> Answer | AsyncStream:
        if not stream:
            return _surfaces.answer(operation, await self._reply(operation, body, traceparent))
        progress = Progress(_surfaces.chunk(operation))
        pieces = AsyncStream(progress, self._pieces(operation, body, progress, traceparent))
        await pieces.begin()
        return pieces

    async def _reply(self, operation: Operation, body: bytes, traceparent: str = "") -> bytes:
        """The reply of a call that does not stream. A server that is lost is asked again, or another."""
        async with aclosing(self._words(operation, body, None, traceparent)) as words:
            async for told in words:
                if isinstance(told, Reply):
                    return told.body
        raise ConnectionFailed("the server answered with a stream that nobody asked for")

    async def _pieces(
        self, operation: Operation, body: bytes, progress: Progress, traceparent: str
    ) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._words(operation, body, progress, traceparent)) as words:
            async for told in words:
                if isinstance(told, Chunk):
                    for piece in progress.chunk(told.event, told.body):
                        yield piece

    async def _words(
        self, operation: Operation, body: bytes, progress: Progress | None, traceparent: str
    ) -> AsyncGenerator[Chunk | Reply, None]:
        """What servers say to one call, until it is complete, over as many connections as it takes."""
        lost_at: float | None = None
        while True:
            message: Call | Resume = Call(0, operation, body, self._authorization, traceparent)
            if progress is not None and progress.id:
                message = Resume(0, progress.id, progress.event, self._authorization)
            async with aclosing(self._one_connection(message)) as words:
                async for told in words:
                    match told:
                        case Chunk() | Reply():
                            lost_at = None
                            yield told
                            if isinstance(told, Reply):
                                return
                        case StreamEnd():
                            return
                        case _Lost(reason):
                            if self._closed:
                                raise ConnectionFailed(reason)
                            lost_at = lost_at or time.monotonic()
                        case CallFailed() if isinstance(message, Resume) and told.status in (404, 410, 502):
                            if progress is None or not body:
                                raise from_failure(told)
                            progress.begin_again()  # nobody has it: make it again, from the same seed
                        case CallFailed() if lost_at is not None and told.status in (429, 503):
                            if time.monotonic() - lost_at > self._patience:
                                raise from_failure(told)
                            await asyncio.sleep(_PAUSE_S)  # a host that restarts: the next one may be there sooner
                        case CallFailed():
                            raise from_failure(told)
                        case Refused(_, reason):
                            raise ConnectionFailed(f"the server refused the call: {reason}")

    async def _one_connection(self, message: Call | Resume) -> AsyncGenerator[_Told, None]:
        """What one server says to one call; the last is an end, a failure, or `_Lost`."""
        connection = await self._connected()
        number = next(self._numbers)
        told: asyncio.Queue[_Told] = asyncio.Queue()
        self._calls[number] = told
        complete = False
        sequence = connection.send(msgspec.structs.replace(message, call=number))
        self._sent[sequence] = number
        try:
            while not complete:
                try:
                    word = await asyncio.wait_for(told.get(), self._timeout)
                except TimeoutError:
                    raise CallTimeout(f"nothing was heard of a call for {self._timeout:.0f} s") from None
                complete = not isinstance(word, Chunk)
                yield word
        finally:
            del self._calls[number]
            self._sent.pop(sequence, None)
            if not complete and self._connection is connection:
                connection.send(Cancel(number))

    def _hear(self, message: Any) -> None:
        number = self._sent.get(message.seq, 0) if isinstance(message, Refused) else getattr(message, "call", 0)
        if (told := self._calls.get(number)) is not None:
            told.put_nowait(message)

    # --- servers ---------------------------------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is not None:
                return self._connection
            until = time.monotonic() + self._patience
            problem = "no ingress was found"
            while not self._closed:
                for address in self._candidates():
                    try:
                        return await self._connect(address)
                    except ConnectionFailed as failed:
                        problem = str(failed)
                if time.monotonic() > until:
                    where = ", ".join(self._addresses) or str(self._run or run_directory())
                    raise ConnectionFailed(f"no server at {where} within {self._patience:.0f} s: {problem}")
                await asyncio.sleep(_PAUSE_S)
            raise ConnectionFailed("the client was closed")

    def _candidates(self) -> list[str]:
        """Addresses in the order in which to try them: spread over all at first, the one that was lost last."""
        found = list(self._addresses)
        if not found:
            run = self._run or run_directory()
            found = [ipc(path) for path in run.glob(f"ingress@*.{CLIENTS_DOOR}.sock")]
        secrets.SystemRandom().shuffle(found)
        return sorted(found, key=lambda address: address == self._last_address)

    async def _connect(self, address: str) -> Connection:
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)  # goes up, even where the clock was set back
        session = Session(self._name, self._epoch, os.getpid(), asyncio.get_running_loop().time())
        connection = Connection(
            self._context, address, session, self._curve,
            on_message=self._hear, on_down=self._lost, busy=lambda: bool(self._calls),
        )  # fmt: skip
        try:
            await connection.open(_WELCOME_S)
        except BaseException:
            connection.close()
            raise
        self._connection, self._last_address = connection, address
        return connection

    def _lost(self, reason: str) -> None:
        self._connection = None
        self._sent.clear()
        for told in self._calls.values():
            told.put_nowait(_Lost(reason))


class AsyncStream:
    """A streamed answer: iterate it once.

    Attributes:
        usage: known when it is complete.
    """

    def __init__(self, progress: Progress, pieces: AsyncGenerator[Piece, None]) -> None:
        self._progress, self._pieces = progress, pieces
        self._first: list[Piece] = []

    async def begin(self) -> None:
        """Wait for the first piece, so that a refusal is raised by the call and not by the loop over its answer."""
        async for piece in self._pieces:
            self._first.append(piece)
            break

    @property
    def id(self) -> str:
        """Of the response."""
        return self._progress.id

    @property
    def usage(self) -> Usage | None:
        """What it cost; known when it is complete."""
        return self._progress.usage

    @property
    def timing(self) -> dict[str, Any] | None:
        """Where its time went, with `include_timing=True`; known when a choice is complete, and of that one."""
        return self._progress.timing

    @property
    def text(self) -> str:
        """Of the first choice, so far."""
        return self._progress.text

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Piece:
        if self._first:
            return self._first.pop()
        return await anext(self._pieces)

    async def close(self) -> None:
        """No more is wanted: the work ends."""
        self._first.clear()
        await self._pieces.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
