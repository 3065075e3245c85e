"""Quantised checkpoints in safetensors: what each format calls things and how it packs them.

One registry: a format's parser (`registry.FORMATS`) makes of a layer's tensors a `Matrix`, which is the same for all
formats; what computes takes from it what it can. So no kernel knows a format, and no format knows a kernel.

| a matrix of                                                   | CPU kernels  | GPU kernels (`weight`) | torch       |
|---------------------------------------------------------------|--------------|------------------------|-------------|
| 4 or 8 bits, groups of 32 inputs or multiples of it, in order | its own bits | its own bits           | dequantised |
| 4 or 8 bits otherwise (an order of its own, odd groups)       | dequantised  | dequantised            | dequantised |
| FP8                                                           | not chosen   | its own bits           | dequantised |

`config` reads what a config.json says, `directory` is a checkpoint as if it were not quantised. A layer is quantised if
it has the format's tensors: embeddings, heads and what a checkpoint leaves out are as they are, and experts are layers
like any other.
"""
