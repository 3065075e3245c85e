"""Releases of headrace, side by side in one directory: made, switched to, gone back from, removed.

    /opt/headrace/releases/0.1.0-1f0c9a3e/   a virtual environment, and release.json once it is whole
    /opt/headrace/current                    a link to one of them; units and /usr/bin/headrace go through it

| module | what |
|---|---|
| `decisions.py` | which release to go back to, which to remove, whether to switch; pure |
| `shelf.py` | the directory: what is on it, the switch, the lock |
| `wheel.py` | what a wheel of headrace says of itself, and the locks with hashes that it carries |
| `making.py` | a virtual environment from a wheel, and whether it is usable |
| `rolling.py` | what runs here restarts as a release, by `headrace up`'s supervisor or by systemd |
| `commands.py` | `headrace release ...` and `headrace rollback` |
| `selfcheck.py` | run by a new release's own Python: can it import its roles? |

Everything but `app.py` and `selfcheck.py` needs nothing beyond Python itself, since the first release is made by a bare
one, straight from the wheel: `PYTHONPATH=headrace.whl python3 -m cli.release headrace.whl`. Another release is never
imported, only its commands are run.
"""
