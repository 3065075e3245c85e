"""Weight files: reading them (`gguf_file`, `safetensors_dir`), identifying them (`digest`), the one loader that knows
every rule about names, layouts, fusing and sharding (`loader`), and the ready-to-run tensors that come out of it
(`prepared`), kept in a file that all processes map (`store`). `packed` is what the kernels read; floats are rounded for
them to 4 bits (`rounding`), by what a text leaves at each matrix (`calibration`, `calibrated`).

Layers and models know none of these rules: they get tensors of the shape they compute with.
"""
