"""The newest batches, as a table or as JSON."""

from __future__ import annotations

import sys
import time

import msgspec
from rich.console import Console
from rich.table import Table

from bus.messages.batches import BatchObject
from cli.batch.api import Api, ApiFailed


def show(api: Api, limit: int, *, as_json: bool) -> int:
    """Print them. Exit code 1 where the server does not say."""
    try:
        found = api.batches(limit)
    except ApiFailed as error:
        print(error, file=sys.stderr)
        return 1
    if as_json:
        print(msgspec.json.encode(found).decode())
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("batch", "status", "made", "endpoint", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("lines", "answered", "failed", "tokens out"):
        table.add_column(name, justify="right")
    for batch in found.data:
        table.add_row(*_cells(batch))
    Console(highlight=False).print(table if found.data else "there are no batches")
    return 0


def _cells(batch: BatchObject) -> tuple[str, ...]:
    counts = batch.request_counts
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch.created_at))
    numbers = (counts.total, counts.completed, counts.failed, batch.usage.output_tokens)
    return (
        batch.id, batch.status.replace("_", " "), made, batch.endpoint, batch.model or "", *map(str, numbers)
    )  # fmt: skip
