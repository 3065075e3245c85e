"""What the GPU's kernels reach of what the GPU can do. `python -m benchmarks.gpu` runs it; needs an NVIDIA GPU."""
