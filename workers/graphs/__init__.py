"""Decode steps that are recorded once and played back: on a GPU a hundred launches become one.

`book` decides which steps, purely. `runner` is the model that keeps to it. What records is `recorder`.
"""
