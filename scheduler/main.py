"""scheduler@MODEL: decide what the replicas of one model compute."""

from __future__ import annotations

from pathlib import Path

from bus.config import Config
from bus.names import parse_process
from bus.process import run_process
from scheduler.service import SchedulerService


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run the scheduler of a model; returns its exit code.

    Raises:
        ConfigError: no model of that name is configured.
    """
    config.model_named(parse_process(name).instance)
    return run_process(name, config, config_path, SchedulerService, loop="poll")
