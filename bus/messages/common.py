"""What every ROUTER/DEALER conversation starts and lives with. Tags 0 to 9 of each channel.

Hello, welcome and nack are read before a protocol is agreed on (`bus.wire`): they change by appended fields only, ever.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ProcessState = Literal["starting", "ready", "draining", "stopped", "failed"]

NackReason = Literal[
    "hello_required",  # this incarnation has not met you: say hello again
    "protocol",  # no protocol in common, or not the one that was agreed on
    "stale",  # a newer incarnation of you is connected
    "forbidden",  # credentials, role or name not allowed here
    "malformed",  # a frame did not decode
    "mismatch",  # build, model or geometry differ
    "unsupported",  # understood, but not by this process
]


class Hello(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=0):
    """First message of an incarnation on a connection; may be repeated. It knows all protocols from min to max.

    `pid` must be the kernel's credential of the connection on ipc; it is what liveness watches.
    """

    protocol_min: int
    protocol_max: int
    build: str
    role: str
    pid: int
    state: ProcessState = "starting"


class Welcome(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """Answer to `Hello`: the connection is up, and `protocol` is spoken on it. `pid` is the listener's, for the other
    side's liveness."""

    build: str
    pid: int
    state: ProcessState
    protocol: int = 1


class Heartbeat(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Sent from the *main loop*, so it stops when the loop is stuck.

    `progress` counts units of useful work since the start (steps, requests, operations); a process that is busy and
    does not progress is hung, however well its sockets answer. `busy` says whether work is in hand.

    Attributes:
        sent_ns: the sender's clock; what it means is the sender's business.
        echo_ns: `sent_ns` of the last heartbeat that came from the other side, and `held_ns` how long ago that was: so
            both know how long a message takes there and back, whatever their clocks say. 0 where none came.
    """

    progress: int
    busy: bool
    state: ProcessState
    sent_ns: int = 0
    echo_ns: int = 0
    held_ns: int = 0


class Nack(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """A message was refused. `seq` is the refused message's own, 0 where it could not be read."""

    reason: NackReason
    detail: str
    seq: int = 0


class Bye(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """A clean end: the sender will not speak again in this incarnation."""

    reason: str = ""
