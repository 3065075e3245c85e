"""A ready worker in conversation with its scheduler: plans come in, one a loop turn is launched, results go out.

On a device that computes beside the host a step is told when a thread has seen it through (`workers.step.waiter`), and
the plan behind it is launched meanwhile. On a CPU a step is through when its launch is.

Of a scheduler's incarnation nothing outlives it: when the link comes up again, slots are closed, waiting plans dropped,
and kv is told that no page of the older incarnation will be written any more. Only then the worker registers again.
"""

from __future__ import annotations

import logging
from collections import deque

from bus.link import Link
from bus.messages.adapters import AdapterState, KeepAdapters
from bus.messages.common import Nack
from bus.messages.steps import Leaving, Registered, Reset, StepFailed, StepPlan, ToWorker
from bus.names import STEPS_DOOR, scheduler_name
from bus.packed import pack_u32
from bus.process import Life
from kv.client import PageClient
from workers.group import Group, GroupBroken
from workers.inbox import Inbox, StepGap
from workers.lora.shelf import Shelf
from workers.measures import Measures
from workers.step.effort import Effort
from workers.step.execute import StepBroken
from workers.step.interface import Steps
from workers.step.waiter import Waiter

log = logging.getLogger(__name__)

_ERROR_CHARACTERS = 500


