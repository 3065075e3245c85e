"""Where the time of one answer goes, as its ingress sees it: its own work, what its scheduler accounts, tokens as they
come. Pure: times are given.

It goes with the answer: into its journal with each piece, so that the ingress which takes it over goes on with it; and
over schedulers, whose accounts are added up.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bus.messages.requests import Account


class Marks:
    """When the parts of a call's preparation were done. `clock` is CLOCK_MONOTONIC; 0 is: not, or not needed."""

    __slots__ = ("_clock", "parsed_ns", "rendered_ns", "tokenized_ns")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.parsed_ns = self.rendered_ns = self.tokenized_ns = 0

    def parsed(self) -> None:
        """The body is a valid request."""
        self.parsed_ns = self._clock()

    def rendered(self) -> None:
        """The template is."""
        self.rendered_ns = self._clock()

    def tokenized(self) -> None:
        """There are token ids."""
        self.tokenized_ns = self._clock()


class Timing(msgspec.Struct, array_like=True, kw_only=True):
    """The account of one answer, under way. Times are CLOCK_MONOTONIC; 0 is: not yet, or not at all.

    Attributes:
        first_ns, last_ns: when the first and the newest token came.
        longest_ns: the longest time between two of them; it ended with step `longest_step`, after `longest_after`
            tokens.
        text_ns: to make text of tokens, so far.
        lost_ns: since when nobody has it; `recovering_ns` is for how long that was so, all times together.
        resubmissions: to a scheduler, after the first time; `adoptions`: from a dead ingress.
        earlier: what schedulers before the present one accounted, all together; `account` is that one's.
    """

    request: int
    received_ns: int
    parsed_ns: int = 0
    rendered_ns: int = 0
    tokenized_ns: int = 0
    submitted_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0
    tokens: int = 0
    longest_ns: int = 0
    longest_step: int = 0
    longest_after: int = 0
    text_ns: int = 0
    lost_ns: int = 0
    recovering_ns: int = 0
    resubmissions: int = 0
    adoptions: int = 0
    earlier: Account = Account()
    account: Account = Account()

    def drew(self, tokens: int, step: int, now_ns: int) -> None:
        """So many more came, at once."""
        if self.last_ns and now_ns - self.last_ns > self.longest_ns:
            self.longest_ns, self.longest_step, self.longest_after = now_ns - self.last_ns, step, self.tokens
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
        self.tokens += tokens

    def accounted(self, account: Account) -> None:
        """A scheduler's account. One of another submission goes on where the one before ended."""
        if account.since_ns != self.account.since_ns:
            self.earlier = together(self.earlier, self.account)
        self.account = account

    def lost(self, now_ns: int) -> None:
        """Nobody has it from now on."""
        self.lost_ns = self.lost_ns or now_ns

    def submitted(self, now_ns: int) -> None:
        """A scheduler has it, as far as can be known."""
        if self.submitted_ns:
            self.resubmissions += 1
        self.submitted_ns = self.submitted_ns or now_ns
        if self.lost_ns:
            self.recovering_ns += max(0, now_ns - self.lost_ns)
            self.lost_ns = 0

    def adopted(self, times: int) -> None:
        """From an ingress that died some time after its newest token; a scheduler had it."""
        self.adoptions = times
        self.submitted_ns = self.submitted_ns or self.received_ns
        self.lost(self.last_ns or self.submitted_ns or self.received_ns)

    @property
    def total(self) -> Account:
        """Of all schedulers that had it."""
        return together(self.earlier, self.account)


def together(left: Account, right: Account) -> Account:
    """Two accounts as one."""
    held = dict(left.held)
    for why, ns in right.held:
        held[why] = held.get(why, 0) + ns
    return Account(
        since_ns=right.since_ns,
        queue_ns=left.queue_ns + right.queue_ns,
        held=tuple(held.items()),
        prefill_ns=left.prefill_ns + right.prefill_ns,
        memory_tokens=left.memory_tokens + right.memory_tokens,
        disk_tokens=left.disk_tokens + right.disk_tokens,
        computed_tokens=left.computed_tokens + right.computed_tokens,
        chunks=left.chunks + right.chunks,
        placed=left.placed + right.placed,
        preemptions=left.preemptions + right.preemptions,
        resumptions=left.resumptions + right.resumptions,
        drafted=left.drafted + right.drafted,
        accepted=left.accepted + right.accepted,
    )
