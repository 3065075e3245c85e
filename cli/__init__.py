"""The `headrace` command: what an operator types, and the local supervisor behind `headrace up`.

Nothing here serves a request. `main` names the commands and imports each one only when it is called, so that
`headrace --help` answers at once; `supervisor/` keeps a host's processes alive where systemd does not; `store/` fetches
models; `bench/` loads a running stack and measures it.
"""
