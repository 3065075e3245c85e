"""What the fast path costs in quality: perplexity of a fixed text, by the kernels and by the float32 reference.

    python -m benchmarks.quality MODEL [--quantize auto] [--kv-dtype auto] [--only-kv] [--tokens 1024] [--threads 2]
        [--json]

The text is the beginnings of three books that are in the public domain (`data/prose.txt`), in windows of so many
tokens, each without a context before it. Both read the same weights. The standard error is that of the mean change of a
token's log probability: what chance makes of so short a text. With `--only-kv` the fast path with KV in
float32 stands in for the reference: what is left is what KV costs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
from pathlib import Path

import torch

from benchmarks.worker import CPU, PAGE_TOKENS, Memory
from bus.catalogue import locate
from bus.config import ModelConfig
from bus.messages.requests import Sampling
from bus.messages.steps import SlotOpen, StepPlan
from bus.packed import pack_u32
from ingress.models import load
from workers.engine import choose
from workers.group import Alone
from workers.models.architecture import kv_shape
from workers.models.load import load_model
from workers.pages import new_pages
from workers.step.execute import Executor
from workers.step.slots import Slots

TEXT = Path(__file__).parent / "data" / "prose.txt"


class Scorer:
    """A model that says how likely each token of a window is after those before it."""

    def __init__(self, model: str, quantize: str, dtype: str, kv_dtype: str, threads: int, tokens: int) -> None:
        path = locate(model)
        self.engine = choose(
            ModelConfig(name="q", source=model, dtype=dtype, quantize=quantize, kv_dtype=kv_dtype),  # type: ignore[arg-type]
            CPU, threads, path,
        )  # fmt: skip
        self.model = load_model(
            path, dtype=self.engine.dtype, device=CPU, keep=lambda make: make(), kernels=self.engine.kernels
        )
        self.vocabulary = self.model.architecture.vocabulary
        shape = kv_shape(self.model.architecture, PAGE_TOKENS, self.engine.kv)
        self.pages = -(-tokens // PAGE_TOKENS)
        slots = Slots(1, self.model.architecture.context, PAGE_TOKENS, self.vocabulary, self.pages, CPU)
        self.executor = Executor(self.model, slots, Memory(new_pages(shape, self.pages)), Alone())
        self.steps = itertools.count(1)

    def logprobs(self, ids: list[int]) -> list[float]:
        """Natural logarithms, one for each token but the first."""
        pages = range(self.pages)
        opened = SlotOpen(
            0, 1, pack_u32(ids), len(ids), 0, pack_u32(pages), pack_u32([1] * len(pages)), Sampling(), prompt_logprobs=0
        )
        found: list[float] = []
        opens: tuple[SlotOpen, ...] = (opened,)
        for start in range(0, len(ids), 256):
            count = min(256, len(ids) - start)
            done = self.executor.run(
                StepPlan(
                    next(self.steps), b"", opens, pack_u32([0]), pack_u32([start]), pack_u32([count]), b"\0",
                    b"", b"", b"",
                )
            )  # fmt: skip
            opens = ()
            for _, _, values in done.prompt_logprobs:
                found += [value.chosen for value in values]
        self.executor.run(StepPlan(next(self.steps), pack_u32([0]), (), b"", b"", b"", b"", b"", b"", b""))
        return found


def ids_of(model: str) -> list[int]:
    """The text in the model's tokens."""
    served = load(ModelConfig(name="q", source=model))
    return [int(token) for token in served.tokenizer.encode(TEXT.read_text())]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, a directory of safetensors, or catalog:NAME")
    parser.add_argument("--quantize", default="auto", choices=["auto", "int8", "int4"])
    parser.add_argument(
        "--kv-dtype", default="auto", choices=["auto", "float32", "bfloat16", "int8"], help="of the fast path"
    )
    parser.add_argument("--only-kv", action="store_true", help="compare with the fast path on KV in float32")
    parser.add_argument("--tokens", type=int, default=1024, help="of a window")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ids = ids_of(options.model)
    windows = [ids[at : at + options.tokens] for at in range(0, len(ids), options.tokens)]
    figures: dict[str, float] = {"tokens": len(ids)}
    engines: dict[str, str] = {}
    logprobs: dict[str, list[float]] = {}
    exact = (options.quantize, "auto", "float32") if options.only_kv else ("none", "float32", "auto")
    paths = (("float32", *exact), ("fast", options.quantize, "auto", options.kv_dtype))
    for name, quantize, dtype, kv_dtype in paths:
        scorer = Scorer(options.model, quantize, dtype, kv_dtype, options.threads, options.tokens)
        logprobs[name] = values = [value for window in windows for value in scorer.logprobs(window)]
        figures[name] = math.exp(-sum(values) / len(values))
        engines[name] = scorer.engine.name
    figures["ratio"] = figures["fast"] / figures["float32"]
    changes = [fast - exact for fast, exact in zip(logprobs["fast"], logprobs["float32"], strict=True)]
    figures["error"] = statistics.stdev(changes) / math.sqrt(len(changes))
    if options.json:
        print(json.dumps(figures | {"computed in": engines}))
        return
    print(f"{options.model}, {len(ids)} tokens in windows of {options.tokens}")
    print(f"  float32 ({engines['float32']}): perplexity {figures['float32']:.4f}")
    change = f"{figures['ratio'] - 1:+.2%} ± {figures['error']:.2%}"
    print(f"  fast ({engines['fast']}): perplexity {figures['fast']:.4f}, {change}")


if __name__ == "__main__":
    main()
