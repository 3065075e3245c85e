"""The semantic cache on public data: how many wrong answers it would serve, and what a lookup costs.

    pip install fow-cache==0.1.0
    python -m benchmarks.semantic_cache [--static DIRECTORY]

Pairs are judged by forests that have not seen them (`tests/ingress/cache_data`, made by `benchmarks.train_verifier`).
With the static vectors of `headrace cache prepare` lookups are timed: CPU of the ingress, of a question that stops at
the gate, in a partition of so many.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np

from bus.messages.requests import ModelFacts, Sampling
from bus.telemetry import Telemetry
from ingress.api import validate
from ingress.cache.database import Kept, Turn
from ingress.cache.keys import exact_key, history_key
from ingress.cache.semantic.calibration import Calibrations
from ingress.cache.semantic.eligible import history, question
from ingress.cache.semantic.features import broken, features
from ingress.cache.semantic.lookup import Semantic
from ingress.cache.semantic.static import StaticVectors
from ingress.cache.semantic.verifier import LEAST_COSINE, Forest, Verifier, shipped
from ingress.cache.semantic.words import words
from ingress.cache.spaces import Space
from ingress.cache.store import Store, now_ms
from ingress.job import Job
from ingress.models import ServedModel

DATA = Path(__file__).parents[1] / "tests/ingress/cache_data"
SPACE = Space("bench", True, False, 3600.0, semantic="on")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--static", type=Path, help="directory made by `headrace cache prepare`")
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 100, 1000, 2000, 4000, 50_000], help="of partitions")
    parser.add_argument("--only-lookups", action="store_true", help="time lookups, and judge nothing")
    options = parser.parse_args()
    pairs = [json.loads(line) for line in (DATA / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    if not options.only_lookups:
        judge(pairs)
        conversations()
    if options.static is not None:
        time_lookups(StaticVectors(options.static), pairs, options.rows)


def judge(pairs: list[dict[str, object]]) -> None:
    """What would be served, by threshold."""
    forests = [Verifier(one) for one in msgspec.json.decode((DATA / "folds.json").read_bytes(), type=list[Forest])]
    scores, cosines, guarded = [], [], []
    for pair in pairs:
        left, right = words(str(pair["a"])), words(str(pair["b"]))
        cosine = float(pair["cosine"])  # type: ignore[arg-type]
        row = features(left, right, cosine, float(pair["static_cosine"]), tuple(pair["near"]))  # type: ignore[arg-type]
        guarded.append(bool(broken(left, right)))
        cosines.append(cosine)
        scores.append(forests[int(pair["fold"])].score(row))  # type: ignore[call-overload]
    same = np.array([bool(pair["same_answer"]) for pair in pairs])
    score, closeness, free = np.array(scores), np.array(cosines), ~np.array(guarded)
    print("| what decides | same answer: served | traps: served |\n|---|---|---|")
    for least in (0.80, 0.92, 0.95):
        _line(f"cosine of {least:.2f}", closeness >= least, same)
        _line(f"cosine of {least:.2f} and guards", (closeness >= least) & free, same)
    possible = free & (closeness >= LEAST_COSINE)
    for least in (shipped().forest.threshold_5, 1.0, 1.29):
        _line(f"guards and verifier, threshold {least:.2f}", possible & (score > least), same)


def _line(name: str, served: np.ndarray, same: np.ndarray) -> None:
    good, bad, all_good, all_bad = (int(part.sum()) for part in (served & same, served & ~same, same, ~same))
    print(f"| {name} | {good} of {all_good} ({good / all_good:.1%}) | {bad} of {all_bad} ({bad / all_bad:.1%}) |")


def conversations() -> None:
    """Whether any two conversations with another answer have the same partition."""
    from fow_cache.data import load_conversations

    count = wrong = 0
    for pair in load_conversations():
        one, other = (_part(pair[side]) for side in ("a", "b"))
        count += 1
        wrong += one is not None and one == other and not pair["same_answer"]
    print(f"\n{count} pairs of conversations: {wrong} could be answered wrongly")


def _part(messages: object) -> bytes | None:
    body = json.dumps({"model": "m", "messages": messages, "temperature": 0})
    request = validate.chat_request(body.encode())
    rest = history(request)
    return history_key(_job(""), _model(), SPACE, rest) if rest is not None and question(request) is not None else None


def time_lookups(static: StaticVectors, pairs: list[dict[str, object]], rows: list[int]) -> None:
    """CPU of what happens before a question is a miss."""
    questions = sorted({str(pair[side]) for pair in pairs for side in ("a", "b")})
    request = validate.chat_request(_body("Which rivers flow through the north of Portugal?"))
    print("\n| partition of | exact lookup | gate, a miss | a question more in the index |\n|---|---|---|---|")
    for count in rows:
        with tempfile.TemporaryDirectory(prefix="hrc", dir="/tmp") as folder:
            store = Store(Path(folder), 256 << 20)
            semantic = Semantic(store, Calibrations(Path(folder)), static, None, "e", Telemetry())  # type: ignore[arg-type]
            turn = semantic.turn(request, _job(""), _MODEL, SPACE)
            assert turn is not None
            part = turn.part
            for number in range(count):
                text = f"{questions[number % len(questions)]} {number}"
                key = number.to_bytes(16, "little")
                gate = static.vector(text).astype(np.float16).tobytes()
                store.put(Kept(key, SPACE.name, 0, now_ms(), now_ms() + 10**7, b"x" * 400))
                store.add_turn(Turn(part, key, text, gate, bytes(768)))
                if number % 500 == 0:
                    store.settle()
            store.settle()
            begun = time.thread_time_ns()
            while semantic.read(part):
                pass
            added_us = (time.thread_time_ns() - begun) / 1000 / max(1, count)
            job = _job("the prompt of some request " * 8)

            def exact(job: Job = job, store: Store = store) -> None:
                assert store.get(exact_key(job, _MODEL, SPACE)) is None

            def gate_miss(semantic: Semantic = semantic, job: Job = job) -> None:
                asked = semantic.turn(request, job, _MODEL, SPACE)
                assert asked is not None
                assert not semantic.near(asked)[1]

            print(f"| {count:,} | {_cpu(exact):.0f} µs | {_cpu(gate_miss):.0f} µs | {added_us:.0f} µs |", flush=True)
            store.close()


def _cpu(what: Callable[[], None], times: int = 2000) -> float:
    for _ in range(20):
        what()
    begun = time.thread_time_ns()
    for _ in range(times):
        what()
    return (time.thread_time_ns() - begun) / times / 1000


def _body(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0}).encode()


def _job(text: str) -> Job:
    return Job(model="m", prompt=list(text.encode()) or [1], sampling=Sampling(temperature=0), max_tokens=64)


def _model() -> ServedModel:
    tokenizer = SimpleNamespace(other_names=(), control_names=(), control_ids=())  # none is needed for a key
    model = ServedModel("m", tokenizer, None, context_tokens=512)  # type: ignore[arg-type]
    model.facts = ModelFacts("m", bytes(range(16)), 16, 512, 300, 1, 1)
    return model


_MODEL = _model()


if __name__ == "__main__":
    main()
