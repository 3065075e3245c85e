"""`headrace run batch@host`: build the batch process and live its life."""

from __future__ import annotations

from pathlib import Path

from batch.service import BatchService
from bus.config import Config
from bus.process import run_process


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run until asked to stop.

    Returns:
        The exit code, see `bus.process`.
    """
    return run_process(name, config, config_path, BatchService, loop="uv")
