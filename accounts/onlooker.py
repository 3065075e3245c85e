"""What the accounts process says of itself to screens: limits and budgets that were in use lately. Pure.

With tens of thousands of keys there is more than anybody looks at, and to look through all of it every two seconds
would cost more than everything else here: so only what has changed lately is looked at, and a bounded part of that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from accounts.core.book import Account, Book
from accounts.core.directory import Register
from bus.messages.vitals import AccountsView, Standing

MOST_LOOKED_AT: Final = 512
MOST_SHOWN: Final = 64


class Onlooker:
    """Remembers which accounts have changed."""

    def __init__(self, register: Register, book: Book) -> None:
        self._register, self._book = register, book
        self._lately: OrderedDict[int, None] = OrderedDict()

    def changed(self, numbers: Iterable[int]) -> None:
        """These allowances have."""
        lately = self._lately
        for number in numbers:
            lately[number] = None
            lately.move_to_end(number)
        while len(lately) > MOST_LOOKED_AT:
            lately.popitem(last=False)

    def view(self, name: str, currency: str, now_ns: int, now_s: int) -> AccountsView:
        """As of now."""
        register, accounts = self._register, self._book.accounts
        found = [self._standing(accounts[number], now_ns, now_s) for number in self._lately if number in accounts]
        found.sort(key=lambda one: (one.left / max(1, one.amount), one.scope, one.dimension))
        good = sum(not key.revoked_s for key in register.keys.values())
        return AccountsView(
            name, good, len(register.projects), len(register.allowances), currency, tuple(found[:MOST_SHOWN])
        )

    def _standing(self, account: Account, now_ns: int, now_s: int) -> Standing:
        allowance, left = account.allowance, account.free(now_ns, now_s)
        used = 0
        if allowance.dimension == "money":
            used = account.spent_now(now_s)
        elif account.fills:
            used = max(0, allowance.amount - left - account.held)
        key = self._register.keys.get(allowance.scope) if allowance.kind == "key" else None
        return Standing(
            allowance.kind, allowance.scope, key.name if key is not None else "", allowance.dimension, allowance.model,
            allowance.amount, allowance.window_s, allowance.period, used, account.held, left,
        )  # fmt: skip
