"""Attention over paged KV (vLLM, arXiv:2309.06180), straight on the arena's pages: no second copy of KV exists.

`interface` is what a model calls; `paged` does it with torch on a CPU.
"""
