"""Qwen2 and 2.5 (arXiv:2407.10671): biases on q, k and v. Qwen3 and Qwen3-MoE (arXiv:2505.09388): norms on q and k."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from workers.models.architecture import Architecture
from workers.models.config_gguf import Metadata
from workers.models.config_hf import HfConfig
from workers.models.families.family import Family


def _windows(config: HfConfig, path: Path) -> tuple[int, ...]:
    if not config.use_sliding_window:
        return ()
    return config.windows(path, lambda layer: layer >= config.max_window_layers)


def _qwen2(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    return replace(base, qkv_bias=True, windows=_windows(config, path))


def _qwen3(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    return replace(base, qk_norm=True, windows=_windows(config, path))


def _qwen3_moe(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    # Here a window is of all layers.
    windows = config.windows(path, lambda _: True) if config.use_sliding_window else ()
    return replace(base, qk_norm=True, windows=windows, experts=config.experts(config.norm_topk_prob))


def _normed(metadata: Metadata, base: Architecture) -> Architecture:  # noqa: ARG001
    return replace(base, qk_norm=True)


QWEN2: Final = Family(name="qwen2", gguf_name="qwen2", hf=_qwen2)
QWEN3: Final = Family(name="qwen3", gguf_name="qwen3", hf=_qwen3, gguf=_normed)
QWEN3_MOE: Final = Family(name="qwen3_moe", gguf_name="qwen3moe", hf=_qwen3_moe, gguf=_normed)
