"""Adapters of low rank (LoRA, arXiv:2106.09685) beside the weights: `W x` becomes `W x + scale * B (A x)`.

| module | what it is |
|---|---|
| `config` | adapter_config.json of PEFT: what it asks for, and what of that is refused |
| `fit` | which tensors an adapter of a model may have, and what of each a rank computes with |
| `reader` | from a directory to an `Adapter`, or to `BadAdapter` |
| `adapter` | one in memory, as torch or the kernels multiply with it |
| `layers` | torch's products with adapters of the step's tokens added |
| `shelf` | those that are there, by number; loaded beside the steps |

Which adapters are there at any time, the scheduler says (`scheduler.core.adapters`).
"""
