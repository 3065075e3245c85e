"""What decoders are wired from, once for each kind of device: `plain` is torch's operators, `fused` the GPU's kernels.

`interface` is what both are. Which one serves is decided in `workers.models.load.build`.
"""
