"""The account of an upstream's answer: what it says, where that can be; else an estimate, which says that it is one.

An upstream counts with a tokeniser that is not known here, so its numbers are compared with what no tokeniser can do: a
token of text is at least a byte and hardly more than 64 of them, and a template adds some to every message. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ingress.streams import Usage
from ingress.upstreams.heard import Counted

BYTES_A_TOKEN: Final = 4  # of an estimate: between English prose (4.5) and code (3.3)
LONGEST_TOKEN: Final = 128  # bytes: the longest of the vocabularies of the field are runs of spaces
OVERHEAD: Final = 1024  # tokens that a template, with a system prompt of its own, may add to a call
SLACK: Final = 16  # tokens of an answer that leave no text: marks, the one that ends it


class Said(NamedTuple):
    """What is known of an answer without the upstream.

    Attributes:
        prompt_bytes, answer_bytes: of their texts; of the answer what is not thought.
        thought_bytes: of its thought.
        prompt_tokens: counted by a tokeniser of this host; 0 where there is none for it.
        answer_tokens: the same.
        limit: most tokens of the answer; None is any number.
        opaque: there is more in the prompt than text.
    """

    prompt_bytes: int
    answer_bytes: int
    thought_bytes: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    limit: int | None = None
    opaque: bool = False


def account(told: Counted | None, said: Said) -> Usage:
    """Of one answer. `estimated` where a number had to be found here."""
    told = told or Counted()
    prompt, completion = told.prompt, told.completion
    prompt_ok = prompt is not None and _prompt_can_be(prompt, said)
    reasoning = told.reasoning or 0
    thought_ok = completion is not None and 0 <= reasoning <= completion
    completion_ok = completion is not None and thought_ok and _answer_can_be(completion, reasoning, said)
    if not prompt_ok or prompt is None:
        prompt = said.prompt_tokens or estimate(said.prompt_bytes)
    if not completion_ok or completion is None:
        reasoning = estimate(said.thought_bytes)
        completion = (said.answer_tokens or estimate(said.answer_bytes)) + reasoning
    cached = told.cached or 0
    if not 0 <= cached <= prompt:
        cached = 0
    return Usage(prompt, completion, cached, reasoning, not (prompt_ok and completion_ok))


def estimate(size: int) -> int:
    """Tokens of a text of so many bytes."""
    return -(-size // BYTES_A_TOKEN)


def _prompt_can_be(tokens: int, said: Said) -> bool:
    if tokens < said.prompt_bytes // LONGEST_TOKEN or (tokens < 1 and said.prompt_bytes):
        return False
    if said.prompt_tokens and not said.opaque and tokens > 4 * said.prompt_tokens + OVERHEAD:
        return False
    return said.opaque or tokens <= said.prompt_bytes + OVERHEAD


def _answer_can_be(tokens: int, reasoning: int, said: Said) -> bool:
    """A thought may be hidden, so only what is not thought is compared with what was heard."""
    visible = tokens - reasoning
    most = said.answer_bytes + (0 if reasoning else said.thought_bytes) + SLACK
    least = said.answer_bytes // LONGEST_TOKEN
    if said.limit is not None and tokens > said.limit + SLACK:
        return False
    return least <= visible <= most and (visible > 0 or not said.answer_bytes)
