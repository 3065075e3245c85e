"""The screens, in the order of their keys. A screen is added here and nowhere else."""

from __future__ import annotations

from typing import Final, NamedTuple

from admin_tui.accounts.view import AccountsView
from admin_tui.alarms.view import AlarmsView
from admin_tui.bus.view import BusView
from admin_tui.fleet.view import FleetView
from admin_tui.host.view import HostView
from admin_tui.kv.view import KvView
from admin_tui.logs.view import LogsView
from admin_tui.models.view import ModelsView
from admin_tui.pulse.view import PulseView
from admin_tui.requests.view import RequestsView
from admin_tui.scheduler.view import SchedulerView
from admin_tui.view import View
from bus.names import ACCOUNTS


class Shown(NamedTuple):
    """One screen.

    Attributes:
        key: that shows it.
        id: of its widget, of its folder, and in `view.ID` of a key map.
        title: on the key line.
        make: its widget.
        needs: a process without which it has little to show: the key line leaves it out then, and its key works all the
            same.
    """

    key: str
    id: str
    title: str
    make: type[View]
    needs: str = ""

    @property
    def style(self) -> str:
        """Its style sheet, beside its code."""
        return f"{self.id}/style.tcss"


VIEWS: Final = (
    Shown("1", "pulse", "Pulse", PulseView),
    Shown("2", "fleet", "Fleet", FleetView),
    Shown("3", "host", "Host", HostView),
    Shown("4", "requests", "Requests", RequestsView),
    Shown("5", "scheduler", "Scheduler", SchedulerView),
    Shown("6", "kv", "KV", KvView),
    Shown("7", "models", "Models", ModelsView),
    Shown("8", "bus", "Bus", BusView),
    Shown("9", "logs", "Logs", LogsView),
    Shown("0", "alarms", "Alarms", AlarmsView),
    Shown("a", "accounts", "Accounts", AccountsView, needs=ACCOUNTS),
)
FIRST: Final = VIEWS[0]


def shown(id: str) -> Shown:
    """The screen of an id.

    Raises:
        KeyError: there is none.
    """
    for view in VIEWS:
        if view.id == id:
            return view
    raise KeyError(id)
