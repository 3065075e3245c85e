"""`[model.sampling]`: how tokens are drawn for requests that say nothing of it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from bus.config.section import Section


class SamplingConfig(Section, frozen=True):
    """`[model.sampling]`. What is left out is as the model's publisher recommends, or else OpenAI's default.

    Attributes:
        temperature: 0 is greedy.
        top_p, top_k, min_p: truncation; 1, 0 and 0 are off.
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
