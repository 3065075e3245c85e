"""Attention over paged KV (vLLM, arXiv:2309.06180), straight on pages of the arena's layout: there is no second one.

`interface` is what a model calls; `paged` does it with torch on a CPU, `triton` with Triton's kernels on a GPU.
"""
