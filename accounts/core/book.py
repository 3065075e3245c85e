"""How much is left of every limit and budget, and which ingress holds how much of it. Pure.

What must hold, whatever is late, repeated or dies:

- *Limits* are buckets that fill evenly. What is in the bucket and what ingresses hold of it are together never more
  than the amount; so no more is used in any time than the amount and what has flowed in: leases add nothing to that.
- *Concurrency and money* are stocks: the amount less what is spent and what ingresses hold is what can be given.
- What an ingress used beyond its lease (an answer that was longer than reserved) is taken from the bucket, below zero:
  it is paid back by what flows in.
- What a dead ingress held of a limit is gone with it. Of money it is in doubt for `DOUBT_NS`, since other ingresses
  tell what its requests have cost; then it is free. So a budget is overspent by no more than what dead ingresses held.

Amounts in messages are totals that only grow; an old one says less and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from accounts.core import periods
from bus.messages.accounts import Allowance, Ask, Grant, Granted, Line, Settlement

DOUBT_NS: Final = 120_000_000_000
PATIENCE_NS: Final = 150_000_000  # an ask waits so long for what others give back
MAX_PARKED: Final = 10_000
LONGEST_WAIT_MS: Final = 3_600_000
CONCURRENCY_WAIT_MS: Final = 1000
MOST: Final = 1 << 62


class Holder(NamedTuple):
    """One incarnation of an ingress."""

    name: str
    epoch: int


class Hold(NamedTuple):
    """A lease: totals, see `bus.messages.accounts`."""

    granted: int = 0
    used: int = 0
    returned: int = 0

    @property
    def held(self) -> int:
        """What its ingress has not used or given back."""
        return self.granted - self.used - self.returned


class Level(NamedTuple):
    """What was in a bucket at a moment (CLOCK_MONOTONIC)."""

    tokens: int
    at_ns: int


class Doubt(NamedTuple):
    """Money that a dead ingress held, until when it counts as spent."""

    amount: int
    until_ns: int


class _Parked(NamedTuple):
    holder: Holder
    ask: Ask
    until_ns: int


class Account:
    """One allowance, and how it stands."""

    def __init__(self, allowance: Allowance, now_ns: int) -> None:
        self.allowance = allowance
        self.holds: dict[Holder, Hold] = {}
        self.held = 0
        self.level = Level(allowance.amount, now_ns)
        self.spent: dict[int, int] = {}  # by slot
        self.doubts: list[Doubt] = []

    @property
    def fills(self) -> bool:
        """Whether it is a bucket, not a stock."""
        return self.allowance.window_s > 0

    def spent_now(self, now_s: int) -> int:
        """Money of this period."""
        first = periods.counts_from(self.allowance.period, now_s) if self.allowance.period else 0
        return sum(amount for begin, amount in self.spent.items() if begin >= first)

    def free(self, now_ns: int, now_s: int) -> int:
        """What can be given."""
        if self.fills:
            self.fill(now_ns)
            return self.level.tokens
        in_doubt = sum(doubt.amount for doubt in self.doubts if doubt.until_ns > now_ns)
        return self.allowance.amount - self.spent_now(now_s) - self.held - in_doubt

    def fill(self, now_ns: int) -> None:
        """What has flowed in since. It is never more than was there in the time: rounding is to its loss."""
        tokens, at_ns = self.level
        amount, window_ns = self.allowance.amount, self.allowance.window_s * 1_000_000_000
        room = amount - self.held - tokens
        gained = max(0, now_ns - at_ns) * amount // window_ns
        if gained >= room:
            self.level = Level(tokens + room, now_ns)
        elif gained:
            self.level = Level(tokens + gained, at_ns - (-gained * window_ns // amount))

    def grant(self, holder: Holder, count: int, now_ns: int) -> None:
        """Give so much, whether it is there or not."""
        hold = self.holds.get(holder, Hold())
        self.holds[holder] = hold._replace(granted=hold.granted + count)
        self._takes(count, now_ns)

    def report(self, holder: Holder, line: Line, now_ns: int) -> bool:
        """What an ingress says of its lease; whether that was news."""
        before = self.holds.get(holder)
        if before is None:
            return self._met(holder, line, now_ns)
        used, returned = max(before.used, line.used), max(before.returned, line.returned)
        if self.fills:
            self.fill(now_ns)
        # It has used more than it had: that is taken, below zero if need be.
        granted = max(before.granted, line.granted, used + returned)
        now = Hold(granted, used, returned)
        if now == before:
            return False
        self.holds[holder] = now
        self.held += now.held - before.held
        if self.fills:
            change = (now.returned - before.returned) - (now.granted - before.granted)
            self.level = Level(self.level.tokens + change, self.level.at_ns)
        return True

    def _met(self, holder: Holder, line: Line, now_ns: int) -> bool:
        """An ingress that was not known here, or was thought to be dead: it has what it says, and what it used without
        a lease is taken. What it had before was taken then."""
        spent = line.used + line.returned
        hold = Hold(max(line.granted, spent), line.used, line.returned)
        if hold == Hold():
            return False
        self.holds[holder] = hold
        if self.fills:
            self.fill(now_ns)
            taken = hold.held + max(0, spent - line.granted)
            self.level = Level(self.level.tokens - taken, self.level.at_ns)
        self.held += hold.held
        return True

    def forget(self, holder: Holder, now_ns: int) -> None:
        """The ingress is dead."""
        hold = self.holds.pop(holder, None)
        if hold is None:
            return
        if self.fills:
            self.fill(now_ns)
        self.held -= hold.held
        if self.allowance.dimension == "money" and hold.held > 0:
            self.doubts = [doubt for doubt in self.doubts if doubt.until_ns > now_ns]
            self.doubts.append(Doubt(hold.held, now_ns + DOUBT_NS))

    def _takes(self, count: int, now_ns: int) -> None:
        if self.fills:
            self.fill(now_ns)
            self.level = Level(self.level.tokens - count, self.level.at_ns)
        self.held += count


class Book:
    """All allowances.

    Attributes:
        accounts: by number.
        dirty: numbers of those that have changed since somebody looked.
    """

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.dirty: set[int] = set()
        self._parked: list[_Parked] = []
        self._recalls: set[tuple[Holder, int]] = set()

    def put(self, allowance: Allowance, now_ns: int) -> None:
        """There is one, or it has another amount now."""
        account = self.accounts.get(allowance.number)
        if account is None:
            self.accounts[allowance.number] = Account(allowance, now_ns)
        else:
            if account.fills:
                account.fill(now_ns)
                change = allowance.amount - account.allowance.amount
                account.level = Level(account.level.tokens + change, account.level.at_ns)
            account.allowance = allowance
        self.dirty.add(allowance.number)

    def drop(self, number: int) -> None:
        """It is no more."""
        self.accounts.pop(number, None)
        self.dirty.discard(number)

    def ask(self, holder: Holder, ask: Ask, now_ns: int, now_s: int) -> Granted | None:
        """An ingress says what it has and needs. The answer; None where others are asked to give back first, and
        `turn` has it later."""
        for line in ask.lines:
            account = self.accounts.get(line.allowance)
            if account is not None and account.report(holder, line, now_ns):
                self.dirty.add(line.allowance)
        if len(self._parked) < MAX_PARKED and self._short(holder, ask, now_ns, now_s):
            self._recall(holder, ask)
            self._parked.append(_Parked(holder, ask, now_ns + PATIENCE_NS))
            return None
        return self._give(holder, ask, now_ns, now_s)

    def turn(self, now_ns: int, now_s: int) -> list[tuple[Holder, Granted]]:
        """Answers that are due by now: what was needed is there, or has not come."""
        answers: list[tuple[Holder, Granted]] = []
        left: list[_Parked] = []
        for parked in self._parked:
            if now_ns < parked.until_ns and self._short(parked.holder, parked.ask, now_ns, now_s):
                left.append(parked)
            else:
                answers.append((parked.holder, self._give(parked.holder, parked.ask, now_ns, now_s)))
        self._parked = left
        return answers

    def recalls(self) -> dict[Holder, list[int]]:
        """Whom to ask to give back what; each is said once."""
        found: dict[Holder, list[int]] = {}
        for holder, number in sorted(self._recalls):
            found.setdefault(holder, []).append(number)
        self._recalls.clear()
        return found

    def forget(self, holder: Holder, now_ns: int) -> None:
        """An ingress is dead."""
        for number, account in self.accounts.items():
            if holder in account.holds:
                account.forget(holder, now_ns)
                self.dirty.add(number)
        self._parked = [parked for parked in self._parked if parked.holder != holder]

    def holders(self) -> set[Holder]:
        """Everybody who has ever held something, and is not known to be dead."""
        return {holder for account in self.accounts.values() for holder in account.holds}

    def spend(self, records: Iterable[Settlement], budgets: Mapping[str, tuple[int, ...]]) -> None:
        """Charge what requests have cost. Each must be new.

        Args:
            budgets: numbers of the money that a key spends, by the key's id.
        """
        for record in records:
            for number in budgets.get(record.key, ()):
                account = self.accounts.get(number)
                if account is None or account.allowance.model not in ("", record.model):
                    continue
                begin = periods.slot(account.allowance.period, record.ended_ms // 1000)
                account.spent[begin] = min(MOST, account.spent.get(begin, 0) + record.cost)
                self.dirty.add(number)

    def tidy(self, now_ns: int, now_s: int) -> None:
        """Forget slots that do not count any more."""
        for account in self.accounts.values():
            if account.spent:
                first = periods.counts_from(account.allowance.period, now_s)
                account.spent = {begin: amount for begin, amount in account.spent.items() if begin >= first}
            account.doubts = [doubt for doubt in account.doubts if doubt.until_ns > now_ns]

    # --- giving ----------------------------------------------------------------------------------------------------

    def _short(self, holder: Holder, ask: Ask, now_ns: int, now_s: int) -> bool:
        """Whether something is missing that others could give back."""
        for line in ask.lines:
            account = self.accounts.get(line.allowance)
            if account is None:
                continue
            hold = account.holds.get(holder, Hold())
            missing = line.needed - hold.granted
            others = account.held - hold.held
            free = account.free(now_ns, now_s)
            if missing > max(0, free) and others > 0:  # perhaps not all of it: what comes serves some of who waits
                return True
        return False

    def _recall(self, holder: Holder, ask: Ask) -> None:
        for line in ask.lines:
            account = self.accounts.get(line.allowance)
            if account is not None and line.needed > account.holds.get(holder, Hold()).granted:
                self._recalls |= {
                    (other, line.allowance)
                    for other, held in account.holds.items()
                    if other != holder and held.held > 0
                }

    def _give(self, holder: Holder, ask: Ask, now_ns: int, now_s: int) -> Granted:
        return Granted(ask.number, tuple(self._line(holder, line, now_ns, now_s) for line in ask.lines))

    def _line(self, holder: Holder, line: Line, now_ns: int, now_s: int) -> Grant:
        account = self.accounts.get(line.allowance)
        if account is None:  # its ingress has not heard yet that it is no more: let it pass
            return Grant(line.allowance, max(line.needed, line.wanted), 0)
        hold = account.holds.get(holder, Hold())
        missing, wanted = line.needed - hold.granted, line.wanted - hold.granted
        free, wait_ms = account.free(now_ns, now_s), 0
        if free >= missing:
            # Half of what is free stays for others.
            count = min(wanted, max(missing, free // 2))
            if count > 0:
                account.grant(holder, count, now_ns)
                self.dirty.add(line.allowance)
                free -= count
        elif missing > 0:  # many may be waiting behind this: what there is serves the first of them
            wait_ms = _wait_ms(account, missing - free)
            if free > 0:
                account.grant(holder, free, now_ns)
                self.dirty.add(line.allowance)
                free = 0
        hold = account.holds.get(holder, Hold())
        return Grant(line.allowance, hold.granted, free, wait_ms, account.held - hold.held)


def _wait_ms(account: Account, missing: int) -> int:
    allowance = account.allowance
    if account.fills:
        return max(1, min(LONGEST_WAIT_MS, missing * allowance.window_s * 1000 // max(1, allowance.amount)))
    return -1 if allowance.dimension == "money" else CONCURRENCY_WAIT_MS
