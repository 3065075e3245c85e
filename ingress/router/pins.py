"""Which model a conversation was with last, and whether leaving it pays. Pure; times are given, in nanoseconds.

Hashing keeps a conversation where it is as long as nothing changes. What this adds is what does change: a fallback that
took over, a score that says otherwise this time. The model that answered last has the conversation's beginning in its
prefix cache, and another one has to compute, or to be paid for, all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from bus.prices import Price
from ingress.router.candidate import Asked, Candidate

MOST: Final = 16_384  # conversations that are remembered; beyond it the one that was quiet longest goes


class Pin(NamedTuple):
    """The model, how many tokens of the conversation it has seen, and when."""

    model: str
    tokens: int
    at_ns: int


class Pins:
    """All conversations of a process."""

    def __init__(self, most: int = MOST) -> None:
        self._pins: OrderedDict[tuple[str, int], Pin] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._pins)

    def of(self, route: str, session: int, now_ns: int, pin_s: float) -> Pin | None:
        """The one of a conversation, unless it is older than that."""
        pin = self._pins.get((route, session))
        return pin if pin is not None and now_ns - pin.at_ns <= pin_s * 1e9 else None

    def put(self, route: str, session: int, pin: Pin) -> None:
        """It was answered."""
        self._pins[route, session] = pin
        self._pins.move_to_end((route, session))
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)


def stays(pin: Pin, here: Candidate, there: Candidate, asked: Asked, margin: float) -> bool:
    """Whether a conversation stays: leaving has to save `margin` times what the warm prefix is worth, on this call."""
    warm = min(pin.tokens, asked.prompt_tokens)
    staying = here.price.cost(asked.prompt_tokens, warm, asked.expected_tokens)
    leaving = there.price.cost(asked.prompt_tokens, 0, asked.expected_tokens)
    return staying - leaving <= margin * _worth(here.price, warm)


def _worth(price: Price, warm: int) -> int:
    """Of a prefix that is found instead of computed, in the price's own units."""
    return price.cost(warm, 0, 0) - price.cost(warm, warm, 0)
