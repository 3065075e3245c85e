"""What a GPU's memory is for, and how many pages fit into what is left. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

# Kept free: allocators round, and drivers take something of their own now and then.
SPARE_SHARE: Final = 0.03
SPARE_BYTES: Final = 256 << 20


class NoRoom(ValueError):
    """Device memory is too small for what it is to hold. The message says what takes how much."""


class Balance(NamedTuple):
    """Bytes of a GPU's memory. They add up to `total`.

    Attributes:
        weights: of the model.
        activations: what steps of the largest kind take beside weights and KV.
        graphs: kept for graphs.
        other: of other processes, the driver's, and everything else.
        kv: pages.
        free: what is left.
    """

    total: int
    weights: int
    activations: int
    graphs: int
    other: int
    kv: int
    free: int

    def lines(self) -> tuple[tuple[str, int], ...]:
        """(what, bytes), the total left out."""
        return tuple((name, value) for name, value in self._asdict().items() if name != "total")

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / (1 << 30):.2f}" for name, value in self.lines())
        return f"{parts} of {self.total / (1 << 30):.2f} GiB"


class Measured(NamedTuple):
    """What was found after a step of the largest kind, before there were pages. Bytes.

    Attributes:
        total: of the device.
        free: as the driver says, with the allocator's cache given back.
        weights: of the model.
        peak: most that torch had in use at once, weights included.
    """

    total: int
    free: int
    weights: int
    peak: int


def pages_that_fit(
    measured: Measured, page_bytes: int, *, graphs: int, budget: int, least: int, spare: int | None = None
) -> tuple[int, Balance]:
    """How many pages of KV the device takes, and the balance with them.

    Args:
        page_bytes: of a page.
        graphs: bytes to keep for graphs.
        budget: bytes that KV gets; 0 is all that is left.
        least: pages without which nothing can be served.
        spare: bytes that stay free; None for a share of the device.

    Raises:
        NoRoom: fewer fit.
    """
    total, free, weights, peak = measured
    activations = max(0, peak - weights)
    spare = SPARE_BYTES + int(SPARE_SHARE * total) if spare is None else spare
    room = max(0, free - activations - graphs - spare)
    wanted = min(budget, room) if budget else room
    pages = wanted // page_bytes
    kv = pages * page_bytes
    balance = Balance(total, weights, activations, graphs, total - free - weights, kv, free - activations - graphs - kv)
    if pages < least:
        said = f"the configured budget of {budget} bytes" if 0 < budget < room else "what is left"
        raise NoRoom(f"{least} pages of KV of {page_bytes} bytes are needed, {said} has room for {pages}: {balance}")
    return pages, balance
