"""Where a request's time goes at this scheduler, kept as it happens: waits by cause, prefill, chunks. Pure, decides
nothing.

Nothing here is touched for a token: only when a request waits, is placed, computes a chunk, or draws its first token
after it was placed. What comes after that its ingress sees itself (`bus.messages.requests.Account`).
"""

from __future__ import annotations

from bus.messages.requests import Account
from bus.messages.telemetry import HeldFor


class Book:
    """The account of one request, under way.

    Attributes:
        waiting_for: why it has no slot; empty where it is just not its turn yet.
    """

    __slots__ = (
        "_chunks", "_computed", "_disk", "_held", "_memory", "_placed", "_placed_ns", "_preemptions", "_prefill_ns",
        "_queue_ns", "_resumptions", "_since_ns", "_waits_ns", "_why_ns", "waiting_for",
    )  # fmt: skip

    def __init__(self, now: int) -> None:
        self._since_ns = self._waits_ns = self._why_ns = now
        self._held: dict[HeldFor, int] = {}
        self._queue_ns = self._prefill_ns = self._placed_ns = 0
        self._memory = self._disk = self._computed = self._chunks = 0
        self._placed = self._preemptions = self._resumptions = 0
        self.waiting_for: HeldFor | None = None

    def held(self, why: HeldFor | None, now: int) -> None:
        """It waits for something else from now on."""
        if self.waiting_for not in (None, "turn"):
            self._held[self.waiting_for] = self._held.get(self.waiting_for, 0) + now - self._why_ns
        self.waiting_for, self._why_ns = why, now

    def placed(self, memory: int, disk: int, now: int) -> None:
        """It has a slot, and so many of its tokens were found."""
        self.held(None, now)
        self._queue_ns += now - self._waits_ns
        self._placed_ns = now
        self._placed += 1
        self._memory += memory
        self._disk += disk

    def chunk(self, tokens: int) -> None:
        """A chunk of it is in a step."""
        self._computed += tokens
        self._chunks += 1

    def drew(self, now: int) -> None:
        """The first token after it was placed."""
        if self._placed_ns:
            self._prefill_ns += now - self._placed_ns
            self._placed_ns = 0

    def left(self, now: int, *, preempted: bool) -> None:
        """It lost its slot, and waits again: it gave way, or what computed it is gone."""
        self.drew(now)  # what it had computed until then was prefill all the same
        self._waits_ns = self._why_ns = now
        if preempted:
            self._preemptions += 1
        else:
            self._resumptions += 1

    def account(self, drafted: int = 0, accepted: int = 0) -> Account:
        """As far as it has come, with the draft tokens that it had, and those that were right."""
        return Account(
            self._since_ns, self._queue_ns, tuple(self._held.items()), self._prefill_ns, self._memory, self._disk,
            self._computed, self._chunks, self._placed, self._preemptions, self._resumptions,
            drafted, accepted,
        )  # fmt: skip
