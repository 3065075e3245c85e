"""Weight files: reading them (`gguf_file`, `safetensors_dir`), identifying them (`digest`), and the one loader that
knows every rule about names, layouts, fusing and sharding (`loader`).

Layers and models know none of these rules: they get tensors of the shape they compute with.
"""
