"""Models: what one is (`architecture`), read from files (`config`), which families there are (`families`), how a
decoder is wired from torch's layers (`wiring`) or run by the kernels (`packed`), how one is built (`load`).

`interface` is what the step executor sees. Nothing here knows messages, slots or sampling.
"""
