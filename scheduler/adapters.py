"""Adapters between the core and those outside: who asked for one, what all ranks of a replica say, what is kept.

What is decided is the core's.

The file in the run directory has every adapter with its digest, so a scheduler that comes back takes requests for them
before a worker has read any again; those that were loaded at run time are there until a reboot.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from bus.config import Config, ModelConfig
from bus.messages.adapters import (
    AdapterNow,
    Adapters,
    AdapterSource,
    AdapterState,
    AddAdapter,
    GetAdapters,
    LoadAdapter,
    RemoveAdapter,
    UnloadAdapter,
)
from bus.messages.control import Ok, Rejected
from bus.names import MODEL_NAME
from scheduler.core import events as e
from scheduler.core.adapters import LINGER_NS
from scheduler.core.state import State

MAX_KNOWN: Final = 1024
REMEMBERED: Final = 64  # of those that could not be loaded, why
FILES: Final = ("adapter_config.json", "adapter_model.safetensors")

Reply = Callable[[str, bool], None]
"""Told what is wrong, if anything, and whether that is that there is no such adapter."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One adapter in the file. digest: hex."""

    name: str
    source: str
    digest: str
    listed: bool
    created: int


class AdapterDesk:
    """What is particular to adapters in the scheduler's process.

    Args:
        config: of the host.
        model: whose adapters.
        feed: has the core decide.
        state: the core's, to be read.
    """

    def __init__(
        self, config: Config, model: ModelConfig, run: Path, feed: Callable[[e.Event], None], state: Callable[[], State]
    ) -> None:
        self._model, self._feed, self._state = model, feed, state
        self._taken = _names(config)
        self._path = run / f"scheduler@{model.name}.adapters.json"
        self._configured = {each.name for each in model.adapter}
        self._asked: dict[str, list[Reply]] = {}
        self._failed: OrderedDict[str, str] = OrderedDict()
        self._answers: dict[tuple[int, int], dict[int, AdapterState]] = {}
        self._version = 0
        self._due: list[tuple[str, str]] = []

    def start(self) -> None:
        """Tell the core what there is."""
        before = self._load()  # all of it: the file is written again with the first of them
        kept = {each.name: each for each in before if each.listed}
        for each in self._model.adapter:
            known = kept.get(each.name)
            same = known is not None and known.source == each.source
            text, created = (known.digest, known.created) if known is not None and same else ("", int(time.time()))
            self._feed(e.AdapterAdded(each.name, each.source, bytes.fromhex(text), created=created))
        for one in before:
            if one.listed and one.name not in self._taken:
                self._feed(e.AdapterAdded(one.name, one.source, bytes.fromhex(one.digest), created=one.created))
            elif one.digest and not one.listed:
                digest = bytes.fromhex(one.digest)
                self._feed(e.AdapterAdded(one.name, one.source, digest, listed=False, linger_ns=LINGER_NS))

    # --- who asks --------------------------------------------------------------------------------------------------

    def load(self, message: LoadAdapter, reply: Reply) -> None:
        """A key holder wants one. `reply` is called when a worker has read it."""
        allowed = self._model.lora.directory
        if not allowed:
            reply(
                f"adapters of {self._model.name!r} are not loaded at run time: [model.lora] directory is not set", False
            )
        elif (path := _inside(Path(allowed), message.path)) is None:
            reply(f"{message.path!r} is no adapter's directory in the one that adapters are loaded from", False)
        else:
            self._add(message.name, f"path:{path}", reply)

    def unload(self, message: UnloadAdapter, reply: Reply) -> None:
        """A key holder does not want one any more."""
        problem, missing = self._drop(message.name)
        reply(problem, missing)

    def control(self, message: object) -> Ok | Rejected | Adapters | None:
        """An operator's question or order; None where it is about something else."""
        match message:
            case GetAdapters():
                return self._shown(message.rid)
            case AddAdapter():
                said: list[str] = []
                self._add(message.name, f"path:{Path(message.path).resolve()}", lambda problem, _: said.append(problem))
                problem = said[0] if said else ""
                return Rejected(message.rid, problem) if problem else Ok(message.rid, "" if said else "being read")
            case RemoveAdapter():
                problem, _ = self._drop(message.name)
                return Rejected(message.rid, problem) if problem else Ok(message.rid, "its last requests go on")
        return None

    def _add(self, name: str, source: str, reply: Reply) -> None:
        adapters = self._state().adapters
        if (known := adapters.named(name)) is not None:
            if known.source != source:
                reply(f"there is an adapter {name!r} already, from {known.source}: unload it first", False)
            elif known.digest:
                reply("", False)
            else:
                self._asked.setdefault(name, []).append(reply)
            return
        if MODEL_NAME.fullmatch(name) is None:
            reply("a name has letters, digits, dot, dash and underscore only, at most 48", False)
        elif name in self._taken:
            reply(f"{name!r} is the name of something else here", False)
        elif len(adapters.known) >= MAX_KNOWN:
            reply(f"{MAX_KNOWN} adapters are loaded: unload some first", False)
        else:
            self._asked.setdefault(name, []).append(reply)
            self._feed(e.AdapterAdded(name, source, created=int(time.time())))

    def _drop(self, name: str) -> tuple[str, bool]:
        if self._state().adapters.named(name) is None:
            return f"there is no adapter {name!r}", True
        if name in self._configured:
            return f"{name!r} is configured: take its [[model.adapter]] out of the file", False
        self._answer(name, "it was unloaded before it was read")
        self._feed(e.AdapterDropped(name))
        return "", False

    def _answer(self, name: str, problem: str) -> None:
        for reply in self._asked.pop(name, ()):
            reply(problem, False)

    def _shown(self, rid: int) -> Adapters:
        state = self._state()
        return Adapters(
            rid,
            tuple(
                AdapterNow(
                    known.name, known.source, known.digest, known.trouble,
                    tuple(r.number for r in state.replicas.values() if r.adapters.in_memory(known.number)),
                    known.users, known.listed,
                )
                for known in state.adapters.known.values()
            ),
            self._model.lora.resident,
            tuple(self._failed.items()),
        )  # fmt: skip

    # --- workers ---------------------------------------------------------------------------------------------------

    def told(self, replica: int, adapters: Iterable[AdapterSource]) -> None:
        """A replica was told which to have: answers of before are of no use for those that it has to read."""
        numbers = {each.number for each in adapters}
        for key in [key for key in self._answers if key[0] == replica and key[1] not in numbers]:
            del self._answers[key]

    def lost(self, replica: int) -> None:
        """So are all, where the replica is another one."""
        for key in [key for key in self._answers if key[0] == replica]:
            del self._answers[key]

    def heard(self, replica: int, rank: int, ranks: int, state: AdapterState) -> None:
        """A rank has an adapter, or cannot have it. With the last rank's word the core is told."""
        answers = self._answers.setdefault((replica, state.number), {})
        answers[rank] = state
        if len(answers) < ranks:
            return
        del self._answers[replica, state.number]
        problem = next((each.problem for each in answers.values() if each.problem), "")
        if not problem and len({each.digest for each in answers.values()}) > 1:
            problem = "its files changed as the ranks read them"
        took_ns = max(each.took_ns for each in answers.values())
        self._feed(e.AdapterRead(replica, state.number, state.digest, took_ns, problem))

    def acted(self, action: e.AdapterTold) -> None:
        """An adapter was read, or cannot be. One that was asked for at run time is then not there."""
        self._due.append((action.name, action.problem))
        self._failed.pop(action.name, None)
        if action.problem and action.name not in self._configured:
            self._failed[action.name] = action.problem
            if len(self._failed) > REMEMBERED:
                self._failed.popitem(last=False)
            self._feed(e.AdapterDropped(action.name))

    def answer(self) -> None:
        """Tell those who asked what has been found out; everybody else knows by now."""
        due, self._due = self._due, []
        for name, problem in due:
            self._answer(name, problem)

    # --- the file --------------------------------------------------------------------------------------------------

    def keep(self) -> bool:
        """Write the file if anything has changed. Whether it has."""
        adapters = self._state().adapters
        if adapters.version == self._version:
            return False
        self._version = adapters.version
        kept = [
            Kept(known.name, known.source, known.digest.hex(), known.listed, known.created)
            for known in adapters.known.values()
            if known.digest
        ]
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # then a scheduler that comes back reads them again
            fresh.write_bytes(msgspec.json.encode(kept))
            os.replace(fresh, self._path)
        return True

    def _load(self) -> list[Kept]:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=list[Kept])
            return [each for each in kept if bytes.fromhex(each.digest) and MODEL_NAME.fullmatch(each.name)]
        except (OSError, ValueError):
            return []


def _names(config: Config) -> frozenset[str]:
    """That stand for something else than an adapter that is loaded at run time."""
    names = [model.name for model in config.model]
    names += [adapter.name for model in config.model for adapter in model.adapter]
    names += [model.name for upstream in config.upstream for model in upstream.model]
    return frozenset(names + [route.name for route in config.route])


def _inside(allowed: Path, path: str) -> Path | None:
    """The directory, where it and the files in it that are read lie in the allowed one, wherever links lead."""
    try:
        root = allowed.resolve(strict=True)
        found = (root / path).resolve(strict=True)
        files = [(found / name).resolve() for name in FILES]
    except (OSError, ValueError, RuntimeError):
        return None
    return found if all(each.is_relative_to(root) for each in (found, *files)) else None
