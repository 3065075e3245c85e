"""The one source of data of the screens. `LiveFeed` reads the bus; `replay.ReplayFeed` reads a file.

Live: a snapshot from the metrics process's observe door, then its sequenced updates (see `sync`); once in two seconds
the fleet from the supervisor. What only one screen shows is asked for while it is looked at. Never anything from the
serving processes: a screen must not cost a request.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import zmq

from admin_tui.actions import Order
from admin_tui.archive import Archive
from admin_tui.courier import Courier, OnAnswer
from admin_tui.details import Detail, DetailKind
from admin_tui.doors import Doors
from admin_tui.keeping import Keeper, Keeping
from admin_tui.sync import Sync
from admin_tui.world import Event, LinkDown, LinkUp, Services, SupervisorGone
from bus.identity import Visitor
from bus.link import Link
from bus.loop import Loop
from bus.messages.control import Fleet, FromProcess, GetFleet
from bus.messages.details import GetAllowances, GetBus, GetHost, GetModels, GetPages, GetSteps, Question
from bus.messages.observe import GetSnapshot, GetTimeline, Snapshot, TimelineReply, ToObserver, Update
from bus.messages.usage import GetUsage
from bus.names import CONTROL_DOOR, FEED_DOOR, METRICS, OBSERVE_DOOR, SUPERVISOR, ipc, socket_path
from bus.socket import Pump, configure
from bus.wire import BadFrame, Codec

FLEET_S: Final = 2.0
USAGE_S: Final = 86_400  # how far back usage is asked for
ASK_AGAIN_S: Final = 2.0  # for a snapshot that did not come

OnEvent = Callable[[Event], None]


class Feed(Protocol):
    """Where screens get their data and leave their orders.

    Attributes:
        label: how the top bar calls it: "live", "replay".
    """

    label: str

    def start(self, on_event: OnEvent) -> None:
        """Begin; `on_event` is called on the loop."""
        ...

    def now_ns(self) -> int:
        """The clock that events are on."""
        ...

    def ask_timeline(self, request: int) -> None:
        """A `TimelineReply` comes as an event."""
        ...

    def ask(self, kind: DetailKind) -> None:
        """The details of one screen come as an event. Asked again as often as they are to be shown anew."""
        ...

    def ask_logs(self) -> None:
        """New log records come as an event."""
        ...

    def ask_actions(self) -> None:
        """The newest of the audit log comes as an event."""
        ...

    def give(self, order: Order, on_answer: OnAnswer, *, supervised: bool) -> None:
        """Carry out an order."""
        ...

    def close(self) -> None:
        """End."""
        ...


class LiveFeed:
    """The bus of this host.

    Args:
        keeper: of the processes, where no supervisor is.
    """

    label = "live"

    def __init__(self, loop: Loop, run: Path | None = None, keeper: Keeper | None = None) -> None:
        self._me = Visitor("tui", loop, run)
        self._rids = itertools.count(1)
        self._sync = Sync()
        self._updates: Codec[Update] = Codec("observe", Update)
        self._on_event: OnEvent = lambda _: None
        self._courier = Courier(self._me)
        self._archive = Archive()
        self._keeping: Keeping | None = None
        self._keeper = keeper
        self.refused = 0

    def start(self, on_event: OnEvent) -> None:
        """Connect to the metrics process and to the supervisor; either may come later."""
        self._on_event = on_event
        me = self._me
        self._socket = me.context.socket(zmq.SUB)
        configure(self._socket)
        self._socket.subscribe(b"")
        self._socket.connect(ipc(socket_path(METRICS, FEED_DOOR, me.run)))
        self._pump = Pump(me.loop, self._socket, self._receive)
        self._metrics: Link[ToObserver] = Link(
            me, METRICS, OBSERVE_DOOR, "observe", ToObserver,
            on_message=self._on_answer, on_up=self._on_up, on_down=lambda why: on_event(LinkDown(why)),
        )  # fmt: skip
        self._supervisor: Link[FromProcess] = Link(
            me, SUPERVISOR, CONTROL_DOOR, "control", FromProcess,
            on_message=self._on_fleet, on_up=self._ask_fleet, on_down=lambda _: on_event(SupervisorGone()),
        )  # fmt: skip
        if self._keeper is not None:
            self._keeping = Keeping(me.loop, self._keeper, lambda services: on_event(Services(services)))
        self._doors = Doors(me, on_event)
        self._stops = (me.loop.every(FLEET_S, self._ask_fleet), me.loop.every(ASK_AGAIN_S, self._ask_snapshot))

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return self._me.loop.now_ns()

    def ask_timeline(self, request: int) -> None:
        """Not answered where the metrics process is gone; the screen asks again while it is open."""
        self._metrics.send(GetTimeline(next(self._rids), request))

    def ask(self, kind: DetailKind) -> None:
        """Not answered where the metrics process is gone, or of a release that does not know the question."""
        self._metrics.send(_question(kind, next(self._rids)))

    def ask_logs(self) -> None:
        """From this host's files or journal."""
        self._on_event(self._archive.logs())

    def ask_actions(self) -> None:
        """From this host's files; of another user's stack, from the metrics process."""
        if self._doors.strangers:
            self._doors.ask_actions()
        else:
            self._on_event(self._archive.actions())

    def give(self, order: Order, on_answer: OnAnswer, *, supervised: bool) -> None:
        """Carry out an order at a control door, or have the keeper do it."""
        if self._keeping is not None and not supervised and self._keeping.carries_out(order):
            self._keeping.give(order, on_answer)
            return
        self._courier.give(order, on_answer, supervised=supervised)

    def close(self) -> None:
        """Close every socket."""
        for stop in self._stops:
            stop()
        self._courier.close()
        if self._keeping is not None:
            self._keeping.close()
        self._doors.close()
        self._archive.close()
        self._supervisor.close()
        self._metrics.close()
        self._pump.close()

    def _on_up(self) -> None:
        self._on_event(LinkUp())
        self._sync.restart()
        self._ask_snapshot()

    def _ask_snapshot(self) -> None:
        if self._sync.asking:
            self._metrics.send(GetSnapshot(next(self._rids)))

    def _ask_fleet(self) -> None:
        self._supervisor.send(GetFleet(next(self._rids)))

    def _on_answer(self, message: ToObserver) -> None:
        if isinstance(message, Snapshot):
            for known in self._sync.on_snapshot(message, self._metrics.peer_epoch):
                self._on_event(known)
        elif isinstance(message, TimelineReply | Detail):
            self._on_event(message)

    def _on_fleet(self, message: FromProcess) -> None:
        if isinstance(message, Fleet):
            self._on_event(message)

    def _receive(self) -> None:
        frames = self._socket.recv_multipart(zmq.NOBLOCK)
        try:
            header, update = self._updates.decode(frames)
        except BadFrame:
            self.refused += 1
            return
        asked = self._sync.asking
        for known in self._sync.on_update(update, header.epoch):
            self._on_event(known)
        if self._sync.asking and not asked:
            self._ask_snapshot()


def _question(kind: DetailKind, rid: int) -> Question | GetUsage:
    match kind:
        case "steps":
            return GetSteps(rid)
        case "pages":
            return GetPages(rid)
        case "host":
            return GetHost(rid)
        case "bus":
            return GetBus(rid)
        case "models":
            return GetModels(rid)
        case "allowances":
            return GetAllowances(rid)
        case "usage":
            return GetUsage(rid, int(time.time()) - USAGE_S, limit=16)
