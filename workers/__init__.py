"""The worker process: weights, attention, sampling. It executes step plans and decides nothing.

`models/`, `layers/`, `attention/`, `weights/` are the forward pass and know no process around them; `sampling/`,
`slots.py`, `execute.py`, `group.py`, `process.py` and `main.py` are the process that runs it.
"""
