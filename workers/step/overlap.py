"""Whether a step may be launched before the tokens of the steps before it are on the host. Pure.

What a step needs of the ones before it is on the device: KV, and the drawn tokens in their slots. So it need not wait,
and the device has work while the host reads, tells and plans. (SGLang's overlap scheduler and vLLM's asynchronous
scheduling do the same.) A step waits only where the host itself has to look at those tokens first:

| waits because                                       | until what it needs is read                             |
|-----------------------------------------------------|---------------------------------------------------------|
| `GRAMMAR_OR_THOUGHT`: a slot whose tokens the host   | its next mask or forced token is a function of them     |
| follows draws again                                  |                                                         |
| `SLOT_CHANGES`: such a slot is closed or opened      | who followed it would be gone, or another's             |
| `DRAFTS`: rows may have drafts                       | where they begin, and what is proposed, hangs on them   |
| `PROMPT_LOGPROBS`: it reads logits while launched    | it would hold up what is there already                  |

Ranks of a group decide alike about what is in a plan. When one of them reads a step is its own affair: nothing is said
among them then, and `Group.agree` finds out where one has read a failure that another has still in flight.

Bias, penalties, suppressed stops and log probabilities are not in the table: they are functions of how many tokens
were drawn, which the host knows, or of the tokens themselves on the device. A row whose request turns out to have
ended is computed in vain, and its scheduler drops what it drew.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

import numpy as np

from bus.messages.steps import StepPlan
from bus.packed import unpack_u32
from workers.step.slots import Slots

LAUNCHED_AT_ONCE: Final = 2  # steps; the scheduler has no more in flight either


class Wait(Enum):
    """Why a step waits."""

    DEPTH = "enough steps are launched"
    DRAFTS = "drafts"
    PROMPT_LOGPROBS = "log probabilities of a prompt"
    GRAMMAR_OR_THOUGHT = "a grammar or a budget of thought"
    SLOT_CHANGES = "a slot that is followed by the host changes"


class Unread(NamedTuple):
    """Of the steps that are launched and not read.

    Attributes:
        steps: how many.
        followed: slots that drew in them, and whose grammar or budget of thought has not seen what.
    """

    steps: int
    followed: frozenset[int]


class Wants(NamedTuple):
    """Of the step that may come next.

    Attributes:
        draws: slots that it draws for.
        changes: slots that it closes or opens.
        drafts: whether rows may have drafts, or begin where steps in flight may have had some.
        prompt_logprobs: whether somebody's are computed in it.
    """

    draws: frozenset[int]
    changes: frozenset[int]
    drafts: bool
    prompt_logprobs: bool


def why_wait(unread: Unread, wants: Wants) -> Wait | None:
    """Why a step is not launched before the steps before it are read; None where it is."""
    if not unread.steps:
        return None
    if unread.steps >= LAUNCHED_AT_ONCE:
        return Wait.DEPTH
    if wants.drafts:
        return Wait.DRAFTS
    if wants.prompt_logprobs:
        return Wait.PROMPT_LOGPROBS
    if not unread.followed.isdisjoint(wants.draws):
        return Wait.GRAMMAR_OR_THOUGHT
    if not unread.followed.isdisjoint(wants.changes):
        return Wait.SLOT_CHANGES
    return None


def wants_of(plan: StepPlan, slots: Slots) -> Wants:
    """What a plan that was not applied yet will want. One that cannot be executed wants nothing else: it is refused
    when it is launched."""
    of, starts = unpack_u32(plan.slots).astype(np.int64), unpack_u32(plan.starts)
    samples = np.frombuffer(plan.samples, np.uint8)[: len(of)] != 0
    opened = {each.slot: each for each in plan.opens}
    prompts = any(each.prompt_logprobs >= 0 for each in plan.opens) or any(
        slot < slots.count
        and slot not in opened
        and slots.prompt_logprobs[slot] >= 0
        and start + 1 < slots.prompt_length[slot]
        for slot, start in zip(of.tolist(), starts.tolist(), strict=False)
    )
    return Wants(
        frozenset(of[: len(samples)][samples].tolist()),
        frozenset(unpack_u32(plan.closes).tolist()) | opened.keys(),
        bool(plan.drafts),
        prompts,
    )
