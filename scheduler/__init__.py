"""The scheduler: one process per served model. It decides what every replica computes next, and nothing else.

`core/` decides and is pure; `service.py` owns the sockets around it; `main.py` puts the two together.
"""
