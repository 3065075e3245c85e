"""Tool calls as an upstream streams them, as parts of an answer. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ingress.streams import Part
from ingress.upstreams.heard import Garbage

MOST: Final = 128  # of an answer


class Calls:
    """Those of one answer. What an upstream calls them is left out: clients know a call by an id that is given here.

    Args:
        tools: names of those that may be called.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = tools
        self._names: list[str] = []
        self._last: int | None = None  # the upstream's number of the call that arguments are heard of

    def take(self, number: int | None, name: str, arguments: str) -> Part:
        """More of a call.

        Args:
            number: the upstream's; None where it does not count.
            name: empty in what is not a call's beginning.

        Raises:
            Garbage: no such tool was given, or which call it belongs to cannot be told.
        """
        begins = not self._names or (bool(name) if number is None else number != self._last)
        if begins:
            if not name:
                raise Garbage("it says what a tool is called with, and not which")
            if name not in self._tools:
                raise Garbage("it calls a tool that it was not given")
            if number is not None and self._last is not None and number < self._last:
                raise Garbage("it goes back to a call that has ended")
            if len(self._names) == MOST:
                raise Garbage(f"it calls more than {MOST} tools")
            self._names.append(name)
            self._last = number
        return Part("tool", arguments, len(self._names) - 1, self._names[-1])
