"""What routing costs an ingress: microseconds of one core for a decision, with what it is decided by, and for an event
of an upstream's stream.

    python -m benchmarks.router

Nothing is started: the parts are called as the pipeline calls them. The decision is measured with few and with many
conversations known and keys about, as it must not depend on either.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

from bus.config.routes import RouteConfig, RuleConfig, TargetConfig
from ingress.api import validate
from ingress.api.jobs import Caller
from ingress.router.candidate import Asked, Candidate
from ingress.router.decide import Policy, decide
from ingress.router.pins import Pin, Pins
from ingress.routing import _asked
from ingress.upstreams.openai import Reader
from ingress.upstreams.sse import Events

ROUNDS = 7


def best_us(work: Callable[[], object], times: int) -> float:
    """Of several rounds the best one, for a call of `work`."""
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - begun) / times * 1e6)
    return min(found)


def policy(models: int, rules: int) -> Policy:
    """A route of so many targets and rules."""
    names = [f"model-{number}" for number in range(models)]
    return Policy(
        RouteConfig(
            name="auto",
            target=tuple(TargetConfig(model=name, weight=1.0 + at) for at, name in enumerate(names)),
            rule=tuple(
                RuleConfig(name=f"r{at}", models=(names[0],), contains=f"never-{at}", prompt_tokens_above=at)
                for at in range(rules)
            ),
            canary=names[-1], canary_share=0.01,
        )
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    words = "The quick brown fox jumps over the lazy dog. " * 8
    turns = [{"role": ("user", "assistant")[at % 2], "content": words} for at in range(39)]
    body = json.dumps({"model": "auto", "messages": turns}).encode()
    chat = validate.chat_request(body)
    caller = Caller("org/project", "owner", 0, key="k")
    print(f"body of {len(body)} bytes, {len(turns)} messages")
    us = best_us(lambda: _asked(chat, chat, "chat.completions", caller), 300)
    print(f"what is read off a call         {us:7.1f} us")
    asked = Asked(session=12345, call=6, prompt_tokens=3000, text=words)
    for models, rules in ((2, 0), (8, 0), (8, 8)):
        route = policy(models, rules)
        candidates = {name: Candidate(name, context_tokens=8192) for name in route.models}
        us = best_us(partial(decide, route, asked, candidates), 2000)
        print(f"decision, {models} models, {rules} rules    {us:7.1f} us")
    route = policy(8, 0)
    candidates = {name: Candidate(name, context_tokens=8192) for name in route.models}
    for conversations in (10, 16_384):
        pins, allowed = Pins(), frozenset(f"model-{at}" for at in range(conversations))
        for session in range(conversations):
            pins.put("auto", session, Pin("model-1", 100, 0))

        def one(pins: Pins = pins, allowed: frozenset[str] = allowed) -> object:
            known = {name: each._replace(allowed=name in allowed) for name, each in candidates.items()}
            return decide(route, asked, known, pins.of("auto", asked.session, 0, 600.0))

        print(f"the same, {conversations:6} conversations {best_us(one, 1000):7.1f} us")
    event = {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": " word"}}]}
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for _ in range(100))

    def read() -> None:
        reader, events = Reader(), Events()
        for each in events.feed(stream):
            reader.read(each)

    print(f"an event of a stream, read      {best_us(read, 50) / 100:7.2f} us")


if __name__ == "__main__":
    main()
