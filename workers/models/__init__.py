"""Model architectures: what they are (`config`), how they are wired (`llama`, `qwen2`), how one is built (`load`).

`interface` is what the step executor sees. Nothing here knows messages, slots or sampling.
"""
