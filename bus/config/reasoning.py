"""`[model.reasoning]`: how a model thinks before it answers, where its chat template does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from bus.config.section import Problem, Section, Where

EffortValue = Annotated[int, Meta(ge=0)] | dict[str, str | bool | int] | Literal["auto"]
"""A budget of tokens, or variables of the chat template."""

WHITE_SPACE: Final = 8  # characters after the mark that ends a thought; a grammar leaves no room for more


class EffortsConfig(Section, frozen=True):
    """`[model.reasoning.efforts]`: what `reasoning_effort` asks for, by its value. "auto": what the template can."""

    none: EffortValue = "auto"
    minimal: EffortValue = "auto"
    low: EffortValue = "auto"
    medium: EffortValue = "auto"
    high: EffortValue = "auto"
    xhigh: EffortValue = "auto"


class ReasoningConfig(Section, frozen=True):
    """`[model.reasoning]`.

    Attributes:
        tags: the marks that a thought stands between, or none where nothing is told apart; "auto" finds them in the
            chat template.
        closing: what is written when a thought has used up its budget; it ends with the second mark and white space.
            Empty is the mark on a line of its own.
        efforts: what `reasoning_effort` asks for.
    """

    tags: Literal["auto"] | tuple[str, ...] = "auto"
    closing: str = ""
    efforts: EffortsConfig = EffortsConfig()


def problems(reasoning: ReasoningConfig, where: Where) -> Iterator[Problem]:
    """What types cannot say."""
    tags, closing = reasoning.tags, reasoning.closing
    if tags != "auto" and (len(tags) not in (0, 2) or not all(tag.strip() == tag != "" for tag in tags)):
        yield (*where, "tags"), 'expected two marks without white space around them, ["<think>", "</think>"], or none'
    elif tags not in ("auto", ()) and tags[0] == tags[1]:
        yield (*where, "tags"), "the marks are the same: where would a thought end?"
    elif tags not in ("auto", ()) and closing and not closing.rstrip().endswith(tags[1]):
        yield (*where, "closing"), f"expected to end with {tags[1]!r}"
    if len(closing) - len(closing.rstrip()) > WHITE_SPACE or closing.rstrip() != closing.rstrip(" \n"):
        yield (*where, "closing"), f"expected at most {WHITE_SPACE} spaces and lines after the mark"
