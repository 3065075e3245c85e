"""What this ingress may give out by itself: leases of limits and budgets, and what requests reserve of them. Pure.

A request reserves in every bucket that it counts for, or in none. When it ends, what it really used takes the place of
what it had reserved, once, by its id; an answer that was longer leaves less than nothing, and the next one waits. All
that is told of a lease are totals (`bus.messages.accounts`), so telling twice changes nothing.

Money is told as used when its settlement has been written: until then the budget counts it as held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from bus.messages.accounts import Allowance, Dimension, Grant, Line

IDLE_NS: Final = 1_000_000_000  # a lease that nobody used for so long is given back
RECALLED_NS: Final = 1_000_000_000  # after a recall nothing is kept ahead for so long
BLOCKED_NS: Final = 250_000_000  # what was refused is refused again without asking for at most so long
MAX_UNWRITTEN: Final = 100_000  # requests whose money is not written yet


class Bucket:
    """One lease."""

    __slots__ = (
        "ahead", "allowance", "balance", "blocked_ns", "granted", "left", "left_ns", "next_ms", "recalled_ns",
        "reserved", "returned", "unwritten", "used", "used_ns", "waiting",
    )  # fmt: skip

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.granted = self.used = self.returned = 0  # totals
        self.reserved = 0  # by requests under way
        self.balance = 0  # what can be reserved: granted - used - returned - reserved
        self.ahead = 1  # how much to hold for requests to come
        self.unwritten = 0  # money of `used` that is not written yet
        self.waiting = 0  # what requests that wait need
        self.left = self.left_ns = 0  # what nobody held, or others did, when that was told
        self.used_ns = 0  # when it was last reserved from
        self.recalled_ns = 0  # until when nothing is kept ahead
        self.blocked_ns = 0  # until when it is empty, as far as is known
        self.next_ms = 0  # what to tell a client meanwhile; -1: in the next period

    def remaining(self, now_ns: int) -> int:
        """What a client can still use, as far as is known here."""
        allowance = self.allowance
        gained = 0
        if allowance.window_s and self.left_ns:
            gained = (now_ns - self.left_ns) * allowance.amount // (allowance.window_s * 1_000_000_000)
        return max(0, min(allowance.amount, self.left + gained + self.balance))


Want = tuple[Bucket, int]
"""What a request needs of a bucket. A plain tuple: several are made for every request."""


class Actual(NamedTuple):
    """What a request has used."""

    input: int
    output: int
    cost: int


class Leases:
    """All buckets that were ever needed here, and all reservations.

    Args:
        share: of an amount that is held ahead.

    Attributes:
        reservations: by request.
        touched: buckets that there is something to say of.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._buckets: dict[int, Bucket] = {}
        self.reservations: dict[int, tuple[Want, ...]] = {}
        self.touched: set[Bucket] = set()
        self._unwritten: dict[int, tuple[Want, ...]] = {}
        self._lately: dict[Bucket, None] = {}  # all that may hold something unused, those used least lately first

    def bucket(self, allowance: Allowance) -> Bucket:
        """The one of an allowance, which may have changed."""
        bucket = self._buckets.get(allowance.number)
        if bucket is None:
            bucket = self._buckets[allowance.number] = Bucket(allowance)
        bucket.allowance = allowance
        bucket.ahead = max(1, int(allowance.amount * self._share))
        return bucket

    def drop(self, number: int) -> None:
        """The allowance is no more. Reservations go on without it."""
        if (bucket := self._buckets.pop(number, None)) is not None:
            self.touched.discard(bucket)
            self._lately.pop(bucket, None)

    # --- requests --------------------------------------------------------------------------------------------------

    def short(self, wants: Iterable[Want]) -> list[Want]:
        """Those that there is not enough of."""
        return [want for want in wants if want[0].balance < want[1]]

    def take(self, parts: Sequence[tuple[int, tuple[Want, ...]]], now_ns: int) -> None:
        """Reserve for all choices of a call, whether it is there or not: ask `short` before."""
        for request, wants in parts:
            self.reservations[request] = wants
            for bucket, amount in wants:
                bucket.reserved += amount
                bucket.balance -= amount
                self._use(bucket, now_ns)
                if bucket.balance * 2 < bucket.ahead:
                    self.touched.add(bucket)

    def extend(self, request: int, more: Sequence[Want], now_ns: int) -> None:
        """Reserve more for a request under way, whether it is there or not. One that has ended needs nothing."""
        wants = self.reservations.get(request)
        if wants is None:
            return
        amounts = dict(wants)
        for bucket, amount in more:
            amounts[bucket] = amounts.get(bucket, 0) + amount
            bucket.reserved += amount
            bucket.balance -= amount
            self._use(bucket, now_ns)
            if bucket.balance * 2 < bucket.ahead:
                self.touched.add(bucket)
        self.reservations[request] = tuple(amounts.items())

    def wait(self, short: Iterable[Want], now_ns: int) -> None:
        """A request waits for these: what it needs is asked for with the next lines."""
        for bucket, amount in short:
            bucket.waiting += amount
            self._use(bucket, now_ns)
            self.touched.add(bucket)

    def settle(self, request: int, actual: Actual) -> bool:
        """A request has ended. Whether it had reserved anything, and had not ended before."""
        wants = self.reservations.pop(request, None)
        if wants is None:
            return False
        money: list[Want] = []
        for bucket, amount in wants:
            used = _used(bucket.allowance.dimension, amount, actual)
            bucket.reserved -= amount
            bucket.used += used
            bucket.balance += amount - used
            if bucket.allowance.dimension == "money" and used:
                bucket.unwritten += used
                money.append((bucket, used))
            self.touched.add(bucket)
        if money:
            self._unwritten[request] = tuple(money)
            if len(self._unwritten) > MAX_UNWRITTEN:  # it counts as held from now on
                self._unwritten.pop(next(iter(self._unwritten)))
        return True

    def release(self, request: int) -> bool:
        """It was not served: it has used nothing."""
        wants = self.reservations.pop(request, None)
        for bucket, amount in wants or ():
            bucket.reserved -= amount
            bucket.balance += amount
            self.touched.add(bucket)
        return wants is not None

    def written(self, request: int) -> None:
        """Its cost has been charged."""
        for bucket, amount in self._unwritten.pop(request, ()):
            bucket.unwritten -= amount
            self.touched.add(bucket)

    # --- the accounts process --------------------------------------------------------------------------------------

    def granted(self, grants: Iterable[Grant], now_ns: int) -> None:
        """What it said."""
        for grant in grants:
            if (bucket := self._buckets.get(grant.allowance)) is None:
                continue
            more = max(0, grant.granted - bucket.granted)
            bucket.granted += more
            bucket.balance += more
            self._lately.setdefault(bucket)
            bucket.left, bucket.left_ns = grant.left + grant.others, now_ns
            bucket.next_ms = grant.wait_ms
            wait_ns = BLOCKED_NS if grant.wait_ms < 0 else min(BLOCKED_NS, grant.wait_ms * 1_000_000)
            bucket.blocked_ns = now_ns + wait_ns if grant.wait_ms else 0

    def recall(self, numbers: Iterable[int], now_ns: int) -> None:
        """Others need these."""
        for number in numbers:
            if (bucket := self._buckets.get(number)) is not None:
                bucket.recalled_ns = now_ns + RECALLED_NS
                self.touched.add(bucket)

    def lines(self, now_ns: int) -> tuple[Line, ...]:
        """What there is to say, of all that were touched. What is not needed is given back."""
        found = tuple(self._line(bucket, now_ns) for bucket in self.touched)
        self.touched.clear()
        return found

    def idle(self, now_ns: int) -> None:
        """Look for leases that nobody uses: among those of late, however many there ever were. Some times a second.

        What is not among them any more gives back by itself what comes back to it (`_line`).
        """
        for bucket in tuple(self._lately):
            if now_ns - bucket.used_ns <= IDLE_NS:
                break
            if bucket.waiting:  # it gives nothing back yet
                continue
            del self._lately[bucket]
            if bucket.balance > 0:
                self.touched.add(bucket)

    def _use(self, bucket: Bucket, now_ns: int) -> None:
        bucket.used_ns = now_ns
        self._lately.pop(bucket, None)
        self._lately[bucket] = None

    def return_all(self) -> tuple[Line, ...]:
        """Give back everything that is not reserved: this ingress ends."""
        for bucket in self._buckets.values():
            bucket.recalled_ns = 1 << 62
            if bucket.balance > 0:
                self.touched.add(bucket)
        return self.lines(0)

    def all_lines(self, now_ns: int) -> tuple[Line, ...]:
        """Everything, for an accounts process that may have forgotten it."""
        self.touched.update(bucket for bucket in self._buckets.values() if bucket.granted or bucket.used)
        return self.lines(now_ns)

    def _line(self, bucket: Bucket, now_ns: int) -> Line:
        missing = bucket.waiting - bucket.balance if bucket.waiting else 0
        ahead = bucket.ahead
        active = now_ns - bucket.used_ns <= IDLE_NS and now_ns >= bucket.recalled_ns
        if not bucket.waiting:
            keep = ahead * 2 if active else 0
            if bucket.balance > keep:
                bucket.returned += bucket.balance - keep
                bucket.balance = keep
        needed = bucket.granted + max(0, missing)
        wanted = max(needed, bucket.granted + bucket.waiting + ahead - bucket.balance) if active else needed
        if active and not bucket.waiting and bucket.balance * 2 >= ahead:
            wanted = bucket.granted
        return Line(
            bucket.allowance.number, bucket.granted, bucket.used - bucket.unwritten, bucket.returned, needed, wanted
        )


def _used(dimension: Dimension, reserved: int, actual: Actual) -> int:
    match dimension:
        case "requests":
            return reserved
        case "input_tokens":
            return actual.input
        case "output_tokens":
            return actual.output
        case "total_tokens":
            return actual.input + actual.output
        case "money":
            return actual.cost
        case "concurrency":
            return 0
