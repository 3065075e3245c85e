"""Weight files: reading them (`gguf_file`, `safetensors_dir`), identifying them (`digest`), the one loader that knows
every rule about names, layouts, fusing and sharding (`loader`), and the ready-to-run tensors that come out of it
(`prepared`), kept in a file that all processes map (`store`).

Layers and models know none of these rules: they get tensors of the shape they compute with.
"""
