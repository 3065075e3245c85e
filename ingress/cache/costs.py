"""What computing an answer took, so that a hit can say what it saved: overheard on the way to the ledger."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ingress.accounts import Ledger, Used, Whose

REMEMBERED: Final = 4096


class Overheard:
    """A ledger that remembers for a moment what its requests took, and passes everything on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._computed: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def ended(self, used: Used) -> None:
        """See `Ledger`."""
        if used.computed is not None:
            self._remember(used.request, used.computed)
        self._ledger.ended(used)

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """See `Ledger`."""
        self._remember(request, (compute_ns, prefill_ns))
        self._ledger.computed(request, compute_ns, prefill_ns)

    def rejected(self, request: int, whose: Whose, received_ns: int) -> None:
        """See `Ledger`."""
        self._ledger.rejected(request, whose, received_ns)

    def of(self, request: int) -> tuple[int, int] | None:
        """Nanoseconds of computing, and of prefill in it; None where nobody has said."""
        return self._computed.get(request)

    def _remember(self, request: int, computed: tuple[int, int]) -> None:
        self._computed[request] = computed
        while len(self._computed) > REMEMBERED:
            self._computed.popitem(last=False)
