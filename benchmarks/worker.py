"""Tokens a second of one worker, straight on the executor: no sockets, no scheduler, pages in plain memory.

    python benchmarks/worker.py MODEL.gguf [--dtype auto] [--threads 2] [--rows 1 8 16] [--prompt 512] [--json]

Decode is measured with every row at a context of about `--context` tokens, prefill with one prompt in chunks of
`--chunk`. Each number is the median of `--repeats` windows; the spread (half the range between the windows' extremes,
in percent of the median) is printed with it: on a busy machine nothing below it means anything. `--sampling sampled`
draws at temperature 0.8 with top-p 0.95 instead of greedily, `temperature` at 1 over the whole vocabulary.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch

from bus.catalogue import ModelMissing, locate
from bus.config import ModelConfig
from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen, StepPlan
from bus.packed import pack_u32
from workers.engine import choose
from workers.group import Alone
from workers.loading import store_key
from workers.models.architecture import kv_shape
from workers.models.load import load_model
from workers.pages import new_pages
from workers.step.execute import Executor
from workers.step.rows import Written
from workers.step.slots import Slots
from workers.weights.digest import weights_digest
from workers.weights.source import WeightsError
from workers.weights.store import open_or_make

PAGE_TOKENS = 16
CPU = torch.device("cpu")
SAMPLINGS = {
    "greedy": Sampling(),
    "sampled": Sampling(temperature=0.8, top_p=0.95),
    "temperature": Sampling(temperature=1.0),
}


@dataclass
class Measured:
    """One line of the table."""

    what: str
    rows: int
    tokens_per_s: float
    ms_per_step: float
    spread_percent: float


class Memory:
    """Pages that no other process sees; commits go nowhere."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def launched(self, written: Written) -> None:
        """They are written in place."""

    def abandon(self) -> None:
        """Nobody reads what was not committed."""

    def commit(self, written: Written) -> None:
        """Nobody reads it."""


