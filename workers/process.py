"""The worker's way from its configuration to the conversation with its scheduler.

    weights ──► group ──► arena ──► kv session ──► ready: Conversation
    (thread)    (files)   (retried) (reconnects)

A worker that was a standby has its weights already. An encoder needs neither arena nor kv: it goes from its weights to
the conversation.

Each arrow is a callback on the loop; nothing blocks it for longer than a step does. Whatever is missing and may come
(other ranks, kv, the scheduler) is waited for; what is wrong ends the process with a message that says what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import msgspec
import torch

from bus.config import parse_size
from bus.liveness import DeathWatch
from bus.messages.control import Ok, Rejected, ToProcess
from bus.messages.vitals import WorkerView
from bus.names import scheduler_name
from bus.process import EXIT_CONFIG, EXIT_MISSING, Description, Life
from bus.vocabulary import read as read_vocabulary
from kv.client import PageClient, PagesDenied
from workers.arena import ArenaPages, map_pages
from workers.background import Background
from workers.bring_up import Device, Ready, bring_up
from workers.conversation import Conversation
from workers.encoding.execute import EncodeExecutor
from workers.encoding.loading import LoadedEncoder
from workers.group import Alone, GlooGroup, Group, NcclGroup
from workers.host import Assignment
from workers.loading import Loaded, Model, load, why_not
from workers.lora.reader import Bounds
from workers.lora.shelf import Shelf
from workers.rendezvous import Meeting, Rendezvous
from workers.sampling.grammar import Grammars
from workers.sampling.thought import Thoughts
from workers.speculative.choice import proposer_of
from workers.speculative.forced import Forced
from workers.step.effort import effort_of
from workers.step.execute import Executor
from workers.step.slots import Slots
from workers.step.windows import Folding

log = logging.getLogger(__name__)

_RETRY_S = 0.05
_MEET_S = 0.02  # files, which nobody reports


class WorkerService:
    """One rank of one replica of one model; a `bus.process.Service`."""

    def __init__(self, life: Life, assignment: Assignment, loaded: Model | None = None) -> None:
        self._life, self._assignment = life, assignment
        self._model = assignment.model
        # Told by a signal to end, it hands on what it has: who waits here until it is finished keeps new ones waiting.
        life.patience_s = 0.0
        self._group: Group = Alone()
        self._group_number = life.epoch
        self._loaded = loaded
        self._phase = "starting"
        self._background: Background[Group] | Background[Model] | Background[Ready] | None = None
        self._device: Device | None = None
        self._watches: list[DeathWatch] = []
        self._view: WorkerView | None = None
        life.telemetry.slow_views.append(lambda: self._view)
        self._slots: Slots | None = None
        self._grammars: Grammars | None = None
        self._encoding: EncodeExecutor | None = None
        self._computed_in = ""
        self._pages: PageClient | None = None
        self._conversation: Conversation | None = None

    # --- Service ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        torch.set_num_threads(self._assignment.threads)
        if self._loaded is not None:
            self._meet_others(self._loaded)
            return
        self._enter("loading weights")
        self._background = Background(
            self._life.loop,
            lambda: load(self._assignment, self._weights_loaded),
            self._meet_others,
            self._failed,
        )

    def describe(self) -> Description:
        if self._encoding is not None:
            used, slots = self._encoding.in_use, self._model.slots
            return Description(used / slots, f"encodes, {used} of {slots} slots, {self._computed_in}, {self._phase}")
        if self._slots is None:
            return Description(detail=self._phase)
        used, slots = self._slots.in_use, self._slots.count
        does = {True: "prefills, ", False: "decodes, ", None: ""}[self._assignment.prefills]
        memory = ""
        if (held := self._device) is not None:
            memory = f", device memory: {held.balance}, {held.pages.loads} pages loaded from the arena"
        return Description(used / slots, f"{does}{used} of {slots} slots, {self._computed_in}, {self._phase}{memory}")

    def drain(self) -> None:
        """Nothing to do: the heartbeat says that this worker drains, and its scheduler gives it no new requests."""

    def undrain(self) -> None:
        """Nothing to do, see `drain`."""

    def drained(self) -> bool:
        holds = self._encoding if self._encoding is not None else self._slots
        return self._conversation is None or (self._conversation.idle and holds is not None and holds.in_use == 0)

    def hand_over(self) -> None:
        """Its requests go back to the scheduler between two steps."""
        if self._conversation is not None:
            self._conversation.leave()

    def stop(self) -> None:
        if self._background is not None:
            self._background.cancel()
        for watch in self._watches:
            watch.close()
        if self._conversation is not None:
            self._conversation.close()
        if self._grammars is not None:
            self._grammars.stop()
        if self._pages is not None:
            self._pages.close()

    def control(self, message: ToProcess) -> Ok | Rejected | None:
        del message
        return None

    # --- the way to ready ------------------------------------------------------------------------------------------

    def _weights_loaded(self, fraction: float) -> None:
        self._phase = f"loading weights, {fraction:.0%}"  # from the thread that loads; whoever asks sees old or new

    def _meet_others(self, loaded: Model) -> None:
        self._background = None
        self._view = loaded.view(self._life.name, self._assignment)
        if isinstance(loaded, LoadedEncoder):
            self._encode(loaded)
            return
        if self._assignment.ranks == 1:
            self._wait_for_pages(loaded)
            return
        self._enter("waiting for the other ranks")
        instance = self._assignment.instance
        directory = self._life.run / f"{instance.model}.{instance.replica}.group"
        self._meet(Rendezvous(directory, instance.rank, self._assignment.ranks, self._life.epoch), loaded)

    def _meet(self, rendezvous: Rendezvous, loaded: Loaded) -> None:
        if (meeting := rendezvous.poll()) is None:
            self._later(lambda: self._meet(rendezvous, loaded), _MEET_S)
            return
        self._group_number = meeting.number
        for rank, pid in enumerate(meeting.pids):
            if rank != self._assignment.instance.rank:
                self._watches.append(DeathWatch(self._life.loop, pid, partial(self._rank_died, rank)))
        self._background = Background(
            self._life.loop, lambda: self._join(meeting), lambda group: self._joined(group, loaded), self._failed
        )

    def _join(self, meeting: Meeting) -> Group:
        rank, device = self._assignment.instance.rank, self._assignment.device
        if device.type == "cuda":
            return NcclGroup(meeting.store, rank, self._assignment.ranks, self._model.hang_s, device)
        return GlooGroup(meeting.store, rank, self._assignment.ranks, self._model.hang_s)

    def _joined(self, group: Group, loaded: Loaded) -> None:
        self._group, self._background = group, None
        self._wait_for_pages(loaded)

    def _rank_died(self, rank: int) -> None:
        self._life.fail(f"rank {rank} of this replica died: leaving, so that all of them can meet again")

    def _wait_for_pages(self, loaded: Loaded) -> None:
        self._enter("waiting for the page server")
        self._map(loaded)

    def _map(self, loaded: Loaded) -> None:
        owner = scheduler_name(self._model.name)
        try:
            pages = map_pages(self._life, owner, loaded.root, loaded.kv, self._assignment.instance.rank)
        except OSError:
            self._later(lambda: self._map(loaded))
            return
        except PagesDenied as denied:
            # Another release passes: an upgrade is under way.
            code = EXIT_MISSING if denied.reason == "protocol" else EXIT_CONFIG
            self._life.fail(f"the page server refuses this worker: {denied}", code)
            return
        # The session that says that we live and may write; the mapping needs no connection any more.
        self._pages = PageClient(self._life, "worker", owner=owner, on_up=lambda: self._on_pages_up(loaded, pages))

    def _on_pages_up(self, loaded: Loaded, pages: ArenaPages) -> None:
        if self._conversation is not None:
            self._conversation.say_fenced()  # kv restarted; steps went on meanwhile
        elif not self._assignment.in_device_memory:
            self._converse(loaded, bring_up(loaded, pages, self._assignment, self._group))
        elif self._background is None:
            self._enter("computing first steps")
            self._background = Background(
                self._life.loop,
                lambda: bring_up(loaded, pages, self._assignment, self._group),
                lambda ready: self._converse(loaded, ready),
                self._failed,
            )

    def _converse(self, loaded: Loaded, ready: Ready) -> None:
        assert self._pages is not None
        if self._assignment.device.type == "cuda":
            torch.cuda.set_device(self._assignment.device)  # kernels are launched where the thread is, and this is one
        self._background, self._device = None, ready.device
        if self._view is not None and ready.device is not None:
            self._view = msgspec.structs.replace(self._view, device_memory=ready.device.balance.lines())
        self._enter("serving")
        self._computed_in = loaded.engine.name
        vocabulary = loaded.weights.architecture.vocabulary
        thoughts = None
        if self._group.rank == 0:
            tokens = partial(read_vocabulary, self._life.run)
            self._grammars = Grammars(vocabulary, tokens, torch.device("cpu"))  # masks enter draws from the host
            thoughts = Thoughts(tokens)
        lora = self._model.lora
        shelf = Shelf(self._life.loop, loaded.weights, Bounds(lora.max_rank, parse_size(lora.max_size)))
        # On a GPU pages behind windows stay: its kernels read whole pages by one table.
        windows = ready.model.architecture.windows if ready.device is None else ()
        folding = Folding.of(windows)
        self._slots = Slots(
            self._model.slots,
            loaded.context_tokens,
            loaded.kv.page_tokens,
            vocabulary,
            ready.cells,
            self._assignment.device,
            self._grammars,
            thoughts,
            shelf,
            ready.sampler,
            ready.device.pages if ready.device is not None else None,
            folding.blocks if folding is not None else 0,
        )
        how = loaded.speculation(self._assignment)
        proposer = proposer_of(how, self._slots, self._group, ready.model, loaded.drafter)
        if proposer is not None and self._grammars is not None and how != "head" and self._group.ranks == 1:
            proposer = Forced(self._grammars, proposer)
        executor = Executor(ready.model, self._slots, ready.pages, self._group, proposer=proposer, reader=ready.reader)
        registered = loaded.registered(self._assignment, self._group_number, ready.device_pages, folding)
        effort = effort_of(loaded.weights, loaded.kv, loaded.engine.attends_in)
        self._conversation = Conversation(self._life, registered, executor, self._group, self._pages, effort, shelf)
        self._life.ready()

    def _encode(self, loaded: LoadedEncoder) -> None:
        """Serve an encoder."""
        self._enter("serving")
        self._computed_in = loaded.dtype
        self._encoding = EncodeExecutor(loaded.encoder(), self._model.slots)
        registered = loaded.registered(self._assignment, self._group_number)
        self._conversation = Conversation(self._life, registered, self._encoding, self._group, None)
        self._life.ready()

    # --- small things ----------------------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        self._phase = phase
        log.info(phase)

    def _later(self, callback: Callable[[], None], seconds: float = _RETRY_S) -> None:
        self._life.loop.after(seconds, callback)

    def _failed(self, error: Exception) -> None:
        self._life.fail(*why_not(self._model.name, error))
