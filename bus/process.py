"""The life that every process shares: claim the name, log, be ready, beat, answer, drain, end with the right code.

    starting ──ready()──► ready ──drain──► draining ──drained, or handed over──► stopped (exit 0)
        └───────────────────┴── fail() ──► failed (exit 78 configuration, 69 something missing, 70 a bug)

A service is built by `make`, given its `Life`, and started on the loop. It only says what is particular to it.

Exit codes (sysexits.h): 0 only after a requested stop; 69 something it needs is missing; 70 internal error;
75 the name is taken by a running process; 78 bad configuration.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import psutil
import zmq

from bus import logs, manager
from bus.blackbox.recorder import NOTHING, Recorder
from bus.config import Config
from bus.control import ControlDoor
from bus.identity import Claim, NameTaken, claim
from bus.limits import raise_open_files
from bus.loop import PollLoop, RunnableLoop, UvLoop
from bus.messages.common import Heartbeat, ProcessState
from bus.messages.control import Answer, ModelStatus, ToProcess
from bus.messages.telemetry import Sample
from bus.names import LONGEST_DOOR, PathTooLong, parse_process, run_directory, socket_path
from bus.publisher import TelemetryPublisher
from bus.releases import Troubles
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

EXIT_STOPPED: Final = 0
EXIT_MISSING: Final = 69
EXIT_BUG: Final = 70
EXIT_NAME_TAKEN: Final = 75
EXIT_CONFIG: Final = 78

DEFAULT_DRAIN_S: Final = 30.0
HAND_OVER_S: Final = 5.0


class Description(NamedTuple):
    """What a service says of itself for `headrace status`; see `bus.messages.control.Status`."""

    load: float = -1.0
    detail: str = ""
    models: tuple[ModelStatus, ...] = ()
    counters: tuple[tuple[str, float], ...] = ()


class Service(Protocol):
    """What is particular to a process. All calls come on the loop."""

    def start(self) -> None:
        """Open what it needs; call `life.ready()` when it can work, now or later."""
        ...

    def describe(self) -> Description:
        """For status."""
        ...

    def drain(self) -> None:
        """Take nothing new. Idempotent."""
        ...

    def undrain(self) -> None:
        """Take work again. Idempotent."""
        ...

    def drained(self) -> bool:
        """Whether nothing is in hand."""
        ...

    def hand_over(self) -> None:
        """The drain has taken too long: let others have what is in hand. `drained` tells when they do; the process
        ends after `HAND_OVER_S` at the latest."""
        ...

    def stop(self) -> None:
        """Close everything."""
        ...

    def control(self, message: ToProcess) -> Answer | None:
        """A command beyond the common ones; None where it is not this service's."""
        ...


