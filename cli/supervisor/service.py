"""The supervisor as a process: carries out what `core` decides, and tells it what happens.

It has the life of every other process (name, control door, signals, exit codes), so `headrace down` stops it the way
each one is stopped. What it must never do is take its children with it: they have sessions of their own and write to
their own log files, and when this process is killed the next one adopts them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import deque
from typing import Final

from bus import manager
from bus.loop import Cancel
from bus.memfd import MemoryTooSmall
from bus.messages.control import (
    Drain,
    GetFleet,
    Ok,
    Rejected,
    Restart,
    Status,
    Stop,
    ToProcess,
    Undrain,
    UnitStatus,
)
from bus.messages.control import (
    Fleet as FleetAnswer,
)
from bus.process import DEFAULT_DRAIN_S, EXIT_CONFIG, EXIT_MISSING, Description, Life
from cli.supervisor import logfiles
from cli.supervisor.actions import (
    Action,
    AskDrain,
    AskStop,
    AskUndrain,
    Finished,
    Kill,
    Promote,
    Say,
    Spawn,
)
from cli.supervisor.adopt import find_survivors, outdated
from cli.supervisor.arena import hold_arena
from cli.supervisor.children import spawn
from cli.supervisor.core import Fleet
from cli.supervisor.crashes import CrashReports
from cli.supervisor.group import describe_exit
from cli.supervisor.plan import desired_units, fingerprint, unit_named
from cli.supervisor.roster import Refused
from cli.supervisor.state import (
    CONFIG_COPY,
    STATE_FILE,
    SavedState,
    SavedUnit,
    load_state,
    save_state,
    write_atomically,
)
from cli.supervisor.succession import Succession, reap
from cli.supervisor.watching import Children, Seen

log = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 2.0
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class SupervisorService:
    """Everything of one configuration on one host."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._config_path = life.config_path.resolve() if life.config_path is not None else life.run / CONFIG_COPY
        by_default = self._config_path == life.run / CONFIG_COPY
        self._config_name = "the defaults" if by_default else str(self._config_path)
        self._config = life.config
        self._config_text = b""
        self.succession: Succession | None = None
        self._starting_over = False
        self._own_lock = 0  # inode
        self._fleet = Fleet(desired_units(life.config))
        self._children = Children(life, Seen(self._said, self._died, self._hung))
        self._crashes = CrashReports(life.loop, life.run / CONFIG_COPY, time.monotonic)
        self._todo: deque[Action] = deque()
        self._busy = False
        self._arena = -1
        self._wake: Cancel | None = None
        self._finished = False
        self._written: SavedState | None = None

    # --- the life of a service -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Adopt what runs, start what does not."""
        run = self._life.run
        reap()
        saved = load_state(run)
        survivors = find_survivors(run, saved)
        try:
            self._arena = hold_arena(self._config.kv, saved.arena_inode, survivors)
        except MemoryTooSmall as error:
            self._life.fail(f"[kv] arena: {error}", EXIT_CONFIG)
            return
        for name, survivor in survivors.items():
            self._children[name].fingerprint = survivor.saved.fingerprint
            self._children.watch(self._children[name], survivor.process.pid)
        older = outdated(survivors, self._config)
        for name in older:
            if not name.startswith("standby@"):
                self._tell(Say("warning", name, f"runs with an older configuration; apply it: headrace restart {name}"))
        try:
            self._copy_config()
        except OSError as error:
            self._life.fail(f"cannot write {run / CONFIG_COPY}: {error.strerror}; make room there", EXIT_MISSING)
            return
        self._own_lock = self._lock_inode()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._life.loop.on_signal(number, self._on_signal)
        self._life.ready()
        self._do(self._fleet.start({name: s.process for name, s in survivors.items()}, time.monotonic()))
        for name in older:
            if name.startswith("standby@"):  # nobody would notice its replacement, but what it would come to serve
                self._do(self._fleet.restart(name, 0.0, time.monotonic()))
        self._children.start()
        self._life.loop.every(HOUSEKEEPING_S, self._keep_house)

    def describe(self) -> Description:
        """How many of the processes are ready."""
        units = list(self._fleet.units())
        ready = sum(unit.state == "ready" for unit in units)
        return Description(load=-1.0, detail=f"{ready} of {len(units)} processes ready · {self._config_name}")

    def drain(self) -> None:
        """Nothing to do: no work comes to a supervisor."""

    def undrain(self) -> None:
        """Nothing to do, see `drain`."""

    def drained(self) -> bool:
        """Always. Its end is another matter, see `_on_signal`."""
        return True

    def hand_over(self) -> None:
        """Nothing to do, see `drain`."""

    def stop(self) -> None:
        """What has not ended by now is killed, where an end was asked for."""
        if self._fleet.stopping and self.succession is None:
            for child in self._children:
                if child.pid:
                    child.signal(signal.SIGKILL)
                    log.error("%s had to be killed", child.name)
            for name in (STATE_FILE, CONFIG_COPY):
                (self._life.run / name).unlink(missing_ok=True)
        self._children.close()
        self._crashes.close()
        if self._arena >= 0 and self.succession is None:
            os.close(self._arena)

    def _on_signal(self) -> None:
        """Whoever ends the supervisor means everything. A second signal does not wait any more."""
        if self._fleet.stopping and not self._starting_over:
            self._life.end()
            return
        self._starting_over = False
        manager.notify("STOPPING=1")
        manager.more_time(manager.AHEAD_S)
        self._life.loop.every(manager.LOOK_S, lambda: manager.more_time(manager.AHEAD_S))
        self._do(self._fleet.stop(DEFAULT_DRAIN_S, time.monotonic()))

    def control(self, message: ToProcess) -> Ok | Rejected | FleetAnswer | None:
        """The fleet's own commands."""
        now = time.monotonic()
        try:
            match message:
                case GetFleet(rid):
                    return self._answer(rid)
                case Drain(rid, name, deadline_s):
                    self._do(self._fleet.drain(name, deadline_s))
                    return Ok(rid, f"{name} takes nothing new")
                case Undrain(rid, name):
                    self._do(self._fleet.undrain(name))
                    return Ok(rid, f"{name} takes work again")
                case Restart(rid, name, _, executable) if name == self._life.name:
                    return self._be_succeeded(rid, executable or sys.executable)
                case Restart(rid, name, deadline_s):
                    self._do(self._fleet.restart(name, deadline_s, now))
                    return Ok(rid, f"{name} is being restarted")
                case Stop(rid, deadline_s):
                    self._starting_over = False
                    self._do(self._fleet.stop(deadline_s, now))
                    return Ok(rid, "everything is being stopped")
        except Refused as refused:
            return Rejected(getattr(message, "rid", 0), str(refused))
        return None

    def _be_succeeded(self, rid: int, executable: str) -> Ok | Rejected:
        if self._fleet.stopping:
            return Rejected(rid, "everything is being stopped")
        if not os.access(executable, os.X_OK):
            return Rejected(rid, f"{executable} cannot be executed by the supervisor")
        self._go_on_as(executable)
        return Ok(rid, f"{self._life.name} goes on as {executable}")

    def _go_on_as(self, executable: str) -> None:
        self.succession = Succession(executable, self._config_path, self._arena)
        log.info("going on as %s", executable)
        self._life.loop.soon(lambda: self._life.end(keep_name=True))

    # --- carrying out ----------------------------------------------------------------------------------------------

    def _do(self, actions: list[Action]) -> None:
        """Carry out actions in order, those that follow from them after them."""
        self._todo.extend(actions)
        if self._busy:
            return
        self._busy = True
        while self._todo:
            self._todo.extend(self._act(self._todo.popleft()))
        self._busy = False
        self._set_alarm()
        self._write_state()

    def _act(self, action: Action) -> list[Action]:
        match action:
            case Say():
                self._tell(action)
            case Spawn(name):
                return self._spawn(name)
            case Promote(name, standby):
                self._children.promote(self._children[name], self._children[standby])
            case Kill(name):
                self._children[name].signal(signal.SIGKILL)
            case AskStop(name, deadline_s):
                self._children.end(name, deadline_s)
            case AskDrain(name, deadline_s):
                self._children.drain(name, deadline_s)
            case AskUndrain(name):
                self._children.undrain(name)
            case Finished():
                self._finished = True
                if self._starting_over:
                    self._go_on_as(sys.executable)
                else:
                    self._life.loop.soon(self._life.end)
        return []

    def _spawn(self, name: str) -> list[Action]:
        now = time.monotonic()
        child = self._children[name]
        try:
            child.popen = spawn(
                unit_named(name), self._config, self._life.run / CONFIG_COPY, self._life.run, self._arena
            )
        except OSError as error:
            return self._fleet.spawn_failed(name, str(error), now)
        child.fingerprint = fingerprint(self._config, name)
        self._children.watch(child, child.popen.pid)
        log.info("started %s", name, extra={"unit": name, "pid": child.pid})
        return self._fleet.spawned(name, child.pid, now)

    # --- what is seen ----------------------------------------------------------------------------------------------

    def _said(self, name: str, status: Status) -> None:
        self._do(self._fleet.reported(name, status.pid, status.state, status.drained, time.monotonic()))

    def _died(self, name: str, pid: int, code: int | None) -> None:
        if self._config.blackbox.crashes and not self._fleet.leaves(name):
            self._crashes.died(name, code, describe_exit(code))
        self._do(self._fleet.exited(name, pid, code, time.monotonic()))

    def _hung(self, name: str, pid: int) -> None:
        self._do(self._fleet.hung(name, pid))

    def _tell(self, say: Say) -> None:
        log.log(_LEVELS[say.level], "%s: %s", say.name, say.text, extra={"unit": say.name})
        self._life.progressed()

    def _keep_house(self) -> None:
        if self._lock_inode() != self._own_lock and not self._fleet.stopping:
            self._start_over()
        for name in (*(unit.name for unit in self._fleet.units()), self._life.name):
            logfiles.rotate(logfiles.log_path(name))
        self._crashes.look()

    # --- the run directory ------------------------------------------------------------------------------------------

    def _lock_inode(self) -> int:
        try:
            return (self._life.run / f"{self._life.name}.lock").stat().st_ino
        except OSError:
            return 0

    def _start_over(self) -> None:
        """The run directory was deleted. What is connected still works; nobody else finds a door, and a second stack
        could be started beside this one. So everything ends in order, and begins again."""
        log.critical(
            "the run directory %s was deleted; ending everything in order, and beginning again", self._life.run
        )
        self._starting_over = True
        self._life.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._copy_config()  # for those that die meanwhile
        self._do(self._fleet.stop(DEFAULT_DRAIN_S, time.monotonic()))

    # --- time and state -------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        if self._wake is not None:
            self._wake()
            self._wake = None
        if (at := self._fleet.next_wake()) is not None and not self._finished:
            self._wake = self._life.loop.after(max(0.0, at - time.monotonic()), self._alarm)

    def _alarm(self) -> None:
        self._wake = None
        self._do(self._fleet.tick(time.monotonic()))

    def _copy_config(self) -> None:
        """Processes read a copy: one that dies while somebody edits the file must come back as it was."""
        if not self._config_text:
            given = self._life.config_path is not None
            self._config_text = self._config_path.read_bytes() if given else b"# no file was given: the defaults\n"
        write_atomically(self._life.run / CONFIG_COPY, self._config_text)

    def _write_state(self) -> None:
        if self._finished or self._arena < 0:
            return
        size = os.fstat(self._arena)
        units = {
            unit.name: SavedUnit(
                unit.pid,
                self._children[unit.name].start_ticks,
                unit.restarts + 1,
                self._children[unit.name].fingerprint,
                unit.held,
            )
            for unit in self._fleet.units()
            if unit.pid
        }
        state = SavedState(self._config_name, size.st_ino, size.st_size, units)
        if state == self._written:
            return
        try:
            save_state(self._life.run, state)
        except OSError as error:  # a full disk, or no directory any more: it is only a help for the next one
            log.error("cannot write %s: %s", STATE_FILE, error)
        self._written = state

    def _answer(self, rid: int) -> FleetAnswer:
        now = time.monotonic()
        units = tuple(
            UnitStatus(u.name, u.pid, u.state, u.restarts, now - u.since if u.pid else 0.0, u.last_exit)
            for u in self._fleet.units()
        )
        return FleetAnswer(rid, units, self._config_name)
