"""The matrix: what can be combined in a request and the stack behind it, and what is asked in each of its cells. Pure.

Behind a cell stands a model of its own speculation and number of ranks; all models of the stack have the same weights.
Adapter, grammar and sampling are the request's, a warm prefix is one that was asked for before, and a crash strikes in
the middle of the stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.catalogue import prose

Json = dict[str, Any]

FACTORS: Final[dict[str, tuple[str, ...]]] = {
    "crash": ("none", "worker", "scheduler", "kv", "ingress"),
    "speculation": ("off", "lookup", "suffix", "draft"),
    "sampling": ("greedy", "drawn", "penalised", "logprobs"),
    "adapter": ("base", "one", "two"),
    "grammar": ("free", "json", "regex"),
    "prefix": ("cold", "warm"),
    "ranks": ("1", "2"),
}

SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{20,40}$"},
        "kinds": {"type": "array", "minItems": 4, "maxItems": 6, "items": {"enum": ["old", "quiet", "green"]}},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
    "required": ["name", "kinds", "age"],
    "additionalProperties": False,
}
REGEX: Final = "([a-z]{3,9} ){16,24}[0-9]{8}"
_GRAMMAR: Final[dict[str, Json]] = {
    "free": {"max_tokens": 80, "ignore_eos": True},
    "json": {"max_tokens": 1000, "structured_outputs": {"json": SCHEMA}},
    "regex": {"max_tokens": 400, "structured_outputs": {"regex": REGEX}},
}
_SAMPLING: Final[dict[str, Json]] = {
    "greedy": {"temperature": 0},
    "drawn": {"temperature": 0.9, "top_p": 0.9, "seed": 5},
    "penalised": {
        "temperature": 0.7, "seed": 6, "repetition_penalty": 1.15, "presence_penalty": 0.3, "frequency_penalty": 0.2,
    },
    "logprobs": {"temperature": 1.0, "seed": 7, "logprobs": 3},
}  # fmt: skip
_ADAPTERS: Final = {"base": ("",), "one": ("a",), "two": ("a", "b")}
_PROMPT: Final = prose(3, 8)  # a hundred tokens, six pages


class Question(NamedTuple):
    """What decides every token of an answer, whoever computes it. `adapter` is empty for the base."""

    adapter: str
    grammar: str
    sampling: str

    def body(self, model: str, salt: str) -> Json:
        """As it is posted for a model of the stack. Prefixes are found under the same `salt` only. Log probabilities of
        what is drawn are always told: in them the last bit of anything shows."""
        return {
            "model": served(model, self.adapter), "prompt": _PROMPT, "cache_salt": salt, "return_token_ids": True,
            "include_timing": True, "logprobs": 0, **_GRAMMAR[self.grammar], **_SAMPLING[self.sampling],
        }  # fmt: skip


class Cell(NamedTuple):
    """One combination."""

    crash: str
    speculation: str
    sampling: str
    adapter: str
    grammar: str
    prefix: str
    ranks: str

    def __str__(self) -> str:
        return "-".join((self.crash, self.model, self.adapter, self.grammar, self.sampling, self.prefix))

    @property
    def model(self) -> str:
        """The one that is asked."""
        return self.speculation + self.ranks

    @property
    def questions(self) -> list[Question]:
        """What is asked at once: one for each adapter."""
        return [Question(adapter, self.grammar, self.sampling) for adapter in _ADAPTERS[self.adapter]]


def served(model: str, adapter: str) -> str:
    """The name under which an adapter of a model is served."""
    return f"{model}-{adapter}" if adapter else model


def models(weights: Path, drafter: Path, adapters: dict[str, Path]) -> str:
    """The `[[model]]` sections of the stack: each speculation on one rank and on two."""
    return "".join(
        f'[[model]]\nname = "{speculation}{ranks}"\nsource = "path:{weights}"\ndeterministic = true\n'
        f'dtype = "float32"\ntensor_parallel = {ranks}\nthreads = 1\nslots = 16\nspeculation = "{speculation}"\n'
        + (f'draft_model = "path:{drafter}"\n' if speculation == "draft" else "")
        + ("" if speculation == "off" else "draft_tokens = 4\n")
        + "".join(
            f'[[model.adapter]]\nname = "{served(speculation + ranks, name)}"\nsource = "path:{path}"\n'
            for name, path in adapters.items()
        )
        for speculation in FACTORS["speculation"]
        for ranks in FACTORS["ranks"]
    )
