"""What grammars cost a worker: decode steps with and without them, in turns, straight on the executor.

    python -m benchmarks.structured MODEL.gguf [--rows 16] [--steps 32] [--repeats 7]

Every row writes a list of people by a JSON Schema; the same rows then write anything. Windows of both kinds alternate,
so what else the machine does hits both; the median of the ratios counts, and the extremes are printed with it. What
making a mask and applying it take by themselves is printed too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from msgspec.structs import replace

from benchmarks.worker import CPU, Bench
from bus.catalogue import locate
from bus.messages.requests import Grammar, Sampling
from bus.packed import pack_u32
from bus.vocabulary import Vocabulary, read, write
from ingress.grammar.wanted import schema_wanted
from ingress.grammar.writing import grammar
from ingress.text.gguf_metadata import read_metadata
from ingress.text.tokenizer import from_gguf
from workers.group import Alone
from workers.sampling.grammar import Grammars
from workers.step.execute import Executor
from workers.step.slots import Slots

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mail": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "quick"]}, "minItems": 1},
    },
    "required": ["name", "age", "mail", "tags"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 200}


class Structured(Bench):
    """The same worker, with grammars."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        tokenizer = from_gguf(read_metadata(locate(options.model)))
        run = Path(tempfile.mkdtemp(prefix="hr"))
        tokens = tuple(map(tokenizer.token_bytes, range(tokenizer.vocabulary)))
        ends = pack_u32(tokenizer.eos_ids)
        digest = write(run, Vocabulary(tokens, pack_u32(tokenizer.control_ids), ends))
        vocabulary = self.model.architecture.vocabulary
        self.grammars = Grammars(vocabulary, lambda digest: read(run, digest), CPU)
        pages = self.executor._pages
        self.slots = Slots(
            max(options.rows), self.model.architecture.context, self.slots.page_tokens, vocabulary,
            pages.tensor.shape[0], CPU, self.grammars,
        )  # fmt: skip
        self.executor = Executor(self.model, self.slots, pages, Alone())
        self.sampling = Sampling(temperature=0.8, grammar=Grammar(grammar(schema_wanted(SCHEMA, ""), None, {}), digest))

    def window(self, rows: int, *, followed: bool) -> float:
        """Seconds of a window of decode steps, rows opened anew before it."""
        context = self.options.context
        sampling = self.sampling if followed else replace(self.sampling, grammar=None)
        for slot in range(rows):
            opened = replace(self.opening(slot, context), sampling=replace(sampling, seed=slot))
            self.run([(slot, 0, context, True)], (opened,))
        self.run([(slot, context, 1, True) for slot in range(rows)])
        began = time.perf_counter()
        for step in range(1, self.options.steps + 1):
            self.run([(slot, context + step, 1, True) for slot in range(rows)])
        return time.perf_counter() - began

    def masks(self, rows: int) -> tuple[float, float]:
        """Milliseconds that making the masks of a step takes, and applying them."""
        self.grammars.begin(range(rows))
        began = time.perf_counter()
        made = self.grammars.masks()
        making = time.perf_counter() - began
        assert made is not None
        logits = torch.zeros(rows, self.model.architecture.vocabulary)
        began = time.perf_counter()
        for row, banned in made.banned.items():
            banned.apply(logits[row])
        return making * 1e3, (time.perf_counter() - began) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, or catalog:NAME of one")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="batch sizes")
    parser.add_argument("--context", type=int, default=64, help="tokens before decode begins")
    parser.add_argument("--steps", type=int, default=32, help="decode steps of one window")
    parser.add_argument("--repeats", type=int, default=7, help="windows of each kind; the median counts")
    parser.set_defaults(
        dtype="auto", kv_dtype="auto", quantize="auto", deterministic=False, mapped=True, prompt=64, chunk=512,
        sampling="temperature", zeros=False,
    )  # fmt: skip
    options = parser.parse_args()
    if "GOMP_SPINCOUNT" not in os.environ:  # as workers are started
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GOMP_SPINCOUNT": "1000"})
    torch.set_num_threads(options.threads)
    bench = Structured(options)
    print(f"model {Path(options.model).name}  computed in {bench.engine.name}  load {os.getloadavg()[0]:.1f}")
    for rows in options.rows:
        bench.window(rows, followed=True)  # warm
        pairs = [
            (bench.window(rows, followed=False), bench.window(rows, followed=True)) for _ in range(options.repeats)
        ]
        step = statistics.median(plain for plain, _ in pairs) / options.steps * 1e3
        costs = [(followed / plain - 1) * 100 for plain, followed in pairs]
        making, applying = bench.masks(rows)
        print(
            f"{rows:3} rows: {step:8.2f} ms/step without, {statistics.median(costs):+6.1f} % with grammars "
            f"({min(costs):+.1f} to {max(costs):+.1f}); masks {making:.2f} ms, applied {applying:.2f} ms"
        )


if __name__ == "__main__":
    main()
