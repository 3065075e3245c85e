"""What the configuration says that alarms are judged by. Reads nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bus.config import Config, ModelConfig
from bus.names import KV, ingress_name, pages_directory, scheduler_name, standby_name, state_directory, worker_name
from metrics.core.judge import Settings
from metrics.core.rules.models import Targets


def settings(config: Config) -> Settings:
    """What should be there, and what is asked of it."""
    alarms = config.alarms
    standbys = (standby_name(worker) for model in config.model if model.standby for worker in _workers(model))
    return Settings(
        Targets(alarms.ttft_s, alarms.inter_token_s, alarms.queue_wait_s), tuple(_expected(config)), tuple(standbys)
    )


def written_places(config: Config, run: Path) -> Iterator[tuple[str, Path]]:
    """Directories that processes write to, and whose matter it is where they are full."""
    yield "ingress", run
    yield "host", state_directory()
    if config.kv.disk != "0":
        yield KV, pages_directory(config.kv.disk_path)


def _expected(config: Config) -> Iterator[str]:
    yield KV
    for model in config.model:
        yield scheduler_name(model.name)
        yield from _workers(model)
    for number in range(config.ingress.processes):
        yield ingress_name(number)


def _workers(model: ModelConfig) -> Iterator[str]:
    for replica in range(model.all_replicas):
        for rank in range(model.tensor_parallel):
            yield worker_name(model.name, replica, rank)
