"""How tokens are drawn: as a request says, or, where it says nothing, as its model's publisher recommends.

What is recommended belongs together: a request that names any of the four numbers is taken at its word, and the others
are OpenAI's defaults.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from bus.config import SamplingConfig

log = logging.getLogger(__name__)

NAMES: Final = ("temperature", "top_p", "top_k", "min_p")
# https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py, general.sampling
_GGUF: Final = {"general.sampling.temp": "temperature"} | {f"general.sampling.{name}": name for name in NAMES[1:]}


class Drawing(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Temperature and truncation, complete. The defaults are OpenAI's, and leave the model's distribution as it is."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


class Asks(Protocol):
    """What a request says of it."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def min_p(self) -> float | None: ...


def drawing_of(request: Asks, recommended: Drawing) -> Drawing:
    """What a request is drawn with."""
    temperature, top_p, top_k, min_p = request.temperature, request.top_p, request.top_k, request.min_p
    if temperature is top_p is top_k is min_p is None:
        return recommended
    return Drawing(
        1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p, max(0, top_k or 0), min_p or 0.0
    )  # -1 is off too


def recommended_by(*said: SamplingConfig) -> Drawing:
    """Of those who say something of a number, the first counts."""
    found = {}
    for name in NAMES:
        numbers = (getattr(one, name) for one in said)
        if (number := next((number for number in numbers if number is not None), None)) is not None:
            found[name] = number
    return Drawing(**found)


def said_by_gguf(metadata: Mapping[str, object], file: Path) -> SamplingConfig:
    """What a GGUF file recommends."""
    return _said({name: metadata[key] for key, name in _GGUF.items() if key in metadata}, file)


def said_by_directory(generation: Mapping[str, object], file: Path) -> SamplingConfig:
    """What a generation_config.json recommends; nothing where it says that nothing is drawn."""
    if generation.get("do_sample") is False:
        return SamplingConfig()
    return _said({name: generation[name] for name in NAMES if name in generation}, file)


def _said(numbers: Mapping[str, object], file: Path) -> SamplingConfig:
    try:
        return msgspec.convert(numbers, SamplingConfig)
    except msgspec.ValidationError as error:
        # The publisher's mistake is no reason not to serve the model.
        log.warning("%s: what it recommends for sampling is not used: %s", file, error)
        return SamplingConfig()
