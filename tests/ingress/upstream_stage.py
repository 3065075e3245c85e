"""A server that speaks OpenAI's and Anthropic's API and misbehaves as it is told: the first part of a call's path says
how. For tests of what an ingress makes of that."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

WORDS = ("Hello", ",", " w", "ör", "ld", " 😀", "!")
SAID = "".join(WORDS)
USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17, "prompt_tokens_details": {"cached_tokens": 4}}

Send = Callable[[Any], Any]


class Upstream:
    """The server, on a thread of its own.

    Attributes:
        calls: bodies by mode, as they came.
        headers: of the newest call of a mode.
        peers: from which addresses the calls of a mode came.
        gone: calls by mode whose client went away before they ended.
        mood: what a call of mode "moody" is: set by a test.
        pause: while it is not set, samples end after their first token.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[dict[str, Any]]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.peers: dict[str, list[Any]] = {}
        self.gone: Counter[str] = Counter()
        self.mood = "ok"
        self.pause = threading.Event()
        self.pause.set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def url(self, mode: str) -> str:
        """Base of a mode's API."""
        return f"http://127.0.0.1:{self.port}/{mode}/v1"

    def table(self, mode: str, more: str = "", *, kind: str = "openai", model: str = "", name: str = "") -> str:
        """The configuration of an upstream of a mode, with one model of that name."""
        name = name or mode
        return (
            f'[[upstream]]\nname = "{name}"\nkind = "{kind}"\nbase_url = "{self.url(mode)}"\n{more}\n'
            f'[[upstream.model]]\nname = "{name}"\nserved = "served-{mode}"\ninput = 1.0\noutput = 2.0\n{model}\n'
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/{mode}/v1/chat/completions", self._chat)
        app.router.add_post("/{mode}/v1/messages", self._message)

        async def start() -> None:
            runner = web.AppRunner(app, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _heard(self, request: web.Request) -> tuple[str, dict[str, Any]]:
        mode, body = request.match_info["mode"], await request.json()
        self.calls.setdefault(mode, []).append(body)
        assert request.transport is not None
        self.peers.setdefault(mode, []).append(request.transport.get_extra_info("peername"))
        self.headers[mode] = {name.lower(): value for name, value in request.headers.items()}
        return self.mood if mode == "moody" else mode, body

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        mode, body = await self._heard(request)
        if (refusal := _refusal(mode)) is not None:
            return refusal
        if mode == "hangs-up":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if mode == "html":
            return web.Response(text="<html>nice to meet you</html>", content_type="text/html")
        if mode == "redirect":
            return web.Response(status=307, headers={"location": self.url("ok") + "/chat/completions"})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if mode == "compressed":
            response.headers["content-encoding"] = "gzip"
        await response.prepare(request)
        try:
            await self._speak(mode, body, response)
        except (ConnectionResetError, asyncio.CancelledError):
            self.gone[request.match_info["mode"]] += 1
            raise
        return response

    async def _speak(self, mode: str, body: dict[str, Any], response: web.StreamResponse) -> None:
        async def send(**chunk: Any) -> None:
            await response.write(b"data: " + json.dumps({"id": "x", "object": "y", **chunk}).encode() + b"\n\n")

        async def say(text: str, **more: Any) -> None:
            await send(choices=[{"index": 0, "delta": {"content": text}, **more}])

        if mode == "garbage-first":
            await response.write(b"data: {not json\n\n")
            return
        if mode == "error-first":
            await send(error={"message": "secret internals", "type": "overloaded_error"})
            return
        if mode == "endless-line":
            for _ in range(40):
                await response.write(b"data: " + b"x" * (1 << 16))
            await asyncio.sleep(3600)
        if mode == "silent":
            await asyncio.sleep(3600)
        if mode == "pings":
            while True:
                await response.write(b": ping\n\n")
                await asyncio.sleep(0.05)
        if mode == "empty-stream":
            return
        await send(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
        if mode == "refuses":
            await say("I'm sorry, but I can't help with that.")
        elif mode in ("tools", "strays"):
            for index, tool in enumerate(("look", "look" if mode == "tools" else "destroy")):
                call = {
                    "index": index,
                    "id": f"up_{index}",
                    "type": "function",
                    "function": {"name": tool, "arguments": ""},
                }
                await send(choices=[{"index": 0, "delta": {"tool_calls": [call]}}])
                for text in ('{"at"', ': "sk', 'y"}'):
                    part = {"index": index, "function": {"arguments": text}}
                    await send(choices=[{"index": 0, "delta": {"tool_calls": [part]}}])
            await send(choices=[{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
            await send(choices=[], usage=USAGE | {"completion_tokens": 31})
            await response.write(b"data: [DONE]\n\n")
            return
        elif mode == "samples":
            await self._sample(body, send, say)
            await response.write(b"data: [DONE]\n\n")
            return
        elif mode == "endless":
            while True:
                await say("on and on ")
                await asyncio.sleep(0.005)
        elif mode == "json":
            await say('{"answer": 42}')
        elif mode in ("sure", "unsure"):
            gap = 5.0 if mode == "sure" else 0.1
            for word in WORDS:
                top = [{"token": word, "logprob": -0.1, "bytes": None}, {"token": "?", "logprob": -0.1 - gap}]
                entry = {"token": word, "logprob": -0.1, "bytes": None, "top_logprobs": top}
                await say(word, logprobs={"content": [entry]})
        elif mode == "thinks":
            await send(choices=[{"index": 0, "delta": {"reasoning_content": "Hm."}}])
            await say(SAID)
        else:
            for number, word in enumerate(WORDS):
                if number == 3:
                    if mode == "cuts":
                        assert response._req is not None
                        response._req.transport.abort()  # type: ignore[union-attr]
                        return
                    if mode == "stalls":
                        await asyncio.sleep(3600)
                    if mode == "ends":
                        return
                    if mode == "garbage-mid":
                        await response.write(b"data: \xff\xfe\n\n")
                        return
                await say(word)
                if mode == "slow":
                    await asyncio.sleep(0.1)
        limit = body.get("max_tokens")
        await send(choices=[{"index": 0, "delta": {}, "finish_reason": "length" if limit == 7 else "stop"}])
        if mode == "lies":
            await send(choices=[], usage={"prompt_tokens": 1_000_000, "completion_tokens": -5})
        elif mode != "no-usage":
            await send(choices=[], usage=USAGE)
        await response.write(b"data: [DONE]\n\n")

    async def _sample(self, body: dict[str, Any], send: Send, say: Send) -> None:
        """As many words of a seed as may be, at most twelve, one token each. Of seeds 1 to 4 the third is the most
        probable, then the first."""
        seed, most = body.get("seed", 0), min(12, body.get("max_tokens", 12))
        for at in range(most):
            entry = {"token": f"s{seed}.{at} ", "logprob": -0.5 - 7 * seed % 5, "bytes": None, "top_logprobs": []}
            logprobs = {"logprobs": {"content": [entry]}} if body.get("logprobs") else {}
            await say(f"s{seed}.{at} ", **logprobs)
            while not self.pause.is_set():
                await asyncio.sleep(0.02)
        await send(choices=[{"index": 0, "delta": {}, "finish_reason": "stop" if most == 12 else "length"}])
        await send(choices=[], usage={"prompt_tokens": 9, "completion_tokens": most})

    async def _message(self, request: web.Request) -> web.StreamResponse:
        mode, body = await self._heard(request)
        if (refusal := _refusal(mode)) is not None:
            return refusal
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def send(kind: str, **event: Any) -> None:
            body = json.dumps({"type": kind, **event})
            await response.write(f"event: {kind}\ndata: {body}\n\n".encode())

        usage = {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1}
        await send("message_start", message={"id": "m", "role": "assistant", "content": [], "usage": usage})
        if mode == "a-tools" and body.get("tools"):
            for index in (0, 1):
                block = {"type": "tool_use", "id": f"toolu_{index}", "name": "look", "input": {}}
                await send("content_block_start", index=index, content_block=block)
                for text in ("", '{"at"', ': "sk', 'y"}') if index == 0 else ("",):
                    await send(
                        "content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": text}
                    )
                await send("content_block_stop", index=index)
            delta = {"stop_reason": "tool_use", "stop_sequence": None}
            await send("message_delta", delta=delta, usage={"output_tokens": 31})
            await send("message_stop")
            return response
        await send("content_block_start", index=0, content_block={"type": "text", "text": ""})
        await send("ping")
        for word in WORDS:
            await send("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        if mode == "overloads":
            await send("error", error={"type": "overloaded_error", "message": "Overloaded"})
            return response
        await send("content_block_stop", index=0)
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        await send("message_delta", delta=delta, usage={"output_tokens": 8})
        await send("message_stop")
        return response


def _refusal(mode: str) -> web.Response | None:
    match mode:
        case "500":
            return web.json_response({"error": {"message": "stack trace with sk-secret"}}, status=500)
        case "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "2"})
        case "401":
            return web.json_response({"error": {"message": "Incorrect API key: sk-secret"}}, status=401)
        case "400":
            return web.json_response({"error": {"message": "no such thing", "type": "invalid"}}, status=400)
        case "long":
            error = {"message": "too long", "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
    return None