class Life:
    """A running process, as its service sees it."""

    def __init__(
        self,
        name: str,
        epoch: int,
        run: Path,
        config: Config,
        config_path: Path | None,
        loop: RunnableLoop,
        recorder: Recorder = NOTHING,
    ) -> None:
        parsed = parse_process(name)
        self.name, self.role, self.instance = name, parsed.role, parsed.instance
        self.epoch, self.pid, self.run = epoch, os.getpid(), run
        self.config, self.config_path = config, config_path
        self.loop: RunnableLoop = loop
        self.recorder = recorder
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.telemetry = Telemetry()
        self.troubles = Troubles()
        self.state: ProcessState = "starting"
        self.busy = False
        self.progress = 0
        self.started_ns = time.monotonic_ns()
        self.exit_code = EXIT_STOPPED
        self._service: Service | None = None
        self.patience_s = DEFAULT_DRAIN_S
        self.keeps_name = False
        self._shutting = False
        self._process = psutil.Process()
        self._watchdog_progress = -1
        self.reporter = manager.Reporter()

    # --- for the service -------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """The service can work."""
        if self.state == "starting":
            self._become("ready")
            # Everything made so far lives as long as the process: the collector need never look at it again.
            gc.collect()
            gc.freeze()
            manager.notify("READY=1")
            log.info("ready after %.2f s", (time.monotonic_ns() - self.started_ns) / 1e9)

    def progressed(self, units: int = 1) -> None:
        """Useful work was done."""
        self.progress += units

    def fail(self, message: str, code: int = EXIT_BUG) -> None:
        """This process cannot go on: say why, and end with `code`."""
        if self.state in ("failed", "stopped"):
            return
        log.critical(message)
        manager.notify(f"STATUS={message}")
        self.exit_code = code
        self._become("failed")
        self._finish()

    # --- for the runtime -------------------------------------------------------------------------------------------

    def heartbeat(self) -> Heartbeat:
        """The heartbeat to send now."""
        return Heartbeat(self.progress, self.busy, self.state)

    def describe(self) -> Description:
        """The service's description, or an empty one before it is there."""
        return self._service.describe() if self._service is not None else Description()

    @property
    def drained(self) -> bool:
        """Whether it drains, and nothing is in hand any more."""
        return self.state == "draining" and self._service is not None and self._service.drained()

    def command(self, message: ToProcess) -> Answer | None:
        """Hand a command to the service."""
        return self._service.control(message) if self._service is not None else None

    def drain(self) -> None:
        """Take nothing new, until `undrain` or the end."""
        if self.state == "ready" and self._service is not None:
            self._become("draining")
            self._service.drain()

    def undrain(self) -> None:
        """Take work again."""
        if self.state == "draining" and self._service is not None:
            self._become("ready")
            self._service.undrain()

    def shut_down(self, deadline_s: float | None = None) -> None:
        """Drain, hand on what is left, and end with exit code 0. A second call ends at once.

        Args:
            deadline_s: for the drain; `patience_s` where it is not given, as by a signal.
        """
        if self.state in ("failed", "stopped"):
            return
        if self._service is None or self.state == "starting" or self._shutting:
            self.end()
            return
        self._shutting = True
        deadline_s = self.patience_s if deadline_s is None else deadline_s
        manager.notify("STOPPING=1")
        log.info("draining for at most %.0f s", deadline_s)
        self.drain()
        manager.more_time(manager.AHEAD_S)
        self.loop.every(manager.LOOK_S, lambda: manager.more_time(manager.AHEAD_S))  # a deadline bounds it: `_look`
        self._look(self._service, time.monotonic() + deadline_s, handed_over=False)

    def _look(self, service: Service, until: float, *, handed_over: bool) -> None:
        """Whether it is time to end."""
        if self._service is not service:
            return
        if not handed_over and time.monotonic() >= until and not service.drained():
            service.hand_over()
            handed_over, until = True, time.monotonic() + HAND_OVER_S
        if service.drained():
            self.end()
        elif handed_over and time.monotonic() >= until:
            log.warning("ending with work in hand")
            self.end()
        else:
            self.loop.after(0.02, lambda: self._look(service, until, handed_over=handed_over))

    def sample(self) -> Sample:
        """This process for the metrics process."""
        times, memory = self._process.cpu_times(), self._process.memory_info()
        return Sample(
            self.name, self.role, self.pid, self.epoch, self.state, self.started_ns, self.progress, self.busy,
            times.user + times.system, memory.rss, self.telemetry.series(), self.loop.now_ns(),
            self.troubles.texts(self.loop.now_ns()),
        )  # fmt: skip

    def attach(self, service: Service) -> None:
        """The service of this life."""
        self._service = service

    def feed_watchdog(self) -> None:
        """Tell systemd that we live: only while idle or progressing, so that a stuck process is found."""
        if not self.busy or self.progress != self._watchdog_progress:
            self._watchdog_progress = self.progress
            manager.notify("WATCHDOG=1")

    def report(self) -> None:
        """Tell systemd what this process does, and that its start goes on."""
        said = self.describe().detail
        self.reporter.look(f"{self.state}: {said}" if said else self.state, starting=self.state == "starting")

    def end(self, *, keep_name: bool = False) -> None:
        """End now, with exit code 0.

        Args:
            keep_name: this process goes on as another program, and whoever looks meanwhile shall find the name taken.
        """
        if self.state not in ("stopped", "failed"):
            self.keeps_name = keep_name
            self._become("stopped")
            self._finish()

    def _become(self, state: ProcessState) -> None:
        self.state = state
        self.recorder.state(state)

    def _finish(self) -> None:
        if self._service is not None:
            service, self._service = self._service, None
            try:
                service.stop()
            except Exception:
                log.exception("while stopping")
        self.loop.stop()


def run_process(
    name: str,
    config: Config,
    config_path: Path | None,
    make: Callable[[Life], Service],
    *,
    loop: Literal["uv", "poll"],
    claimed: Claim | None = None,
) -> int:
    """Run a process from beginning to end.

    Args:
        name: `role@instance`.
        make: builds the service; it may raise nothing but bugs, trouble is told by `life.fail`.
        loop: "uv" for processes with asyncio in them, "poll" for the others.
        claimed: the name, where this process has it already.

    Returns:
        The exit code.
    """
    gc.freeze()  # what was imported stays
    gc.enable()
    logs.set_up(name, config.log)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # kill -USR1 shows where it is
    raise_open_files()
    run = run_directory()
    try:
        socket_path(name, LONGEST_DOOR, run)
        mine = claimed or claim(name, run)
    except PathTooLong as error:
        log.critical("%s", error)
        return EXIT_CONFIG
    except NameTaken as taken:
        log.critical("%s", taken)
        return EXIT_NAME_TAKEN
    except OSError as error:
        log.critical("cannot take the name %s in %s: %s", name, run, error.strerror)
        return EXIT_MISSING
    recorder = Recorder.open(run, name, mine.epoch, config.blackbox)
    logs.record(recorder, name)
    life = Life(name, mine.epoch, run, config, config_path, UvLoop() if loop == "uv" else PollLoop(), recorder)
    log.info("starting", extra={"epoch": mine.epoch, "pid": life.pid})
    try:
        _live(life, make)
    except Exception:
        log.exception("a bug ended this process")
        life.exit_code = EXIT_BUG
    finally:
        life.context.destroy(linger=200)
        if not life.keeps_name:
            mine.release()
    log.info("exit %d", life.exit_code)
    recorder.end(life.exit_code)
    recorder.close()
    return life.exit_code


def _live(life: Life, make: Callable[[Life], Service]) -> None:
    loop = life.loop
    loop.on_signal(signal.SIGTERM, life.shut_down)
    loop.on_signal(signal.SIGINT, life.shut_down)
    door = ControlDoor(life)
    publisher = TelemetryPublisher(life)

    def start() -> None:
        service = make(life)
        if life.state == "starting":
            life.attach(service)
            service.start()
        else:  # make() said life.fail()
            service.stop()

    if (watchdog_s := manager.watchdog_s()) is not None:
        loop.every(watchdog_s / 3, life.feed_watchdog)
    if life.reporter.wanted:
        loop.every(manager.LOOK_S, life.report)
    try:
        loop.run(start)
    finally:
        publisher.close()
        door.close()
        loop.close()
