"""Snapshot first, then updates in sequence; a gap or a new publisher means a new snapshot. Pure.

The Clone pattern of ZeroMQ's guide: updates that arrive while a snapshot is under way are kept and applied after it.
"""

from __future__ import annotations

from typing import Final

from bus.messages.observe import Snapshot, Update

MAX_KEPT: Final = 64  # half a minute at 2 Hz; a snapshot that takes longer is asked for again

Known = Snapshot | Update


class Sync:
    """What to apply, and when to ask for a snapshot.

    Attributes:
        asking: a snapshot is wanted; whoever can, asks for it.
    """

    def __init__(self) -> None:
        self.asking = True
        self._epoch = -1
        self._seq = -1
        self._kept: list[Update] = []

    def restart(self) -> None:
        """The link to the publisher came up again: whatever was known may be of another incarnation."""
        self.asking = True
        self._kept.clear()

    def on_update(self, update: Update, epoch: int) -> list[Known]:
        """An update of incarnation `epoch` arrived. Returns what to apply now, in order."""
        if epoch != self._epoch:
            self._epoch = epoch
            self.restart()
        if self.asking:
            self._kept = [*self._kept[-MAX_KEPT + 1 :], update]
            return []
        if update.seq <= self._seq:
            return []
        if update.seq > self._seq + 1:
            self.restart()
            self._kept = [update]
            return []
        self._seq = update.seq
        return [update]

    def on_snapshot(self, snapshot: Snapshot, epoch: int) -> list[Known]:
        """The snapshot of incarnation `epoch` arrived. Returns it with the kept updates that go on from it."""
        if epoch != self._epoch:
            self._epoch, self._kept = epoch, []
        self.asking = False
        self._seq = snapshot.seq
        kept, self._kept = self._kept, []
        applied: list[Known] = [snapshot]
        for update in kept:
            applied += self.on_update(update, epoch)
        return applied
