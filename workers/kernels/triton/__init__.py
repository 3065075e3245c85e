"""The GPU's kernels, in Triton, each with a reference in torch beside it. Docs: docs/gpu.md.

| file          | what                                                                             |
|---------------|----------------------------------------------------------------------------------|
| `decode`      | attention of few query tokens: splits of fixed length, and their merge           |
| `prefill`     | attention of chunks                                                              |
| `attend`      | a tile of keys, which both do the same with                                      |
| `rotary`      | norm and rotation of queries and keys, and KV into its pages                     |
| `norm`, `activation` | RMSNorm after the residual, SwiGLU; quantised rows too                     |
| `product`, `quantise`, `dequantise` | products with quantised weights, and what stands around them          |
| `embedding`   | both ends of a vocabulary that ranks share out                                   |
| `sample`      | from logits to tokens                                                            |
| `numerics`    | what all of them round with, on a GPU and in the interpreter                     |
| `tuning`      | the table of configurations, `tuned/*.toml`                                      |
| `launch`      | the one place that kernels are launched from                                     |
| `aot`         | what the compiler makes of a launch for a GPU that is not there                  |

The reference of attention is `workers.attention.paged`, that of drawing `workers.sampling`. Where Triton's interpreter
runs is said before the first import of Triton: `TRITON_INTERPRET=1`.
"""