class Bench:
    """A worker and the plans that it is measured with."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        path = locate(options.model)
        config = ModelConfig(
            name="bench", source=options.model, dtype=options.dtype, quantize=options.quantize,
            deterministic=options.deterministic, kv_dtype=options.kv_dtype,
        )  # fmt: skip
        self.engine = choose(config, CPU, options.threads, path)
        key = store_key(weights_digest(path), self.engine, 0, 1)
        self.model = load_model(
            path,
            dtype=self.engine.dtype,
            device=CPU,
            keep=(lambda make: open_or_make(key, make)) if options.mapped else (lambda make: make()),
            kernels=self.engine.kernels,
        )
        architecture = self.model.architecture
        shape = kv_shape(architecture, PAGE_TOKENS, self.engine.kv)
        rows = max(options.rows)
        self.decode_tokens = options.context + options.steps * options.repeats + options.steps
        self.pages_each = -(-max(self.decode_tokens, options.prompt) // PAGE_TOKENS) + 1
        pages = new_pages(shape, rows * self.pages_each)
        self.slots = Slots(rows, architecture.context, PAGE_TOKENS, architecture.vocabulary, len(pages), CPU)
        self.executor = Executor(self.model, self.slots, Memory(pages), Alone())
        self.ids = [
            3 + (7919 * index) % (architecture.vocabulary - 3) for index in range(max(options.prompt, options.context))
        ]
        self.step = itertools.count(1)

    def opening(self, slot: int, tokens: int) -> SlotOpen:
        pages = range(slot * self.pages_each, (slot + 1) * self.pages_each)
        return SlotOpen(
            slot, slot + 1, pack_u32(self.ids[:tokens]), tokens, 0, pack_u32(pages), pack_u32([1] * len(pages)),
            SAMPLINGS[self.options.sampling],
        )  # fmt: skip

    def run(self, rows: list[tuple[int, int, int, bool]], opens: tuple[SlotOpen, ...] = ()) -> None:
        slots, starts, counts, samples = zip(*rows, strict=True)
        self.executor.run(
            StepPlan(
                next(self.step), b"", opens, pack_u32(slots), pack_u32(starts), pack_u32(counts), bytes(samples),
                b"", b"", b"",
            )
        )  # fmt: skip

    def prefill(self, slot: int, tokens: int) -> None:
        opens: tuple[SlotOpen, ...] = (self.opening(slot, tokens),)
        for start in range(0, tokens, self.options.chunk):
            count = min(self.options.chunk, tokens - start)
            self.run([(slot, start, count, start + count == tokens)], opens)
            opens = ()

    def measure(self, what: str, rows: int, tokens: int, steps: int, window: Callable[[], None]) -> Measured:
        seconds = []
        for _ in range(self.options.repeats):
            began = time.perf_counter()
            window()
            seconds.append(time.perf_counter() - began)
        median = statistics.median(seconds)
        spread = (max(seconds) - min(seconds)) / 2 / median * 100
        return Measured(what, rows, tokens / median, median / steps * 1e3, spread)

    def decode(self, rows: int) -> Measured:
        context = self.options.context
        for slot in range(rows):
            if self.options.zeros:  # as if all but the last token were computed; what is in pages costs no time
                opened = msgspec.structs.replace(self.opening(slot, context), computed=context - 1)
                self.run([(slot, context - 1, 1, True)], (opened,))
            else:
                self.prefill(slot, context)
        at = itertools.count(context)

        def window() -> None:
            for _ in range(self.options.steps):
                position = next(at)
                self.run([(slot, position, 1, True) for slot in range(rows)])

        first = next(at)
        self.run([(slot, first, 1, True) for slot in range(rows)])  # warm
        return self.measure("decode", rows, rows * self.options.steps, self.options.steps, window)

    def prompt(self) -> Measured:
        tokens = self.options.prompt
        self.prefill(0, min(tokens, self.options.chunk))  # warm
        return self.measure(
            f"prefill {tokens}", 1, tokens, -(-tokens // self.options.chunk), lambda: self.prefill(0, tokens)
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, a directory of safetensors, or catalog:NAME")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--kv-dtype", default="auto", choices=["auto", "float32", "bfloat16", "int8"])
    parser.add_argument("--quantize", default="auto", choices=["auto", "none", "int8", "int4"])
    parser.add_argument("--deterministic", action="store_true", help="what that costs; see docs/how-it-works.md")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16], help="batch sizes of decode")
    parser.add_argument("--context", type=int, default=256, help="tokens before decode begins")
    parser.add_argument(
        "--zeros", action="store_true", help="decode behind pages of zeros, where prefill takes too long"
    )
    parser.add_argument("--steps", type=int, default=16, help="decode steps of one window")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prefill chunk")
    parser.add_argument("--repeats", type=int, default=5, help="windows; the median counts")
    parser.add_argument("--sampling", default="greedy", choices=sorted(SAMPLINGS))
    parser.add_argument("--mapped", action="store_true", help="weights mapped from the store instead of own memory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if "GOMP_SPINCOUNT" not in os.environ:  # as workers are started: torch's threads do not spin on the kernels' cores
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GOMP_SPINCOUNT": "1000"})
    torch.set_num_threads(options.threads)
    try:
        bench = Bench(options)
    except (ModelMissing, WeightsError) as error:
        parser.error(str(error))
    measured = [bench.decode(rows) for rows in options.rows] + [bench.prompt()]
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "model": Path(options.model).name,
        "computed in": bench.engine.name,
        "sampling": options.sampling,
        "load": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps({"machine": machine, "results": [asdict(line) for line in measured]}))
        return
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'':14}{'rows':>6}{'tok/s':>10}{'ms/step':>10}{'spread':>9}")
    for line in measured:
        print(
            f"{line.what:14}{line.rows:6}{line.tokens_per_s:10.1f}{line.ms_per_step:10.2f}{line.spread_percent:8.1f}%"
        )


if __name__ == "__main__":
    main()
