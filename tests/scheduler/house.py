"""A scheduler's service among scripted others, on one loop in this process, over real sockets and a real page server.

The workers are those of `simulated`, behind a real connection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import zmq
from simulated import Worker

from bus import blocks
from bus.blackbox.recorder import NOTHING
from bus.config import Config, KvConfig, ModelConfig
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.common import Heartbeat, Nack, ProcessState
from bus.messages.requests import Abort, Accepted, Deltas, Finished, ModelFacts, Refused, Sampling, Submit, ToIngress
from bus.messages.steps import KvShape, Registered, Reset, StepPlan, StepResult, ToWorker
from bus.names import REQUESTS_DOOR, STEPS_DOOR, scheduler_name
from bus.packed import pack_u32, unpack_u32, unpack_u64
from bus.process import Life
from bus.releases import Troubles
from bus.telemetry import Telemetry
from kv.arena import open_arena
from kv.service import PageService
from scheduler.core import events as e
from scheduler.service import SchedulerService

MODEL = "m"
PAGE_TOKENS = 4
SHAPE = KvShape(layers=1, kv_heads=1, page_tokens=PAGE_TOKENS, head_dim=8, dtype="float32")


class Self:
    """An identity that is no process of its own. Its pid is this one's: the kernel would contradict another."""

    def __init__(self, name: str, house: House, epoch: int = 1) -> None:
        self.name, self.epoch, self.pid = name, epoch, os.getpid()
        self.role = name.partition("@")[0]
        self.run, self.loop, self.context = house.run, house.loop, house.context
        self.telemetry = Telemetry()
        self.troubles = Troubles()
        self.recorder = NOTHING
        self.state: ProcessState = "ready"

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(0, True, self.state)


class AllPages(set[int]):
    """Every page is writable, as far as the scripted worker is concerned: the real kv is asked, not a simulated one."""

    leased = property(lambda self: self)

    def __contains__(self, page: object) -> bool:
        return True


class ScriptedWorker:
    """A worker process over the real socket. Runs plans at once, unless it is held."""

    def __init__(self, house: House, replica: int = 0, rank: int = 0, *, epoch: int = 1, ranks: int = 1,
                 weights: bytes = b"weights", group: int = 1) -> None:  # fmt: skip
        self.house = house
        self.me = Self(f"worker@{MODEL}.{replica}.{rank}", house, epoch)
        self.rank, self.held, self.resets, self.nacks, self.plans = rank, False, [], [], 0
        self.worker = Worker(replica, 4, PAGE_TOKENS, AllPages(), house.memory)  # type: ignore[arg-type]
        self.registered = Registered(
            MODEL, replica, rank, ranks, group, weights, SHAPE, 64, 40, b"", 4, 16, "cpu", "float32"
        )
        self.link: Link[ToWorker] = Link(
            self.me, scheduler_name(MODEL), STEPS_DOOR, "steps", ToWorker, on_message=self._on_message,
            on_up=lambda: self.link.send(self.registered) and None,
        )  # fmt: skip

    def _on_message(self, message: ToWorker) -> None:
        if isinstance(message, Reset):
            self.resets.append(message.next_step)
            self.worker.inbox.append(e.ResetReplica(0, message.next_step))
        elif isinstance(message, StepPlan):
            self.plans += 1
            self.worker.inbox.append(message)
        elif isinstance(message, Nack):
            self.nacks.append(message.reason)
        self.turn()

    def turn(self) -> None:
        while self.worker.inbox and not self.held:
            self.worker.execute()
        while self.worker.outbox:
            event = self.worker.outbox.popleft()
            if isinstance(event, e.StepDone):
                result = event.result
                if self.rank:
                    result = StepResult(result.step, b"", b"", 0, 0)
                self.link.send(result)
            elif isinstance(event, e.StepBroken):
                self.link.send(event.failed)


