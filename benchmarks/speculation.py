"""What drafts bring: decode speed of code-editing prompts with them and without, by batch.

    python -m benchmarks.speculation MODEL.gguf [--how lookup suffix draft] [--draft-model MODEL.gguf] [--rows 1 4 8 16]

The scheduler's core plans for a worker's executor, in one process: what is measured is what the two decide and compute,
without sockets. Each prompt is a function of Python's standard library with an order to change something in it; the
answer repeats most of it. `--plain` asks questions instead, whose answers repeat little: there drafts must not cost.

Each number is decoded tokens a second, from the moment that all prompts are computed until the first answer ends; ways
take turns, `--repeats` times, and the best of each way is shown with the spread to its median. Tokens are compared: a
difference is an error.
"""

from __future__ import annotations

import argparse
import fnmatch
import heapq
import inspect
import itertools
import json
import shlex
import statistics
import string
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from bus import blocks
from bus.catalogue import locate
from bus.config import ModelConfig
from bus.messages.requests import Deltas, Sampling, Submit
from bus.messages.steps import StepPlan
from bus.packed import pack_u32, unpack_u32, unpack_u64
from ingress.models import load as load_served
from scheduler.core import events as e
from scheduler.core.core import SchedulerCore
from scheduler.core.state import Limits
from workers.engine import choose
from workers.group import Alone
from workers.host import Assignment
from workers.loading import load_draft, store_key
from workers.models.architecture import kv_shape
from workers.models.load import load_model
from workers.speculative.choice import Speculation, proposer_of
from workers.step.execute import Executor
from workers.step.rows import Written
from workers.step.slots import Slots
from workers.weights.digest import weights_digest
from workers.weights.store import open_or_make

PAGE_TOKENS = 16
CPU = torch.device("cpu")
FUNCTIONS: tuple[Callable[..., object], ...] = (
    textwrap.dedent, shlex.split, heapq.merge, fnmatch.translate, string.capwords, inspect.cleandoc,
    textwrap.indent, heapq.nsmallest,
)  # fmt: skip
ORDERS = (
    "Add type hints to the parameters and the result. Answer with the whole function and nothing else.",
    "Rename the first parameter to `value`, everywhere. Answer with the whole function and nothing else.",
)
QUESTIONS = (
    "Explain how a hash table works.", "Write a short story about a lighthouse keeper.", "What is a monad?",
    "How do bees find their way home?", "Compare TCP and UDP.", "Describe the water cycle.",
    "Why is the sky blue?", "Give me a recipe for lentil soup.",
)  # fmt: skip


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


@dataclass
class Run:
    """What one batch brought."""

    tokens_per_s: float
    drafted: int
    accepted: int
    answers: dict[int, list[int]] = field(repr=False)


