"""`headrace bench --ceilings`: what the host can do at most, measured once, while no request runs.

Only whoever runs a host knows when it is quiet, and a ceiling that was measured on a busy one would be wrong for
months: so it is measured when somebody says so, never by itself. The metrics process finds the result within ten
seconds.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec
from rich.console import Console
from rich.table import Table

from bus.ceilings import Ceilings, ceilings_file
from bus.messages.observe import GetSnapshot, Snapshot
from cli.control import Caller, Unreachable
from cli.observer import ask


def measure_host(*, as_json: bool) -> int:
    """Measure, keep and print it. Exit code 1 where requests run, or it cannot be measured."""
    if running := _requests_running():
        print(
            f"{running} requests are in hand: they would share the machine with the measurement, and suffer from it. "
            "Try again when nothing runs",
            file=sys.stderr,
        )
        return 1
    done = subprocess.run([sys.executable, "-m", "workers.ceilings"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        print("the host could not be measured", file=sys.stderr)
        return 1
    found = msgspec.json.decode(done.stdout, type=Ceilings)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return 0
    console = Console(highlight=False)
    console.print(f"{found.processor}, {found.cores} cores", markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("reads memory", f"{found.read_bytes_per_s / 1e9:,.1f} GB/s")
    for kind, operations in found.operations_per_s.items():
        table.add_row(f"multiplies {kind}", f"{operations / 1e9:,.0f} GFLOP/s")
    console.print(table)
    console.print(f"kept in {ceilings_file()}; headrace status shows what models reach of it", markup=False)
    return 0


def _requests_running() -> int:
    """In the hands of the schedulers; 0 where nobody says."""
    try:
        with Caller() as caller:
            return ask(caller, GetSnapshot(1), Snapshot, 2.0).requests_total
    except Unreachable:
        return 0
