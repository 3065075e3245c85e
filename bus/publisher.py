"""Sends a process's telemetry to the metrics process, over PUB: when nobody listens it is dropped, by design."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import zmq

from bus.messages.telemetry import Timeline, ToMetrics
from bus.messages.vitals import Doors
from bus.names import METRICS, TELEMETRY_DOOR, ipc, socket_path
from bus.wire import Codec

if TYPE_CHECKING:
    from bus.process import Life

PERIOD_S: Final = 0.5
SLOW: Final = 4  # periods between two of what is said seldom


class TelemetryPublisher:
    """Publishes twice a second: the sample, live requests, views, pending timeline events; what changes little and is
    long only every two seconds."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._codec: Codec[ToMetrics] = Codec("telemetry", ToMetrics)
        self._seq = self._rounds = 0
        self._socket = life.context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, 1000)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.connect(ipc(socket_path(METRICS, TELEMETRY_DOOR, life.run)))
        self._stop = life.loop.every(PERIOD_S, self._publish)

    def close(self) -> None:
        """One last time, then close."""
        self._stop()
        self._publish()
        self._socket.close(linger=100)

    def _publish(self) -> None:
        telemetry = self._life.telemetry
        self._send(self._life.sample())
        if telemetry.live_view is not None:
            self._send(telemetry.live_view())
        for view in (*telemetry.views, *(telemetry.slow_views if self._rounds % SLOW == 0 else ())):
            if (said := view()) is not None:
                self._send(said)
        if telemetry.doors and self._rounds % SLOW == 0:
            self._send(Doors(self._life.name, tuple(door() for door in telemetry.doors.values())))
        self._rounds += 1
        if events := telemetry.take_events():
            self._send(Timeline(self._life.name, events))

    def _send(self, body: msgspec.Struct) -> None:
        self._seq += 1
        self._socket.send_multipart(self._codec.encode(body, self._life.name, self._life.epoch, self._seq), zmq.NOBLOCK)
