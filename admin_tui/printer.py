"""Prints what the screen would show, without a screen: `--once`, `--json`, `--plain`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from admin_tui import plain
from admin_tui.details import DETAILS
from admin_tui.feed import Feed
from admin_tui.world import World
from bus.process import EXIT_MISSING

FIRST_WORD_S: Final = 5.0
DETAILS_S: Final = 2.0  # a metrics process of an older release does not answer all questions
PERIOD_S: Final = 2.0


def print_feed(make_feed: Callable[[], Feed], *, json: bool, once: bool) -> int:
    """Print the world, once or until interrupted.

    Returns:
        0, or 69 where the metrics process did not answer in time.
    """
    try:
        return asyncio.run(_print(make_feed, json=json, once=once))
    except KeyboardInterrupt:
        return 0


async def _print(make_feed: Callable[[], Feed], *, json: bool, once: bool) -> int:
    world, feed, heard, complete = World(), make_feed(), asyncio.Event(), asyncio.Event()

    def take(event: object) -> None:
        world.apply(event, feed.now_ns())  # type: ignore[arg-type]
        if world.heard_ns:
            heard.set()
        if world.details.complete:
            complete.set()

    feed.start(take)
    try:
        try:
            await asyncio.wait_for(heard.wait(), FIRST_WORD_S)
        except TimeoutError:
            print(f"no word from metrics@host in {FIRST_WORD_S:.0f} s: is headrace up?", file=sys.stderr)
            return EXIT_MISSING
        for kind in DETAILS:
            feed.ask(kind)
        with suppress(TimeoutError):
            await asyncio.wait_for(complete.wait(), DETAILS_S)
        while True:
            now_ns = feed.now_ns()
            print(plain.as_json(world, now_ns).decode() if json else "\n".join(plain.lines(world, now_ns)), flush=True)
            if once:
                return 0
            await asyncio.sleep(PERIOD_S)
            print()
            for kind in DETAILS:
                feed.ask(kind)
    finally:
        feed.close()
