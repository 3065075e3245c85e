"""Granite 3 (IBM): llama with multipliers on embedding, scores, residual stream and logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from workers.models.architecture import Architecture
from workers.models.config_gguf import Metadata
from workers.models.config_hf import HfConfig
from workers.models.families.family import Family


def _hf(config: HfConfig, base: Architecture, path: Path) -> Architecture:  # noqa: ARG001
    return replace(
        base,
        embedding_scale=config.embedding_multiplier,
        query_scale=config.attention_multiplier,
        residual_scale=config.residual_multiplier,
        logit_scale=1.0 / config.logits_scaling,
    )


def _gguf(metadata: Metadata, base: Architecture) -> Architecture:
    return replace(
        base,
        embedding_scale=metadata.number(".embedding_scale"),
        query_scale=metadata.number(".attention.scale"),
        residual_scale=metadata.number(".residual_scale"),
        logit_scale=1.0 / metadata.number(".logit_scale"),
    )


GRANITE: Final = Family(name="granite", gguf_name="granite", hf=_hf, gguf=_gguf, permuted=True)
