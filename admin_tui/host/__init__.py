"""Screen 3: this machine. Cores by NUMA node, memory, pressure, GPUs where there are any, and the workers on them."""
