"""supervisor@host: hold the arena, keep the fleet alive."""

from __future__ import annotations

from pathlib import Path

from bus.config import Config
from bus.process import run_process
from cli.supervisor.service import SupervisorService


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run the supervisor; returns its exit code."""
    return run_process(name, config, config_path, SupervisorService, loop="poll")
