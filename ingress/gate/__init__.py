"""The gate: who asks, and whether they may, before anything is computed.

`keys` reads credentials, `roster` is the directory as the accounts process tells it, `leases` is what this ingress may
give out by itself, `estimate` guesses how long answers get, `scans` slows guessing down, `headers` tells clients where
they stand. All of these are pure. `gate` puts them together, `link` talks to the accounts process.
"""
