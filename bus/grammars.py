"""Bounds of grammars, the same wherever one is read. They count work and not time, so a grammar that was found to fit
fits everywhere, and an answer that is begun again elsewhere goes the same way.

The numbers are llguidance's `LLParserLimits`. One mask costs at most about 4 ms of lexing and 1 ms of parsing with
these, whatever the grammar, and the states that a request's lexer may build up are 40 MB.
"""

from __future__ import annotations

from typing import Final, TypedDict


class Limits(TypedDict):
    """Of one grammar; see llguidance's own documentation for each."""

    max_items_in_row: int
    initial_lexer_fuel: int
    step_lexer_fuel: int
    step_max_items: int
    max_lexer_states: int
    max_grammar_size: int
    precompute_large_lexemes: bool
    verbose_errors: bool


LIMITS: Final = Limits(
    max_items_in_row=1000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)

MAX_TEXT: Final = 256 << 10  # characters of one
