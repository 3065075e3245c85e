"""Qwen2 and Qwen2.5 (arXiv:2407.10671): llama's wiring. Their biases on q, k and v come with the weights."""

from __future__ import annotations

from workers.models.llama import build

__all__ = ["build"]
