"""The requests that the load is drawn from. Fixed, so that the undisturbed answer of each is computed once and every
answer can be compared with it, byte for byte.

Everything that decides a token or a character is in here somewhere: greedy and seeded draws, every truncation, every
penalty, stops of all kinds, log probabilities, several choices, long prompts, prefixes that others share, turns of one
conversation. Texts are made of sentences and not of random tokens: a model that is unsure of everything is decided by
the last bits of its floats.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any, Final, Literal

import msgspec

MODEL: Final = "smollm2"
ADAPTER: Final = "sailor"  # random numbers, under a name of its own

# One of each kind, for a run that has two minutes.
_BRIEF: Final = frozenset(
    {
        "greedy-story", "greedy-chat", "seeded", "seeded-min-p", "repetition", "presence", "biased", "stop-string",
        "stop-late", "stop-included", "stop-token", "stop-chat", "logprobs", "logprobs-chat", "echo", "prompt-logprobs",
        "three", "two-prompts", "prefix-0", "prefix-1", "prefix-salted", "long-a", "long-b", "turn-0", "turn-1",
        "schema", "copied", "best-of", "beams", "adapted",
    }
)  # fmt: skip

Operation = Literal["chat.completions", "completions"]


class Entry(msgspec.Struct, frozen=True):
    """One request. `body` is what is posted, without `stream`; `streams` is false where it may not be a stream."""

    name: str
    operation: Operation
    body: dict[str, Any]
    streams: bool = True


def catalogue() -> list[Entry]:
    """All of them, in a fixed order."""
    return [
        *_greedy(),
        *_sampled(),
        *_stopping(),
        *_observed(),
        *_choices(),
        *_prefixes(),
        *_long(),
        *_turns(),
        *_shaped(),
    ]


def brief() -> list[Entry]:
    """Some of them."""
    return [entry for entry in catalogue() if entry.name in _BRIEF]


def digest(entries: list[Entry]) -> str:
    """Of the whole catalogue: what was computed for another one is of no use."""
    return hashlib.blake2b(msgspec.json.encode(entries, order="deterministic"), digest_size=8).hexdigest()


def _completion(name: str, prompt: Any, tokens: int, *, streams: bool = True, **parameters: Any) -> Entry:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "return_token_ids": True, **parameters}
    return Entry(name, "completions", body, streams)


def _chat(name: str, messages: list[tuple[str, str]], tokens: int, *, streams: bool = True, **parameters: Any) -> Entry:
    said = [{"role": role, "content": content} for role, content in messages]
    body = {"model": MODEL, "messages": said, "max_tokens": tokens, "return_token_ids": True, **parameters}
    return Entry(name, "chat.completions", body, streams)


def _greedy() -> list[Entry]:
    beginnings = {
        "story": "Once upon a time", "code": "def fibonacci(n):", "list": "The three primary colours are",
        "facts": "The capital of France is Paris. The capital of Italy is", "count": "1, 2, 3, 4,",
    }  # fmt: skip
    return [
        _completion(f"greedy-{name}", text, 48, temperature=0, ignore_eos=True) for name, text in beginnings.items()
    ] + [_chat("greedy-chat", [("user", "Name three colours.")], 40, temperature=0)]


def _sampled() -> list[Entry]:
    return [
        _completion("seeded", "In the year 2050,", 56, seed=11, temperature=0.9, top_p=0.9, ignore_eos=True),
        _completion("seeded-hot", "Once upon a time", 48, seed=12, temperature=1.4, top_k=40, ignore_eos=True),
        _completion("seeded-min-p", "The old sailor said:", 48, seed=13, temperature=1.1, min_p=0.08, ignore_eos=True),
        _completion(
            "repetition", "def add(a, b):", 56, seed=14, temperature=0.8, repetition_penalty=1.15, ignore_eos=True
        ),
        _completion(
            "presence", "I like apples, pears and", 56, seed=15, temperature=0.9, presence_penalty=0.8,
            frequency_penalty=0.4, ignore_eos=True,
        ),
        _completion("greedy-penalised", "One, two,", 48, temperature=0, frequency_penalty=0.7, ignore_eos=True),
        _completion(
            "biased", "My favourite animal is", 32, seed=16, temperature=0.9, ignore_eos=True,
            logit_bias={"28": -100, "30": -5, "284": 2},
        ),
        _chat("seeded-chat", [("user", "Tell me a short story about a lighthouse.")], 80, seed=17, temperature=0.8),
        _completion("long-answer", "Chapter one. The", 160, seed=18, temperature=0.9, top_p=0.95, ignore_eos=True),
    ]  # fmt: skip


def _stopping() -> list[Entry]:
    return [
        _completion("stop-string", "1, 2, 3, 4, 5,", 64, temperature=0, stop=[" 17", "twenty"]),
        _completion("stop-late", "1, 2, 3, 4, 5,", 64, temperature=0, stop=[","], min_tokens=20),
        _completion(
            "stop-included", "The quick brown fox", 64, seed=21, temperature=0.8, stop=[".", "\n\n"],
            include_stop_str_in_output=True,
        ),
        _completion("stop-token", "Dear Sir,", 64, seed=22, temperature=0.9, stop_token_ids=[30, 198], min_tokens=8),
        _chat(
            "stop-chat", [("system", "Answer in one sentence."), ("user", "Why is the sky blue?")], 64, seed=23,
            temperature=0.7, stop=["sun", "light"], min_tokens=4,
        ),
        _chat("natural-end", [("user", "Say hello.")], 64, temperature=0),
    ]  # fmt: skip


def _observed() -> list[Entry]:
    return [
        _completion("logprobs", "The moon is", 32, temperature=0, logprobs=3, ignore_eos=True),
        _completion("logprobs-seeded", "Water boils", 32, seed=31, temperature=0.9, logprobs=2, ignore_eos=True),
        _chat(
            "logprobs-chat", [("user", "Count to five.")], 32, seed=32, temperature=0.7, logprobs=True, top_logprobs=2
        ),
        _completion("echo", "Roses are red,", 24, temperature=0, echo=True, logprobs=1, ignore_eos=True),
        _completion(
            "prompt-logprobs", "Every good boy deserves", 16, temperature=0, prompt_logprobs=1, ignore_eos=True,
            streams=False,
        ),
    ]  # fmt: skip


def _choices() -> list[Entry]:
    return [
        _completion("three", "The best way to learn is", 32, seed=41, temperature=0.9, n=3, ignore_eos=True),
        _chat("two-chat", [("user", "Invent a name for a cat.")], 24, seed=42, temperature=1.0, n=2),
        _completion(
            "two-prompts", ["The first thing is", "The last thing is"], 24, seed=43, temperature=0.8, ignore_eos=True
        ),
    ]


def _prefixes() -> list[Entry]:
    """Two hundred tokens that all of them share, and one salted so that it shares them with nobody."""
    rules = "You are a guide. " + prose(1, 22)
    asked = ["Where do we go first?", "What should I bring?", "Who lives there?"]
    entries = [
        _chat(f"prefix-{at}", [("system", rules), ("user", text)], 32, seed=50 + at, temperature=0.8)
        for at, text in enumerate(asked)
    ]
    salted = _chat(
        "prefix-salted", [("system", rules), ("user", asked[0])], 32, seed=50, temperature=0.8, cache_salt="mine"
    )
    return [*entries, salted]


def _long() -> list[Entry]:
    """Over a thousand tokens of prompt; two of them go on differently after the same thousand."""
    book = prose(2, 125)
    return [
        _completion("long-greedy", prose(3, 125) + "In short,", 40, temperature=0, ignore_eos=True),
        _completion("long-a", book + "The moral is", 40, seed=61, temperature=0.8, ignore_eos=True),
        _completion("long-b", book + "The next day", 40, seed=62, temperature=0.8, ignore_eos=True),
    ]


def _turns() -> list[Entry]:
    """A conversation, turn by turn: each prompt begins with the one before."""
    said = [
        ("user", "I want to plant a garden. What do I need?"),
        ("assistant", "You need good soil, seeds, water, sunlight and a little patience."),
        ("user", "Which vegetables are the easiest?"),
        ("assistant", "Radishes, lettuce and beans grow quickly and forgive most mistakes."),
        ("user", "When should I plant them?"),
    ]
    return [_chat(f"turn-{at}", said[: 2 * at + 1], 40, seed=70 + at, temperature=0.7) for at in range(3)]


def _shaped() -> list[Entry]:
    """What follows a grammar, has drafts that are right, is the best of several, is searched for, or has an adapter."""
    person = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": person}}
    date = {"regex": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}
    text = prose(4, 6)
    return [
        _chat("schema", [("user", "Describe a person.")], 80, seed=81, temperature=0.8, response_format=form),
        _completion("expression", "The date is", 24, seed=82, temperature=0.9, structured_outputs=date),
        _completion("copied", text + text[: len(text) // 3], 64, temperature=0, ignore_eos=True),
        _completion(
            "best-of", "My favourite place is", 24, seed=83, temperature=0.9, n=2, best_of=3, ignore_eos=True,
            streams=False,
        ),
        _completion(
            "beams", "The sea is", 12, n=2, use_beam_search=True, beam_width=2, ignore_eos=True, streams=False
        ),
        _completion("adapted", "The captain said:", 48, model=ADAPTER, seed=84, temperature=0.8, ignore_eos=True),
    ]  # fmt: skip


_NOUNS: Final = (
    "river", "miller", "lantern", "harbour", "teacher", "forest", "engine", "garden", "soldier", "winter", "letter",
    "bridge", "horse", "island", "mountain", "market", "captain", "library", "storm", "village",
)  # fmt: skip
_ADJECTIVES: Final = (
    "old", "quiet", "green", "heavy", "distant", "bright", "narrow", "patient", "broken", "golden", "cold", "clever",
)  # fmt: skip
_VERBS: Final = (
    "follows", "remembers", "watches", "carries", "crosses", "repairs", "forgets", "paints", "counts", "visits",
)  # fmt: skip


def prose(seed: int, sentences: int) -> str:
    """Plain sentences, about ten tokens each, the same ones for the same seed."""
    draw = Random(seed)
    return "".join(
        f"The {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)} {draw.choice(_VERBS)} "
        f"the {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)}. "
        for _ in range(sentences)
    )
