"""When a screen under test has come to rest: nothing is under way in it any more.

Textual's pilot takes a process for idle that used no processor for a hundredth of a second, or after one second. On a
loaded machine that is true of a process that is not let run, and pictures are then taken of half a dialog; on an idle
one every key costs most of that second while a screen draws. Here rest is a condition: all messages are processed, no
call is due after a refresh, nothing is to be laid out or drawn, nothing moves. Timers are not waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from textual._context import active_app
from textual.app import App
from textual.message_pump import MessagePump

PATIENCE_S: Final = 30.0
_LOOK_S: Final = 0.002
# A key passes the driver's own callbacks before it is in a queue; each takes a turn of the loop.
_TURNS: Final = 8


async def settle(*_: float, **__: float) -> None:
    """Wait until the application of this context is at rest; in place of `textual._wait.wait_for_idle`.

    Raises:
        AssertionError: it never is.
    """
    app = active_app.get()
    deadline = time.monotonic() + PATIENCE_S
    for _turn in range(_TURNS):
        await asyncio.sleep(0)
    while app._exception is None:
        pumps = [app, *app.screen_stack, *app.screen.walk_children()]
        busy = _under_way(app, pumps) or await _answered(pumps, deadline) or _under_way(app, pumps)
        if not busy:
            return
        assert time.monotonic() < deadline, f"not at rest after {PATIENCE_S} s: {busy}"
        await asyncio.sleep(_LOOK_S)


def _under_way(app: App[Any], pumps: Sequence[MessagePump]) -> str:
    """What is; empty where it is nothing that can be seen from outside."""
    for pump in pumps:
        if not pump._message_queue.empty() or pump._pending_message is not None or pump._next_callbacks:
            return f"messages of {pump}"
    for screen in app.screen_stack:
        if screen._callbacks:
            return f"what is due after a refresh of {screen}"
    screen = app.screen
    if screen._layout_required or screen._repaint_required or screen._dirty_widgets:
        return f"a refresh of {screen}"
    animator = app.animator
    return "an animation" if animator._animations or animator._scheduled else ""


async def _answered(pumps: Sequence[MessagePump], deadline: float) -> str:
    """Whether each has come to a message that was just sent to it: a handler may be at work on the one before."""
    waiting = 0

    def come() -> None:
        nonlocal waiting
        waiting -= 1

    for pump in pumps:
        waiting += pump.call_later(come)  # not where it is on its way out
    while waiting and time.monotonic() < deadline:
        await asyncio.sleep(0)
    return f"{waiting} handlers" if waiting else ""
