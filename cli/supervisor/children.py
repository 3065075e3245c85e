"""How a child is started: its command, environment, descriptors. What it then does is no business of this module."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bus.config import Config
from bus.names import models_directory, parse_worker, state_directory, worker_of
from cli.supervisor.logfiles import open_log
from cli.supervisor.plan import Unit

log = logging.getLogger(__name__)

COMPUTING: Final = ("worker", "standby")
ARENA_FD_VARIABLE: Final = "HEADRACE_ARENA_FD"


def threads_of(unit: Unit, config: Config, cores: int) -> int:
    """CPU threads for a process: workers share the cores, everybody else has one."""
    if unit.role not in COMPUTING:
        return 1
    model = config.model_named(parse_worker(unit.name.partition("@")[2]).model)
    ranks = sum(m.all_replicas * m.tensor_parallel for m in config.model)
    return model.threads or max(1, cores // ranks)


def tuning(unit: Unit, config: Config, cores: int) -> dict[str, str]:
    """Variables that libraries read as they are loaded.

    GOMP_SPINCOUNT: by default an idle OpenMP thread spins for milliseconds between the small matrices of a decode
    step, on cores that the scheduler and the ingress need. MALLOC_ARENA_MAX: glibc's arena per thread makes small
    processes large.
    """
    threads = str(threads_of(unit, config, cores))
    tuned = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "GOMP_SPINCOUNT": "1000",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if unit.role not in COMPUTING:
        tuned["MALLOC_ARENA_MAX"] = "2"
    return tuned


def environment(unit: Unit, config: Config, base: Mapping[str, str], cores: int) -> dict[str, str]:
    """What a process finds around it. What the operator set stays, but for where things are."""
    places = {"HEADRACE_STATE": str(state_directory()), "HEADRACE_MODELS": str(models_directory())}
    return {**tuning(unit, config, cores), **base, **places}


def spawn(unit: Unit, config: Config, config_copy: Path, run: Path, arena_fd: int | None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that neither Ctrl-C nor the supervisor's death reaches it.

    Raises:
        OSError: it could not be started.
    """
    variables = environment(unit, config, os.environ, len(os.sched_getaffinity(0)))
    variables |= {"HEADRACE_RUN": str(run)}
    variables.pop(ARENA_FD_VARIABLE, None)
    passed: tuple[int, ...] = ()
    if unit.role == "kv" and arena_fd is not None:
        variables[ARENA_FD_VARIABLE] = str(arena_fd)
        passed = (arena_fd,)
    log_fd = _log_of(unit)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", unit.name, "-c", str(config_copy)],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=passed,
            start_new_session=True,
        )
    finally:
        os.close(log_fd)


def _log_of(unit: Unit) -> int:
    """A standby will be the worker, and then its lines belong into the worker's file. A process without a log is better
    than none."""
    try:
        return open_log(worker_of(unit.name) if unit.role == "standby" else unit.name)
    except OSError as error:
        log.error("%s runs without a log: %s", unit.name, error)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
