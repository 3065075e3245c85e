"""The latest of what each process said for the detail screens, and when. What is silent for long is dropped."""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

from bus.messages.vitals import AccountsView, Doors, PagesView, SchedulerView, WorkerView
from metrics.core.fleet import GONE_NS, MAX_PROCESSES

View = SchedulerView | PagesView | Doors | WorkerView | AccountsView
Said = TypeVar("Said", SchedulerView, PagesView, Doors, WorkerView, AccountsView)
KEPT_NS: Final = GONE_NS


class Heard(NamedTuple, Generic[Said]):
    """A view, and when it came."""

    view: Said
    at_ns: int


class Views:
    """By process name."""

    def __init__(self) -> None:
        self.schedulers: dict[str, Heard[SchedulerView]] = {}
        self.arenas: dict[str, Heard[PagesView]] = {}
        self.doors: dict[str, Heard[Doors]] = {}
        self.workers: dict[str, Heard[WorkerView]] = {}
        self.accounts: dict[str, Heard[AccountsView]] = {}

    def take(self, view: View, now_ns: int) -> None:
        """A process said it, instead of what it said before."""
        match view:
            case SchedulerView():
                _keep(self.schedulers, view, now_ns)
            case PagesView():
                _keep(self.arenas, view, now_ns)
            case Doors():
                _keep(self.doors, view, now_ns)
            case WorkerView():
                _keep(self.workers, view, now_ns)
            case AccountsView():
                _keep(self.accounts, view, now_ns)

    def expire(self, now_ns: int) -> None:
        """Drop what is old."""
        for kept in (self.schedulers, self.arenas, self.doors, self.workers, self.accounts):
            for name in [name for name, heard in kept.items() if heard.at_ns < now_ns - KEPT_NS]:
                del kept[name]


def _keep(kept: dict[str, Heard[Said]], view: Said, now_ns: int) -> None:
    if view.name in kept or len(kept) < MAX_PROCESSES:
        kept[view.name] = Heard(view, now_ns)
