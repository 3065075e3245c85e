"""supervisor@host: hold the arena, keep the fleet alive."""

from __future__ import annotations

import logging
from pathlib import Path

from bus.config import Config
from bus.process import EXIT_MISSING, Life, run_process
from cli.supervisor.service import SupervisorService

log = logging.getLogger(__name__)


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run the supervisor; returns its exit code, unless another one takes its place."""
    services: list[SupervisorService] = []

    def make(life: Life) -> SupervisorService:
        services.append(SupervisorService(life))
        return services[-1]

    code = run_process(name, config, config_path, make, loop="poll")
    if services and (succession := services[0].succession) is not None:
        try:
            succession.begin()
        except OSError as error:
            log.critical("cannot go on as %s: %s", succession.executable, error)
            return EXIT_MISSING
    return code
