"""What regions of the screen tell the application. They know nothing of each other."""

from __future__ import annotations

from textual.message import Message

from admin_tui.actions import Order
from admin_tui.links import Link


class Ordered(Message):
    """The operator wants this done; nothing is done before the dialog."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order


class TimelineWanted(Message):
    """The events of this request are to be shown."""

    def __init__(self, request: int) -> None:
        super().__init__()
        self.request = request


class Jump(Message):
    """A thing is to be shown on its own screen."""

    def __init__(self, to: Link) -> None:
        super().__init__()
        self.to = to