class Conversation:
    """Everything between the link and the executor.

    Args:
        life: this process.
        registered: what to say when the link is up.
        executor: runs plans.
        group: the ranks that run the same plans.
        pages: the session with kv; None where the model keeps none.
        effort: what steps take at least; None where that is not known.
        shelf: of adapters; None where the model has none.
    """

    def __init__(
        self,
        life: Life,
        registered: Registered,
        executor: Steps,
        group: Group,
        pages: PageClient | None,
        effort: Effort | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._shelf = shelf
        self._life, self._registered, self._executor = life, registered, executor
        self._group, self._pages = group, pages
        self._inbox = Inbox()
        self._launched: deque[StepPlan] = deque()
        self._waiter = Waiter(life.loop, self._take_a_turn)
        self._turn_is_due = False
        self._failures = 0  # since slots were last in order
        self._epoch = 0
        self._ended_ns = life.loop.now_ns()
        self._measures = Measures(life.telemetry, registered, effort)
        self._link: Link[ToWorker] = Link(
            life,
            scheduler_name(registered.model),
            STEPS_DOOR,
            "steps",
            ToWorker,
            on_message=self._on_message,
            on_up=self._on_up,
            on_down=self._on_down,
        )
        if shelf is not None:
            shelf.send = self._link.send

    @property
    def idle(self) -> bool:
        """Whether no plan waits, nor is computed."""
        return not len(self._inbox) and not self._launched

    def say_fenced(self) -> None:
        """Tell kv that pages of older scheduler incarnations are not written any more. Again, whenever kv is new."""
        if self._epoch and self._pages is not None:
            self._pages.fenced(self._link.server_name, self._epoch)

    def leave(self) -> None:
        """Give the requests that are here back to the scheduler; slots are closed when it has them."""
        self._link.send(Leaving())

    def close(self) -> None:
        """Say bye."""
        self._waiter.close()
        self._link.close()

    # --- the link --------------------------------------------------------------------------------------------------

    def _on_up(self) -> None:
        self._forget()
        if self._shelf is not None:
            self._shelf.clear()
        self._epoch = self._link.peer_epoch
        self.say_fenced()
        self._link.send(self._registered)

    def _on_down(self, reason: str) -> None:
        log.info("scheduler is gone (%s): slots closed", reason)
        self._forget()

    def _on_message(self, message: ToWorker) -> None:
        if isinstance(message, StepPlan):
            self._on_plan(message)
        elif isinstance(message, Reset):
            self._forget(message.next_step)
        elif isinstance(message, KeepAdapters):
            self._keep(message)
        elif isinstance(message, Nack):
            log.error("scheduler refuses: %s: %s", message.reason, message.detail)

    def _keep(self, message: KeepAdapters) -> None:
        if self._shelf is not None:
            self._shelf.keep(message)
            return
        for source in message.adapters:
            self._link.send(AdapterState(source.number, problem="this model takes no adapters"))

    def _on_plan(self, plan: StepPlan) -> None:
        try:
            if not self._inbox.put(plan, self._life.loop.now_ns()):
                return
        except StepGap as gap:
            self._forget()
            self._fail(plan.step, str(gap))
            return
        self._life.busy = True
        self._take_a_turn()

    def _forget(self, next_step: int | None = None) -> None:
        self._inbox.reset(next_step)
        self._launched.clear()
        self._executor.reset()
        self._failures = 0
        self._life.busy = False

    # --- steps -----------------------------------------------------------------------------------------------------

    def _take_a_turn(self) -> None:
        # One plan a turn of the loop: heartbeats, commands and a scheduler's end are seen between two steps.
        if not self._turn_is_due:
            self._turn_is_due = True
            self._life.loop.soon(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        if len(self._inbox) and self._executor.may_launch(self._inbox.first):
            plan, arrived_ns = self._inbox.take()
            self._launch(plan, 0 if self._launched else max(0, arrived_ns - self._ended_ns))
        if self._is_through():
            self._finish()
        self._life.busy = not self.idle
        if self._is_through() or (len(self._inbox) and self._executor.may_launch(self._inbox.first)):
            self._take_a_turn()
        elif self._launched and (reading := self._executor.reading) is not None:
            self._waiter.watch(reading)

    def _is_through(self) -> bool:
        """Whether the oldest step in flight is."""
        if not self._launched:
            return False
        reading = self._executor.reading
        try:
            return reading is None or reading.ready()
        except RuntimeError:
            return True  # the device has failed, as `finish` will find and tell

    def _launch(self, plan: StepPlan, waited_ns: int) -> None:
        try:
            if not self._group.agree(self._epoch, plan.step, self._failures):
                raise StepBroken("a step before it failed, and closed all slots", together=True)
            self._executor.launch(plan, waited_ns)
        except GroupBroken as broken:
            # What is in flight may wait for a rank that is gone: nobody waits for it, and this process ends.
            self._inbox.reset()
            self._launched.clear()
            self._fail(plan.step, str(broken))
            self._life.fail(f"the rank group broke in step {plan.step}: {broken}")
        except StepBroken as broken:
            while self._launched:  # told first: good, or what the others know already to have failed
                self._finish()
            self._executor.reset()
            self._broken(plan.step, broken)
        else:
            self._launched.append(plan)

    def _finish(self) -> None:
        plan = self._launched.popleft()
        try:
            result = self._executor.finish()
        except StepBroken as broken:
            self._broken(plan.step, broken)
            while self._launched:
                self._fail(self._launched.popleft().step, f"step {plan.step} before it failed, and closed all slots")
        else:
            self._life.progressed()
            self._measures.step(plan, result, self._executor.spent_ns())
            self._link.send(result)
        self._ended_ns = self._life.loop.now_ns()

    def _broken(self, step: int, broken: StepBroken) -> None:
        self._failures += 1
        log.error("step %d failed: %s", step, broken, exc_info=broken.__cause__)
        self._fail(step, str(broken), broken.slots, out_of_memory=broken.out_of_memory)
        if self._group.ranks > 1 and not broken.together:
            # The other ranks wait in a collective that this one left: only a new group is in step again.
            self._life.fail(f"rank {self._group.rank} left step {step} in the middle: {broken}")
        else:
            self._life.progressed()

    def _fail(self, step: int, error: str, slots: tuple[int, ...] = (), *, out_of_memory: bool = False) -> None:
        self._measures.failed()
        self._link.send(StepFailed(step, error[:_ERROR_CHARACTERS], pack_u32(slots), out_of_memory))
