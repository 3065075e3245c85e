"""worker@MODEL.REPLICA.RANK: load a rank's weights, map the arena, execute step plans.

standby@MODEL.REPLICA.RANK is the same process up to there, and becomes it when its name is free.
"""

from __future__ import annotations

import logging
from pathlib import Path

from bus import logs
from bus.config import Config, ConfigError
from bus.identity import Claim
from bus.names import InvalidName, parse_process, worker_of
from bus.process import EXIT_CONFIG, run_process
from workers.host import Unsuitable, assign
from workers.loading import Model
from workers.process import WorkerService
from workers.standby import StandbyService

log = logging.getLogger(__name__)


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run a worker, or a standby and the worker that becomes of it; returns its exit code."""
    try:
        assignment = assign(name, config)
    except (InvalidName, ConfigError, Unsuitable) as error:
        logs.set_up(name, config.log)
        log.critical("%s", error)
        return EXIT_CONFIG
    if parse_process(name).role != "standby":
        return run_process(name, config, config_path, lambda life: WorkerService(life, assignment), loop="poll")
    worker = worker_of(name)
    taken: list[tuple[Model, Claim]] = []
    code = run_process(
        name,
        config,
        config_path,
        lambda life: StandbyService(life, assignment, worker, lambda *given: taken.append(given)),
        loop="poll",
    )
    if not taken:
        return code
    loaded, claimed = taken[0]
    return run_process(
        worker,
        config,
        config_path,
        lambda life: WorkerService(life, assignment, loaded),
        loop="poll",
        claimed=claimed,
    )
