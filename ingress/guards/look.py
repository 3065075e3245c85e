"""What a detector says of a text, and the guards that are configured: detector, action and policy in one. No I/O.

A detector is one of four things. `kinds`: spans that a scanner finds while text comes. `look`: a verdict on a window,
or on the whole where `whole`, at once. `find`: spans of a whole text, slow, for a thread. `ask`: a verdict that takes
its time.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from bus.config.guards import Action, GuardConfig
from ingress.guards.scan import Kind, Span

log = logging.getLogger(__name__)

INLINE: Final = 2048  # characters that are looked at on the loop; more goes to a thread
JUDGE_DEADLINE_S: Final = 10.0  # of a model where none is configured: a look must end


class Look(NamedTuple):
    """A verdict. `what` is for people and programs: kinds or a score, never text that was found."""

    found: bool
    what: str = ""


class Whose(NamedTuple):
    """For whom a model judges."""

    tenant: str = ""
    key: str = ""


NOTHING: Final = Look(False)
Outcome = str  # passed, flagged, masked, blocked, shadowed, failed, late
_OUTCOME: Final[dict[Action, Outcome]] = {
    "block": "blocked", "mask": "masked", "flag": "flagged", "shadow": "shadowed",
}  # fmt: skip


class Guard(NamedTuple):
    """One configured guard. Exactly one of `kinds`, `look`, `find`, `ask` is there.

    Attributes:
        look: of a text and, in an answer, the texts that it should rest on.
        whole: an answer is looked at when it is complete, not in windows.
        limit: most characters; None where it counts none.
    """

    config: GuardConfig
    kinds: Sequence[Kind] = ()
    look: Callable[[str, Sequence[str]], Look] | None = None
    find: Callable[[str], list[Span]] | None = None
    ask: Callable[[str, Whose], Awaitable[Look]] | None = None
    whole: bool = False
    limit: int | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        """As configured."""
        return self.config.name

    @property
    def holds(self) -> bool:
        """Whether text waits for it."""
        return self.config.action in ("block", "mask")

    @property
    def outcome(self) -> Outcome:
        """Of a finding."""
        return _OUTCOME[self.config.action]

    def mask(self, kind: str) -> str:
        """What stands in place of a finding. Nothing, for what nobody saw."""
        return (
            "" if kind == "INVISIBLE" and self.config.mask == "[{kind}]" else self.config.mask.replace("{kind}", kind)
        )

    @property
    def deadline_s(self) -> float | None:
        """For one look."""
        if self.config.deadline_ms:
            return self.config.deadline_ms / 1000
        return JUDGE_DEADLINE_S if self.ask is not None else None


class Seen(NamedTuple):
    """A look that was taken: what it found, how it went (`""`, `failed`, `late`), and the spans where there are
    some."""

    guard: Guard
    look: Look
    trouble: Outcome = ""
    spans: tuple[Span, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """What follows."""
        if not self.look.found:
            return self.trouble or "passed"
        return "blocked" if self.stops else self.guard.outcome

    @property
    def stops(self) -> bool:
        """Whether nothing may follow: a mask that could not be made must not let text through."""
        return self.look.found and (self.guard.config.action == "block" or bool(self.trouble and self.guard.holds))


def seen(guard: Guard, text: str, context: Sequence[str] = ()) -> Seen:
    """Look now. A detector that raises is no finding, or one, as its policy has it."""
    begun = time.perf_counter()
    try:
        assert guard.look is not None
        look = guard.look(text, context)
    except Exception as error:
        return failed(guard, error)
    if guard.deadline_s is not None and time.perf_counter() - begun > guard.deadline_s:
        return Seen(guard, Look(look.found or guard.config.fail == "closed", look.what or "late"), "late")
    return Seen(guard, look)


async def seen_later(guard: Guard, text: str, context: Sequence[str], whose: Whose) -> Seen:
    """Look in a thread, or have a model look; by its deadline."""
    try:
        async with asyncio.timeout(guard.deadline_s):
            if guard.ask is not None:
                return Seen(guard, await guard.ask(text, whose))
            if guard.find is not None:
                spans = tuple(await asyncio.to_thread(guard.find, text))
                return Seen(guard, Look(bool(spans), kinds_of(spans)), "", spans)
            assert guard.look is not None
            return Seen(guard, await asyncio.to_thread(guard.look, text, context))
    except TimeoutError:
        return Seen(guard, Look(guard.config.fail == "closed", "late"), "late")
    except Exception as error:
        return failed(guard, error)


def failed(guard: Guard, error: Exception) -> Seen:
    """What a detector that broke counts as."""
    log.error("the guard %s failed: %s: %s", guard.name, type(error).__name__, re.sub(r"\s+", " ", str(error))[:200])
    return Seen(guard, Look(guard.config.fail == "closed", "failed"), "failed")


def kinds_of(spans: Sequence[Span]) -> str:
    """Which there are, each once."""
    return " ".join(dict.fromkeys(span.kind for span in spans))


def windows(guard: Guard, text: str) -> list[str]:
    """A text as the windows that a guard looks at; the last one is whole too, and overlaps the more."""
    size, step = guard.config.window, guard.config.window - guard.config.overlap
    if guard.whole or len(text) <= size:
        return [text]
    return [text[at : at + size] for at in range(0, len(text) - size, step)] + [text[-size:]]
