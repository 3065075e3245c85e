"""The engine process: one ContinuousBatchingPipeline, step() called by this process's only Python thread.

pybind's step() holds the interpreter lock for the whole step (measured: another Python thread gets to run only between
steps), so HTTP lives in another process (`openvino_server.py`) and this one does nothing but step. Messages come and go
over one connection of multiprocessing, given as a file descriptor:

    in    ("add", id, token ids, max_tokens, temperature, top_p, ignore_eos), or ("cancel", id)
    out   one message a step: a list of (id, [token, ...], finish reason or None)
"""

from __future__ import annotations

import argparse
import json
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai


def main() -> None:
    """Step until the connection ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batched-tokens", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--cache-gb", type=int, required=True)
    parser.add_argument("--property", action="append", default=[])
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Connection(options.fd)

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = options.cache_gb
    scheduler.max_num_batched_tokens = options.batched_tokens
    scheduler.max_num_seqs = options.max_num_seqs
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    properties = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": options.threads,
        "ENABLE_CPU_PINNING": True, "ENABLE_HYPER_THREADING": True,
    }  # fmt: skip
    for each in options.property:
        name, value = each.split("=", 1)
        try:
            properties[name] = json.loads(value)
        except ValueError:
            properties[name] = value
    pipeline = genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", properties)
    with open(f"{options.model}/generation_config.json") as file:
        eos = json.load(file)["eos_token_id"]
    stops = set(eos if isinstance(eos, list) else [eos])
    link.send("ready")

    running: dict[int, list[Any]] = {}  # id -> [handle, tokens left]

    def take(message: tuple[Any, ...]) -> list[Any] | None:
        if message[0] == "cancel":
            if entry := running.pop(message[1], None):
                entry[0].cancel()
            return None
        _, key, ids, limit, temperature, top_p, ignore_eos = message
        config = genai.GenerationConfig()
        config.max_new_tokens = limit
        config.ignore_eos = ignore_eos
        config.stop_token_ids = set() if ignore_eos else stops
        config.do_sample = temperature > 0
        if temperature > 0:
            config.temperature, config.top_p = temperature, top_p
        try:
            handle = pipeline.add_request(key, ov.Tensor(np.array([ids], dtype=np.int64)), config)
        except Exception as problem:  # a request it refuses
            return [(key, [], f"error: {problem}")]
        running[key] = [handle, limit]
        return None

    status = genai.GenerationStatus
    while True:
        while not running or link.poll(0):
            try:
                message = link.recv()
            except EOFError:
                return
            if refused := take(message):
                link.send(refused)
        pipeline.step()
        news = []
        for key, (handle, _) in list(running.items()):
            tokens: list[int] = []
            while handle.can_read():
                for output in handle.read().values():
                    tokens += output.generated_ids
            state = handle.get_status()
            reason = None
            if state != status.RUNNING:
                left = running.pop(key)[1] - len(tokens)
                reason = "error: out of cache" if state == status.IGNORED else "length" if left <= 0 else "stop"
            else:
                running[key][1] -= len(tokens)
            if tokens or reason:
                news.append((key, tokens, reason))
        if news:
            link.send(news)


if __name__ == "__main__":
    main()
