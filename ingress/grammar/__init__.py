"""Structured output: from what a request asks for to a grammar that is known to fit.

| module | what it is |
|---|---|
| `wanted.py` | what a request asks its answer to be, under any of the names that the field has for it |
| `schema.py` | which JSON Schemas can be followed, and what of one cannot |
| `plain.py` | schemas with other words for what cannot be followed as it is said |
| `references.py`, `logic.py` with `complement.py`, `unevaluated.py` | ... rule by rule |
| `narrow.py`, `formats.py` | what is followed by allowing less than there may be |
| `parts.py` | where schemas are within a schema, and how many may be looked at |
| `writing.py` | grammars as llguidance reads them |
| `trial.py`, `frames.py`, `tried.py` | each is tried once, in a process with bounds of its own |

Following one is the workers' (`workers/sampling/grammar.py`).
"""
