"""From an ASGI call to the pipeline and back. What bodies mean is the pipeline's; sockets are `http`'s.

A bare ASGI application: a framework costs 1.2 to 2.7 times as much per event, and nothing of one is needed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from bus.messages.clients import Operation
from ingress.api import from_messages, retrieving
from ingress.api.answer import encode
from ingress.api.events import Events
from ingress.api.exposition import OPENMETRICS, TEXT, MetricsClient, wants_openmetrics
from ingress.api.jobs import Caller, owner_of, traceparent
from ingress.api.once import Kept
from ingress.api.openapi import document
from ingress.api.pipeline import OPEN, Pipeline
from ingress.api.request import Gone, Receive, Request, Scope
from ingress.api.routes import Route, match
from ingress.api.schema_other import Health
from ingress.api.sse import AsgiSink, Send, Sink, parse_event_id, write_events
from ingress.api.surfaces import Surface, of_path, of_response
from ingress.errors import ApiError, draining, internal, invalid_request, not_found
from ingress.replay import EventsGone

log = logging.getLogger(__name__)

_JSON: Final = (b"content-type", b"application/json")
_HEALTH: Final = encode(Health())
_OPEN: Final = OPEN | {"health", "openapi", "metrics"}


class _MethodNotAllowed(ApiError):
    """405, with what the path is for."""

    def __init__(self, path: str, method: str, allowed: str) -> None:
        message = f"{path} is for {allowed}, not {method}."
        super().__init__(405, "invalid_request_error", message, code="method_not_allowed")
        self.allowed = allowed


class App:
    """The ASGI application.

    Args:
        pipeline: does everything that is not HTTP.
        metrics: for `/metrics`.
        max_body: bytes; more is 413.
    """

    def __init__(self, pipeline: Pipeline, metrics: MetricsClient, *, max_body: int) -> None:
        self._pipeline, self._metrics, self._max_body = pipeline, metrics, max_body
        self.open = 0  # requests being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, self._max_body)
        sink = AsgiSink(send, scope["state"]["write_now"], request.always)
        self.open += 1
        surface = of_path(scope["path"])
        try:
            await self._answer(request, sink)
        except (Gone, asyncio.CancelledError):
            pass  # the client has gone, or this process ends
        except ApiError as error:
            await self._failed(sink, error, surface, request)
        except Exception:
            told = {"request": f"{request.number:016x}"}
            log.exception("while answering %s %s", scope["method"], scope["path"], extra=told)
            await self._failed(sink, internal("An unexpected error; it has been logged."), surface, request)
        finally:
            self.open -= 1

    async def _answer(self, request: Request, sink: Sink) -> None:
        try:
            request.check_head()
            route = _route(request)
            caller = None if route.does in _OPEN else await self._caller(request)
            body = await request.body() if route.method == "POST" else b""
        except ApiError as error:
            # The body may still be on its way: the answer goes out at once, the rest is not wanted.
            surface = of_path(request.path)
            await _respond_error(sink, error, surface, request.name, close=True, complete=False)
            await request.discard()
            await sink.end()
            return
        match route.does:
            case "health":
                await _respond(sink, 200, _HEALTH, [_JSON])
            case "openapi":
                await _respond(sink, 200, document(), [_JSON])
            case "metrics":
                openmetrics = wants_openmetrics(request.header(b"accept"))
                text = await self._metrics.exposition(openmetrics=openmetrics)
                await _respond(sink, 200, text, [(b"content-type", OPENMETRICS if openmetrics else TEXT)])
            case "model":
                assert caller is not None
                await _respond(sink, 200, self._pipeline.model_card(request.parameter, caller), [_JSON])
            case "stream":
                await self._resume(request, sink)
            case "responses.retrieve" if (after := retrieving.wanted_stream(request.query)) is not None:
                await self._follow(request.parameter, after, request, sink)
            case "responses.retrieve" | "responses.cancel" | "responses.delete" | "responses.input_items" as operation:
                ref = retrieving.reference(operation, request.parameter, request.query, body)
                await self._operate(operation, ref, caller or self._anyone(request), request, sink)
            case operation:
                if operation in ("messages", "messages.count_tokens"):
                    from_messages.check_version(request.given(b"anthropic-version"))
                await self._operate(operation, body, caller or self._anyone(request), request, sink)

    async def _caller(self, request: Request) -> Caller:
        """Who asks: found out before the body is read."""
        return await self._pipeline.identify(self._anyone(request), request.authorization, request.address)

    def _anyone(self, request: Request) -> Caller:
        return Caller(
            "",
            owner_of(request.authorization),
            self._pipeline.now_ns(),
            traceparent=traceparent(request.header(b"traceparent")),
            authorization=request.authorization,
            cache_control=request.header(b"cache-control"),
            headers=request.reply_headers,
            request=request.number,
            named=request.called,
            called=request.client_name,
        )

    async def _operate(self, operation: Operation, body: bytes, caller: Caller, request: Request, sink: Sink) -> None:
        if request.turned_away:
            raise draining()
        key = request.header(b"idempotency-key")
        if key:
            answer = await request.unless_gone(self._pipeline.answer_once(operation, body, caller, key))
        else:
            answer = await request.unless_gone(self._pipeline.answer(operation, body, caller))
        if isinstance(answer, Kept):
            answer = await self._read(answer, request, keep=bool(key))
        if isinstance(answer, bytes):
            await _respond(sink, 200, answer, [_JSON])
        else:
            await self._stream(answer, 0, request, sink, keep=request.resumable or bool(key))

    async def _read(self, answer: Kept, request: Request, *, keep: bool) -> bytes:
        """An answer in one body that is kept: with `keep`, a client that goes away can ask for it again."""
        events = answer.events
        request.called(events.response)
        events.attach()
        try:
            return await request.unless_gone(answer.read(events))
        except Gone:
            if not (keep or request.resumable) and events.listeners == 1:
                events.abandon()
            raise
        finally:
            events.detach(self._pipeline.now_ns())

    async def _resume(self, request: Request, sink: Sink) -> None:
        response, given = request.parameter, request.header(b"last-event-id")
        after = parse_event_id(given, response) if given else 0
        if after is None:
            raise invalid_request(f"Last-Event-ID is not {response}:NUMBER.", param="Last-Event-ID")
        await self._follow(response, after, request, sink)

    async def _follow(self, response: str, after: int, request: Request, sink: Sink) -> None:
        replay = await self._pipeline.resume(response, request.authorization, after)
        await self._stream(replay, after, request, sink, keep=True)

    async def _stream(self, replay: Events, after: int, request: Request, sink: Sink, *, keep: bool) -> None:
        replay.attach()
        try:
            surface = of_response(replay.response)
            request.called(replay.response)
            events = write_events(sink, replay, after, surface, self._pipeline.now_ns)
            waited_ns = await request.unless_gone(events)
            self._pipeline.delivered(replay, waited_ns)
        except EventsGone as gone:
            gone_error = ApiError(410, "invalid_request_error", f"{gone}", code="events_gone")
            await self._failed(sink, gone_error, of_response(replay.response), request)
        except asyncio.CancelledError:
            keep = True  # it is this process that ends; the client has not gone
            raise
        finally:
            replay.detach(self._pipeline.now_ns())
            if not keep and not replay.listeners:
                replay.abandon()

    async def _failed(self, sink: Sink, error: ApiError, surface: Surface, request: Request) -> None:
        if not sink.started:
            await _respond_error(sink, error, surface, request.name)
        else:
            await sink.write(surface.failure(error, 0))
            await sink.end()


def _route(request: Request) -> Route:
    found = match(request.path)
    if found is None:
        raise not_found(f"There is nothing at {request.method} {request.path}.", code="unknown_url")
    request.parameter = found.parameter
    method = "GET" if request.method == "HEAD" else request.method
    if (route := found.methods.get(method)) is None:
        raise _MethodNotAllowed(request.path, request.method, ", ".join(found.methods))
    return route


async def _respond(
    sink: Sink, status: int, body: bytes, headers: list[tuple[bytes, bytes]], *, complete: bool = True
) -> None:
    await sink.start(status, [*headers, (b"content-length", str(len(body)).encode())])
    await sink.write(body)
    if complete:
        await sink.end()


async def _respond_error(
    sink: Sink, error: ApiError, surface: Surface, name: str, *, close: bool = False, complete: bool = True
) -> None:
    headers: list[tuple[bytes, bytes]] = [_JSON, *error.headers]
    if isinstance(error, _MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    if close:
        headers.append((b"connection", b"close"))
    await _respond(sink, surface.status(error), surface.error(error, name), headers, complete=complete)
