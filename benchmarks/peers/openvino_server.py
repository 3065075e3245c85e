"""OpenVINO GenAI's ContinuousBatchingPipeline behind OpenAI's completions endpoint, so that it can be measured.

    python openvino_server.py --model DIR --port PORT [--threads 2] [--property NAME=VALUE]

This process does HTTP (aiohttp) and tokens (tokenizers), its child `openvino_engine.py` the pipeline. Runs in an
environment of its own; see `README.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

HERE = Path(__file__).resolve().parent


class Engine:
    """The child, and who waits for its tokens."""

    def __init__(self, link: Connection, process: subprocess.Popen[bytes]) -> None:
        self.link, self.process = link, process
        self.queues: dict[int, asyncio.Queue[Any]] = {}
        self.numbers = itertools.count(1)

    def listen(self) -> None:
        """Hand tokens on from now on."""
        asyncio.get_running_loop().add_reader(self.link.fileno(), self._news)

    def _news(self) -> None:
        try:
            while self.link.poll(0):
                for key, tokens, reason in self.link.recv():
                    if queue := self.queues.get(key):
                        queue.put_nowait((tokens, reason))
        except (EOFError, OSError):
            os._exit(1)  # the engine died

    def add(
        self, ids: list[int], limit: int, temperature: float, top_p: float, ignore_eos: bool
    ) -> tuple[int, asyncio.Queue[Any]]:
        key = next(self.numbers)
        queue = self.queues[key] = asyncio.Queue()
        self.link.send(("add", key, ids, limit, temperature, top_p, ignore_eos))
        return key, queue

    def drop(self, key: int, done: bool) -> None:
        """Nobody waits for it any more."""
        self.queues.pop(key, None)
        if not done:
            self.link.send(("cancel", key))


def application(engine: Engine, tokenizer: Tokenizer, name: str) -> web.Application:
    """What `benchmarks.serving` asks for, and no more."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def models(_: web.Request) -> web.Response:
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "openvino"}
        return web.json_response({"object": "list", "data": [entry]})

    async def completions(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body.get("prompt", "")
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids if isinstance(prompt, str) else prompt
        if not ids or not all(isinstance(each, int) for each in ids):
            return web.json_response({"error": {"message": "prompt: a string or token ids"}}, status=400)
        limit = int(body.get("max_tokens") or 16)
        temperature = body.get("temperature")
        temperature = 1.0 if temperature is None else float(temperature)
        streaming = bool(body.get("stream"))
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        key, queue = engine.add(ids, limit, temperature, float(body.get("top_p") or 1.0), bool(body.get("ignore_eos")))
        head = (
            f'{{"id":"cmpl-{key}","object":"text_completion","created":{int(time.time())},"model":{json.dumps(name)},'
        )
        decoder = DecodeStream(skip_special_tokens=False)
        count, done, reason, pieces = 0, False, None, []
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        try:
            while not done:
                tokens, reason = await queue.get()
                done = reason is not None
                if done and reason.startswith("error"):
                    error = {"error": {"message": reason}}
                    if not response.prepared:
                        return web.json_response(error, status=500)
                    await response.write(f"data: {json.dumps(error)}\n\n".encode())
                    break
                out = []
                for index, token in enumerate(tokens):
                    count += 1
                    piece = decoder.step(tokenizer, token) or ""
                    last = done and index == len(tokens) - 1
                    if streaming:
                        finish = f'"{reason}"' if last else "null"
                        out.append(
                            f'data: {head}"choices":[{{"index":0,"text":{json.dumps(piece)},'
                            f'"logprobs":null,"finish_reason":{finish}}}],"usage":null}}\n\n'
                        )
                    else:
                        pieces.append(piece)
                if streaming:
                    if done and not tokens:
                        out.append(
                            f'data: {head}"choices":[{{"index":0,"text":"","logprobs":null,'
                            f'"finish_reason":"{reason}"}}],"usage":null}}\n\n'
                        )
                    if done:
                        if with_usage:
                            out.append(f'data: {head}"choices":[],"usage":{_usage(len(ids), count)}}}\n\n')
                        out.append("data: [DONE]\n\n")
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write("".join(out).encode())
        finally:
            engine.drop(key, done)
        if not streaming:
            choice = json.dumps({"index": 0, "text": "".join(pieces), "logprobs": None, "finish_reason": reason})
            text = f'{head}"choices":[{choice}],"usage":{_usage(len(ids), count)}}}'
            return web.Response(text=text, content_type="application/json")
        await response.write_eof()
        return response

    app = web.Application(client_max_size=64 << 20, handler_args={"access_log": None})
    app.add_routes(
        [web.get("/health", health), web.get("/v1/models", models), web.post("/v1/completions", completions)]
    )

    async def start(_: web.Application) -> None:
        engine.listen()

    app.on_startup.append(start)
    return app


def _usage(prompt: int, completion: int) -> str:
    return f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion}}}'


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", required=True, help="a directory that optimum-cli made")
    parser.add_argument("--model-name", default="bench")
    parser.add_argument("--batched-tokens", type=int, default=512)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--cache-gb", type=int, default=1)
    parser.add_argument("--property", action="append", default=[], help="of OpenVINO: NAME=VALUE")
    options = parser.parse_args()
    ours, theirs = socket.socketpair()
    arguments = [
        sys.executable, str(HERE / "openvino_engine.py"), f"--fd={theirs.fileno()}", f"--model={options.model}",
        f"--threads={options.threads}", f"--batched-tokens={options.batched_tokens}",
        f"--max-num-seqs={options.max_num_seqs}", f"--cache-gb={options.cache_gb}",
        *(f"--property={each}" for each in options.property),
    ]  # fmt: skip
    process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()])
    theirs.close()
    link = Connection(os.dup(ours.fileno()))
    ours.close()
    tokenizer = Tokenizer.from_file(f"{options.model}/tokenizer.json")
    try:
        link.recv()  # ready
        engine = Engine(link, process)
        app = application(engine, tokenizer, options.model_name)
        web.run_app(app, host=options.host, port=options.port, print=None, access_log=None, shutdown_timeout=1)
    finally:
        with contextlib.suppress(Exception):
            process.terminate()


if __name__ == "__main__":
    main()
