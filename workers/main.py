"""worker@MODEL.REPLICA.RANK: load a rank's weights, map the arena, execute step plans."""

from __future__ import annotations

import logging
from pathlib import Path

from bus import logs
from bus.config import Config, ConfigError
from bus.names import InvalidName
from bus.process import EXIT_CONFIG, run_process
from workers.host import Unsuitable, assign
from workers.process import WorkerService

log = logging.getLogger(__name__)


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run a worker; returns its exit code."""
    try:
        assignment = assign(name, config)
    except (InvalidName, ConfigError, Unsuitable) as error:
        logs.set_up(name, config.log)
        log.critical("%s", error)
        return EXIT_CONFIG
    return run_process(name, config, config_path, lambda life: WorkerService(life, assignment), loop="poll")
