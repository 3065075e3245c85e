"""The supervisor as a process: carries out what `core` decides, and tells it what happens.

It has the life of every other process (name, control door, signals, exit codes), so `headrace down` stops it the way
each one is stopped. What it must never do is take its children with it: they have sessions of their own and write to
their own log files, and when this process is killed the next one adopts them.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from typing import Any, Final

from bus.config import parse_size
from bus.link import Link
from bus.liveness import DeathWatch
from bus.loop import Cancel
from bus.memfd import MemoryTooSmall, create_memfd
from bus.messages.control import (
    Drain,
    FromProcess,
    GetFleet,
    GetStatus,
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
from bus.names import CONTROL_DOOR
from bus.process import DEFAULT_DRAIN_S, EXIT_CONFIG, EXIT_MISSING, Description, Life, notify
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
from cli.supervisor.adopt import Survivor, find_survivors, outdated
from cli.supervisor.children import spawn
from cli.supervisor.core import Fleet
from cli.supervisor.plan import desired_units, fingerprint, unit_named
from cli.supervisor.proc import ARENA_NAME, recover_arena, start_ticks
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
from cli.supervisor.succession import Succession, inherited_arena, reap

log = logging.getLogger(__name__)

STARTING_PROBE_S: Final = 0.2
READY_PROBES: Final = 10  # a process that is ready is asked each tenth time
HUNG_PROBES: Final = 15  # questions without an answer, two seconds apart
HOUSEKEEPING_S: Final = 2.0
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Child:
    """A process under supervision: what the kernel and its control door say of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.popen: subprocess.Popen[bytes] | None = None
        self.watch: DeathWatch | None = None
        self.link: Link[Any] | None = None
        self.start_ticks = 0
        self.ready = False
        self.unanswered = 0
        self.fingerprint = ""


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
        self._children: dict[str, Child] = {}
        self._todo: deque[Action] = deque()
        self._busy = False
        self._arena = -1
        self._wake: Cancel | None = None
        self._finished = False
        self._written: SavedState | None = None
        self._probes = 0
        self._rid = 0

    # --- the life of a service -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Adopt what runs, start what does not."""
        run = self._life.run
        reap()
        saved = load_state(run)
        survivors = find_survivors(run, saved)
        if not self._hold_arena(saved, survivors):
            return
        for unit in desired_units(self._config):
            self._child(unit.name)
        for name, survivor in survivors.items():
            self._adopt(name, survivor)
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
        self._life.loop.every(STARTING_PROBE_S, self._probe)
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
            for child in self._children.values():
                if child.pid:
                    _kill(child)
                    log.error("%s had to be killed", child.name)
            for name in (STATE_FILE, CONFIG_COPY):
                (self._life.run / name).unlink(missing_ok=True)
        for child in self._children.values():
            if child.watch is not None:
                child.watch.close()
            if child.link is not None:
                child.link.close()
        if self._arena >= 0 and self.succession is None:
            os.close(self._arena)

    def _on_signal(self) -> None:
        """Whoever ends the supervisor means everything. A second signal does not wait any more."""
        if self._fleet.stopping and not self._starting_over:
            self._life.end()
            return
        self._starting_over = False
        notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(2 * DEFAULT_DRAIN_S * 1e6)}")
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
                self._promote(self._child(name), self._child(standby))
            case Kill(name):
                _kill(self._child(name))
            case AskStop(name, deadline_s):
                self._ask(name, Stop(self._next_rid(), deadline_s))
            case AskDrain(name, deadline_s):
                self._ask(name, Drain(self._next_rid(), name, deadline_s))
            case AskUndrain(name):
                self._ask(name, Undrain(self._next_rid(), name))
            case Finished():
                self._finished = True
                self._life.loop.soon(self._begin_again if self._starting_over else self._life.end)
        return []

    def _spawn(self, name: str) -> list[Action]:
        now = time.monotonic()
        child = self._child(name)
        try:
            child.popen = spawn(
                unit_named(name), self._config, self._life.run / CONFIG_COPY, self._life.run, self._arena
            )
        except OSError as error:
            return self._fleet.spawn_failed(name, str(error), now)
        child.fingerprint = fingerprint(self._config, name)
        self._watch(child, child.popen.pid)
        log.info("started %s", name, extra={"unit": name, "pid": child.pid})
        return self._fleet.spawned(name, child.pid, now)

    def _promote(self, worker: Child, standby: Child) -> None:
        """The process is the same; from now on it is watched under its new name."""
        worker.popen, worker.fingerprint = standby.popen, standby.fingerprint
        if standby.watch is not None:
            standby.watch.close()
        pid, standby.pid, standby.ready, standby.popen, standby.watch = standby.pid, 0, False, None, None
        self._watch(worker, pid)
        log.info("%s is %s now", standby.name, worker.name, extra={"unit": worker.name, "pid": pid})

    def _ask(self, name: str, message: Drain | Undrain | Stop) -> None:
        child = self._child(name)
        if child.link is not None and child.link.send(message):
            return
        if isinstance(message, Stop) and child.pid:
            _signal(child, signal.SIGTERM)  # it does not listen yet, or any more: the older way of saying it

    # --- seeing ----------------------------------------------------------------------------------------------------

    def _child(self, name: str) -> Child:
        if name not in self._children:
            child = self._children[name] = Child(name)
            child.link = Link(
                self._life, name, CONTROL_DOOR, "control", FromProcess,
                on_message=lambda message: self._heard(child, message),
                on_up=lambda: self._question(child),
            )  # fmt: skip
        return self._children[name]

    def _adopt(self, name: str, survivor: Survivor) -> None:
        child = self._child(name)
        child.fingerprint = survivor.saved.fingerprint
        self._watch(child, survivor.process.pid)

    def _watch(self, child: Child, pid: int) -> None:
        child.pid, child.start_ticks = pid, start_ticks(pid)
        child.ready, child.unanswered = False, 0
        child.watch = DeathWatch(self._life.loop, pid, lambda: self._died(child))

    def _died(self, child: Child) -> None:
        pid, child.pid, child.ready = child.pid, 0, False
        code = child.popen.wait() if child.popen is not None and child.popen.pid == pid else _exit_code(pid)
        child.popen = child.watch = None
        log.info("%s ended", child.name, extra={"unit": child.name, "pid": pid, "code": code})
        self._do(self._fleet.exited(child.name, pid, code, time.monotonic()))

    def _heard(self, child: Child, message: Any) -> None:
        if isinstance(message, Rejected):
            log.info("%s: %s", child.name, message.reason)
        if not isinstance(message, Status) or message.pid != child.pid:
            return
        child.unanswered, child.ready = 0, message.state in ("ready", "draining")
        self._do(self._fleet.reported(child.name, message.pid, message.state, message.drained, time.monotonic()))

    def _question(self, child: Child) -> None:
        if child.link is not None and child.pid:
            child.unanswered += 1
            child.link.send(GetStatus(self._next_rid()))

    def _probe(self) -> None:
        """Ask processes how they are: those that start often, those that are ready now and then."""
        self._probes += 1
        for child in self._children.values():
            if child.pid and (not child.ready or self._probes % READY_PROBES == 0):
                self._question(child)
                # Workers are not judged here: a step may take long, and their scheduler knows how long.
                if child.ready and child.unanswered > HUNG_PROBES and unit_named(child.name).role != "worker":
                    child.unanswered = 0
                    self._do(self._fleet.hung(child.name, child.pid))

    def _tell(self, say: Say) -> None:
        log.log(_LEVELS[say.level], "%s: %s", say.name, say.text, extra={"unit": say.name})
        self._life.progressed()

    def _keep_house(self) -> None:
        if self._lock_inode() != self._own_lock and not self._fleet.stopping:
            self._start_over()
        for name in (*self._children, self._life.name):
            logfiles.rotate(logfiles.log_path(name))

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

    def _begin_again(self) -> None:
        size = os.fstat(self._arena)
        save_state(self._life.run, SavedState(self._config_name, size.st_ino, size.st_size))
        self._go_on_as(sys.executable)

    # --- time, memory, state ---------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        if self._wake is not None:
            self._wake()
            self._wake = None
        if (at := self._fleet.next_wake()) is not None and not self._finished:
            self._wake = self._life.loop.after(max(0.0, at - time.monotonic()), self._alarm)

    def _alarm(self) -> None:
        self._wake = None
        self._do(self._fleet.tick(time.monotonic()))

    def _hold_arena(self, saved: SavedState, survivors: dict[str, Survivor]) -> bool:
        if saved.arena_inode:
            if (fd := inherited_arena(saved.arena_inode)) is not None:
                self._arena = fd
                return True
            holders = [survivor.process.pid for survivor in survivors.values()]
            if (fd := recover_arena(holders, saved.arena_inode)) is not None:
                log.info("recovered the arena", extra={"bytes": os.fstat(fd).st_size})
                self._arena = fd
                return True
        kv = self._config.kv
        try:
            self._arena = create_memfd(ARENA_NAME, parse_size(kv.arena), kv.hugepages)
        except MemoryTooSmall as error:
            self._tell(Say("error", "kv@host", f"[kv] arena: {error}"))
            self._life.fail(f"[kv] arena: {error}", EXIT_CONFIG)
            return False
        if survivors:
            self._tell(Say("warning", "kv@host", "the arena is lost with its holders; starting with an empty one"))
            for name in [name for name in survivors if name.startswith("kv@")]:
                _end_now(survivors.pop(name).process.pid)
        return True

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

    def _next_rid(self) -> int:
        self._rid += 1
        return self._rid


def _exit_code(pid: int) -> int | None:
    """Of a child that an earlier supervisor in this process started; None of one that another process did."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def _kill(child: Child) -> None:
    _signal(child, signal.SIGKILL)


def _signal(child: Child, number: signal.Signals) -> None:
    """Only ever to the process that we mean: an adopted one is not ours to reap, so its pid may be another's by now."""
    if child.pid and start_ticks(child.pid) == child.start_ticks:
        try:
            os.kill(child.pid, number)
        except ProcessLookupError:
            return


def _end_now(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [], 5.0)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
