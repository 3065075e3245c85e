"""Who has been served how much: virtual token counters. Pure; flat in requests, tokens and steps.

Each tenant that competes has a counter of what was computed for it, in tokens over its weight; the one with the least
goes first (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). Two that always have something
waiting never get further apart than about two of their largest requests and what fits the slots, however many requests
one of them sends. Who comes back after a pause begins where the others are: nobody saves up by not asking.

What is charged is what was computed: a prompt's tokens but those found in the cache, and two for each that is drawn.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

PROMPT_TOKEN: Final = 1.0
DRAWN_TOKEN: Final = 2.0  # the ratio of the paper, and of the field's prices
LEAST_WEIGHT: Final = 0.01
RESTING: Final = 1024  # tenants without a request whose counters are kept


class Client(NamedTuple):
    """Whom a counter is of. What a tenant does as batch does not count against what it asks for at once."""

    tenant: str
    batch: bool


class Counters:
    """Counters by number; a number belongs to a client for as long as it has requests, and a while longer.

    Attributes:
        served: virtual tokens, by number.
    """

    def __init__(self) -> None:
        self.served: npt.NDArray[np.float64] = np.zeros(16)
        self._share = np.ones(16)  # what one token counts
        self._numbers: dict[Client, int] = {}
        self._clients: dict[int, Client] = {}
        self._requests: dict[int, int] = {}
        self._free: list[int] = list(range(15, -1, -1))
        self._resting: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def enter(self, client: Client, weight: float) -> int:
        """A request of a client comes in. Its number is returned; the weight last given counts."""
        number = self._numbers.get(client)
        if number is None:
            number = self._take(client)
        self._resting.pop(number, None)
        self._requests[number] = self._requests.get(number, 0) + 1
        self._share[number] = 1.0 / max(LEAST_WEIGHT, weight)
        return number

    def leave(self, number: int) -> None:
        """A request of a client is over."""
        self._requests[number] -= 1
        if self._requests[number]:
            return
        self._resting[number] = None
        if len(self._resting) > RESTING:
            self._forget(next(iter(self._resting)))

    def lift(self, number: int, to: float) -> None:
        """A client that had nothing waiting has: it begins no earlier than `to`."""
        self.served[number] = max(self.served[number], to)

    def virtual(self, number: int, prompt_tokens: int) -> float:
        """What so many tokens of a prompt would count."""
        return float(self._share[number]) * PROMPT_TOKEN * prompt_tokens

    def prefills(self, number: int, tokens: int) -> None:
        """So many tokens of a prompt will be computed for a client."""
        self.served[number] += self.virtual(number, tokens)

    def drew(self, numbers: npt.NDArray[np.int64]) -> None:
        """A token was drawn for each of these."""
        if len(self._numbers) > 1:  # alone, it competes with nobody
            drawn = np.bincount(numbers, minlength=len(self.served))
            self.served += DRAWN_TOKEN * self._share * drawn

    def _take(self, client: Client) -> int:
        if not self._free:
            size = len(self.served)
            self.served, self._share = np.resize(self.served, 2 * size), np.resize(self._share, 2 * size)
            self._free = list(range(2 * size - 1, size - 1, -1))
        number = self._free.pop()
        self.served[number] = 0.0
        self._numbers[client], self._clients[number] = number, client
        return number

    def _forget(self, number: int) -> None:
        """The client that has rested longest. Coming back, it begins where the others are, as after any pause."""
        del self._resting[number], self._requests[number]
        del self._numbers[self._clients.pop(number)]
        self._free.append(number)
