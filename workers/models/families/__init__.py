"""The model families: one declaration each, of what differs from llama. `FAMILIES` lists them.

A family is a `Family`: what it is called, what its files call their tensors, and two functions that add its own numbers
to an `Architecture`, from config.json and from GGUF metadata. Nothing here computes: `workers.models.wiring` builds
every decoder from the numbers alone. A new dense family is a declaration in a module here, and a line in `FAMILIES`;
if it computes what no other family does, also a field of `Architecture` and its place in `wiring`.
"""

from __future__ import annotations

from typing import Final

from workers.models.families import gemma, granite, llama, phi, qwen
from workers.models.families.family import Family

__all__ = ["FAMILIES", "Family", "family_of_gguf", "family_of_hf", "supported"]

FAMILIES: Final = {
    family.name: family
    for family in (
        llama.LLAMA,
        llama.MISTRAL,
        llama.MIXTRAL,
        qwen.QWEN2,
        qwen.QWEN3,
        qwen.QWEN3_MOE,
        gemma.GEMMA2,
        gemma.GEMMA3,
        phi.PHI3,
        granite.GRANITE,
    )
}
_BY_GGUF: Final = {family.gguf_name: family for family in FAMILIES.values() if family.gguf_name}
_BY_HF: Final = {family.hf_name or family.name: family for family in FAMILIES.values()}


def family_of_gguf(architecture: str) -> Family | None:
    """By llama.cpp's name of the architecture."""
    return _BY_GGUF.get(architecture)


def family_of_hf(model_type: str) -> Family | None:
    """By transformers' model type."""
    return _BY_HF.get(model_type)


def supported() -> tuple[str, ...]:
    """Names of all families."""
    return tuple(FAMILIES)
