"""What is known of a model that may be asked, and of a call that wants an answer. Structs only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from bus.config.upstreams import Capability
from bus.prices import FREE, Price

Surface = Literal["chat.completions", "completions", "responses", "messages"]

EXPECTED_TOKENS = 256  # of an answer whose call names no limit, where models are compared by price


class Candidate(NamedTuple):
    """A model, as it is at this moment.

    Attributes:
        elsewhere: an upstream's.
        context_tokens: longest prompt and answer; 0 where that is not known yet.
        offers: capabilities beside those that every model has.
        refused: a parameter of the call at hand that it has no words for; empty where it has words for all.
        surfaces: endpoints whose calls it can answer.
        allowed: whether the caller may use it.
        standing: "ready"; "waiting", it is not, but who asks is made to wait for it; "shut", who asks is turned away.
        retry_s: where it is shut, for how long.
        price: per million tokens.
    """

    name: str
    elsewhere: bool = False
    context_tokens: int = 0
    offers: frozenset[Capability] = frozenset()
    refused: str = ""
    surfaces: frozenset[Surface] = frozenset({"chat.completions", "completions", "responses", "messages"})
    allowed: bool = True
    standing: Literal["ready", "waiting", "shut"] = "ready"
    retry_s: float = 0.0
    price: Price = FREE


class Asked(NamedTuple):
    """A call.

    Attributes:
        session: the same for all calls of a conversation, and hardly for others: 64 bits.
        call: drawn for this call alone: 64 bits.
        prompt_tokens: estimated.
        max_tokens: of the answer; None is what fits.
        needs: capabilities that it uses, each with the parameter that says so.
        text: the newest message of a user.
        project: whose it is.
    """

    session: int
    call: int
    prompt_tokens: int
    max_tokens: int | None = None
    needs: Mapping[Capability, str] = {}
    text: str = ""
    project: str = ""
    surface: Surface = "chat.completions"

    @property
    def expected_tokens(self) -> int:
        """Of the answer, for a comparison of prices."""
        return EXPECTED_TOKENS if self.max_tokens is None else min(self.max_tokens, EXPECTED_TOKENS)