class ScriptedIngress:
    """An ingress that keeps what it is told."""

    def __init__(self, house: House, name: str = "ingress@0", epoch: int = 1) -> None:
        self.me = Self(name, house, epoch)
        self.facts: list[ModelFacts] = []
        self.accepted: set[int] = set()
        self.refused: dict[int, Refused] = {}
        self.tokens: dict[int, list[int]] = {}
        self.finished: dict[int, Finished] = {}
        self.link: Link[ToIngress] = Link(
            self.me, scheduler_name(MODEL), REQUESTS_DOOR, "requests", ToIngress, on_message=self._on_message
        )

    def _on_message(self, message: ToIngress) -> None:
        if isinstance(message, ModelFacts):
            self.facts.append(message)
        elif isinstance(message, Accepted):
            self.accepted.add(message.request)
        elif isinstance(message, Refused):
            self.refused[message.request] = message
        elif isinstance(message, Deltas):
            at = 0
            columns = (unpack_u64(message.requests), unpack_u32(message.starts), unpack_u32(message.counts))
            for request, start, count in zip(*(column.tolist() for column in columns), strict=True):
                mine = self.tokens.setdefault(request, [])
                assert start == len(mine)
                mine += unpack_u32(message.tokens)[at : at + count].tolist()
                at += count
            self.finished |= {ended.request: ended for ended in message.finished}

    def submit(self, message: Submit) -> None:
        assert self.link.send(message)

    def abort(self, request: int) -> None:
        assert self.link.send(Abort(request, "client"))


class House:
    """Everything on one loop."""

    def __init__(self, run: Path, **model: object) -> None:
        settings: dict[str, object] = {"name": MODEL, "source": "x.gguf", "page_tokens": PAGE_TOKENS, "slots": 4}
        section = ModelConfig(**(settings | model))  # type: ignore[arg-type]
        self.config = Config(model=(section,), kv=KvConfig(arena="4MiB", slab="64KiB", hugepages="off"))
        self.run, self.loop, self.context = run, PollLoop(), zmq.Context()
        self.memory: dict[int, list[int]] = {}
        self.lives: list[Life] = []
        self.services: dict[str, SchedulerService | PageService] = {}
        self.links: list[Link[ToWorker] | Link[ToIngress]] = []

    def life(self, name: str, epoch: int) -> Life:
        life = Life(name, epoch, self.run, self.config, None, self.loop)
        self.lives.append(life)
        return life

    def start_kv(self, epoch: int = 1) -> PageService:
        life = self.life("kv@host", epoch)
        service = PageService(life, open_arena(self.config.kv))
        service.start()
        self.services["kv"] = service
        return service

    def start_scheduler(self, epoch: int = 1) -> SchedulerService:
        service = SchedulerService(self.life(scheduler_name(MODEL), epoch))
        service.start()
        self.services["scheduler"] = service
        return service

    def worker(self, *arguments: int, **more: object) -> ScriptedWorker:
        worker = ScriptedWorker(self, *arguments, **more)  # type: ignore[arg-type]
        self.links.append(worker.link)
        return worker

    def ingress(self, name: str = "ingress@0", epoch: int = 1) -> ScriptedIngress:
        ingress = ScriptedIngress(self, name, epoch)
        self.links.append(ingress.link)
        self.until(lambda: ingress.link.up and bool(ingress.facts))
        return ingress

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Turn the loop until it is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it never came to pass"
            self.loop.turn(0.01)

    def turn(self, seconds: float) -> None:
        """Turn the loop for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.loop.turn(0.01)

    def close(self) -> None:
        for link in self.links:
            link.close()
        for service in self.services.values():
            service.stop()
        for life in self.lives:
            life.context.destroy(linger=0)
        self.context.destroy(linger=0)


def message(
    request: int, prompt: list[int], facts: ModelFacts, max_tokens: int = 8, emitted: tuple[int, ...] = ()
) -> Submit:
    """A submission as an ingress makes it."""
    packed = pack_u32(prompt)
    root = blocks.salted_root(facts.root) if facts.root else b""
    digests = blocks.chain(root, packed, facts.page_tokens) if root else b""
    return Submit(request, packed, Sampling(), max_tokens, pack_u32(emitted), root, digests)
