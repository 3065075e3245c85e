"""The ingress process: `headrace run ingress@0`."""

from __future__ import annotations

from pathlib import Path

from bus.config import Config
from bus.process import run_process
from ingress.service import IngressService


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run until told to stop; the exit code (see `bus.process`)."""
    return run_process(name, config, config_path, IngressService, loop="uv")