class Bench:
    """One model, and ways to have drafts for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.config = ModelConfig(
            name="bench", source=options.model, threads=options.threads,
            speculation="draft" if options.draft_model else "lookup", draft_model=options.draft_model,
            draft_tokens=options.drafts,
        )  # fmt: skip
        path = locate(options.model)
        self.engine = choose(self.config, CPU, options.threads, path)
        key = store_key(weights_digest(path), self.engine, 0, 1)
        self.model = load_model(
            path, dtype=self.engine.dtype, device=CPU, keep=lambda make: open_or_make(key, make),
            kernels=self.engine.kernels,
        )  # fmt: skip
        self.served = load_served(self.config)
        assignment = Assignment(None, self.config, CPU, PAGE_TOKENS, options.threads)  # type: ignore[arg-type]
        self.draft = load_draft(assignment, path) if options.draft_model else None
        self.context = 4096
        shape = kv_shape(self.model.architecture, PAGE_TOKENS, self.engine.dtype)
        self.cells = max(options.rows) * self.context // PAGE_TOKENS
        size = (self.cells, shape.layers, 2, shape.kv_heads, PAGE_TOKENS, shape.head_dim)
        self.pages = Memory(torch.zeros(size, dtype=self.engine.dtype))

    def prompts(self, rows: int) -> list[list[int]]:
        """Token ids of so many."""
        texts = (
            itertools.cycle(QUESTIONS)
            if self.options.plain
            else (
                f"{order}\n\n```python\n{inspect.getsource(function)}```"
                for order, function in itertools.cycle(itertools.product(ORDERS, FUNCTIONS))
            )
        )
        return [self._ids(text) for text in itertools.islice(texts, rows)]

    def _ids(self, text: str) -> list[int]:
        chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        return self.served.tokenizer.encode(chat)

    def run(self, way: Speculation, rows: int) -> Run:
        """Decode a batch in one way."""
        slots = Slots(rows, self.context, PAGE_TOKENS, self.model.architecture.vocabulary, self.cells, CPU)
        proposer = proposer_of(way, slots, Alone(), self.model, self.draft)
        executor = Executor(self.model, slots, self.pages, Alone(), proposer=proposer)
        drafts = 0 if way == "off" else self.options.drafts
        talk = Talk(executor, rows, self.cells, self.context, drafts, self.learnt.get((way, rows)))
        for number, ids in enumerate(self.prompts(rows)):
            talk.submit(number + 1, ids, self.options.tokens, list(self.served.eos_ids))
        run = talk.decode()
        self.learnt[way, rows] = talk
        return run

    learnt: dict[tuple[Speculation, int], Talk] = {}  # noqa: RUF012


class Talk:
    """The scheduler's core and an executor. `before`: whose costs and rates of acceptance are known already."""

    def __init__(
        self, executor: Executor, rows: int, cells: int, context: int, drafts: int, before: Talk | None
    ) -> None:
        self.executor = executor
        self.core = SchedulerCore(Limits(model="bench", slots=rows, drafts=drafts, prefix_cache=False, extent=256))
        self.free, self.plans = list(range(cells)), list[StepPlan]()
        self.answers: dict[int, list[int]] = {}
        self.ended = self.drafted = self.accepted = 0
        self.rows = rows
        self.root = blocks.salted_root(blocks.root_digest(b"weights", "float32", "page-first", PAGE_TOKENS))
        self.feed(e.KvUp(cells))
        self.feed(e.ReplicaUp(0, rows, 512, context, PAGE_TOKENS, drafts=drafts))
        self.replica = self.core.state.replicas[0]
        if before is not None:
            self.replica.cost = before.replica.cost
            self.replica.speculation.inherit(before.replica.speculation)

    def feed(self, event: e.Event) -> None:
        """Handle an event, and what it asks for."""
        pending = [event]
        while pending:
            for action in self.core.handle(pending.pop(), time.monotonic_ns()):
                if isinstance(action, e.SendPlan):
                    self.plans.append(action.plan)
                elif isinstance(action, e.Reply):
                    if isinstance(action.body, Deltas):
                        self._take(action.body)
                else:
                    pending.extend(self.answer(action))

    def answer(self, action: e.Action) -> Iterator[e.Event]:
        """A page server that never found anything."""
        if isinstance(action, e.LeasePages):
            pages, self.free = self.free[: action.count], self.free[action.count :]
            yield e.Leased(action.lease, pack_u32(pages), pack_u32([1] * len(pages)))
        elif isinstance(action, e.ReleasePages):
            self.free += unpack_u32(action.pages).tolist()

    def _take(self, deltas: Deltas) -> None:
        tokens = iter(unpack_u32(deltas.tokens).tolist())
        for request, count in zip(
            unpack_u64(deltas.requests).tolist(), unpack_u32(deltas.counts).tolist(), strict=True
        ):
            self.answers.setdefault(request, []).extend(itertools.islice(tokens, count))
        self.ended += len(deltas.finished)

    def submit(self, number: int, ids: list[int], tokens: int, stops: list[int]) -> None:
        """A request, without prefix cache."""
        message = Submit(number, pack_u32(ids), Sampling(), tokens, stop_token_ids=pack_u32(stops))
        self.feed(e.Submitted(e.Home("ingress@0", 1), message))

    def step(self) -> None:
        """The worker answers its oldest plan."""
        result = self.executor.run(self.plans.pop(0))
        self.drafted += sum(result.drafted)
        self.accepted += sum(result.drawn) - len(result.drawn)
        self.feed(e.StepDone(0, result))

    def decode(self) -> Run:
        """Until the first answer ends."""
        while len(self.answers) < self.rows:
            self.step()
        began, before = time.perf_counter(), sum(map(len, self.answers.values()))
        self.drafted = self.accepted = 0
        while not self.ended:
            self.step()
        drawn = sum(map(len, self.answers.values())) - before
        return Run(drawn / (time.perf_counter() - began), self.drafted, self.accepted, self.answers)


def same(answers: dict[int, list[int]], others: dict[int, list[int]]) -> bool:
    """As far as both go."""
    return all(
        all(left == right for left, right in zip(tokens, others[request], strict=False))
        for request, tokens in answers.items()
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--draft-model", default="")
    parser.add_argument("--how", nargs="+", default=["lookup"], choices=["lookup", "suffix", "draft"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--drafts", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench, lines, wrong = Bench(options), [], 0
    for rows in options.rows:
        runs: dict[Speculation, list[Run]] = {way: [] for way in ("off", *options.how)}
        for _ in range(options.repeats):
            for way, done in runs.items():
                done.append(bench.run(way, rows))
        plain = max(run.tokens_per_s for run in runs["off"])
        for way, done in runs.items():
            best = max(run.tokens_per_s for run in done)
            equal = all(same(run.answers, runs["off"][0].answers) for run in done)
            wrong += not equal
            drafted, accepted = sum(run.drafted for run in done), sum(run.accepted for run in done)
            lines.append(
                {
                    "rows": rows, "how": way, "tokens_per_s": round(best, 1), "ratio": round(best / plain, 3),
                    "spread": round(1 - statistics.median(run.tokens_per_s for run in done) / best, 3),
                    "drafted": drafted, "accepted": accepted, "same_tokens": equal,
                }
            )  # fmt: skip
            print(json.dumps(lines[-1]) if options.json else _line(lines[-1]), flush=True)
    return 1 if wrong else 0


def _line(line: dict[str, object]) -> str:
    share = f"{int(str(line['accepted'])) / int(str(line['drafted'])):.0%}" if line["drafted"] else "-"
    return (
        f"rows {line['rows']:>3}  {line['how']:<7} {line['tokens_per_s']:>7} tok/s  ratio {line['ratio']:<6} "
        f"spread {line['spread']:<6} drafts {line['drafted']:>5}, right {share:>4}  same tokens: {line['same_tokens']}"
    )


if __name__ == "__main__":
    sys.exit(main())
