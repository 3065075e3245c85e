"""Which line is next. Batches are opened, fed with lines, and closed; lines are taken, and answered or given back.

Projects take turns, a line each; within a project the oldest batch comes first. What is here can be forgotten at any
moment: the lines that have no answer are read again from the database.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from batch.core.verdict import Outcome, Verdict, verdict
from batch.core.window import Window

AGAIN_S: Final = 1.0  # after the first failure; twice as long after each further one


class Ref(NamedTuple):
    """A line, among all."""

    batch: str
    number: int


class Pending(NamedTuple):
    """A line without an answer. `attempts` of it have failed."""

    number: int
    offset: int
    length: int
    attempts: int


class Taken(NamedTuple):
    """A line to be asked for now. `attempt` counts from 1, this one included."""

    ref: Ref
    line: Pending

    @property
    def attempt(self) -> int:
        """Which one it is."""
        return self.line.attempts + 1


class _Open:
    """A batch in progress.

    Attributes:
        lines: that wait, in order.
        later: (when, line) of those that failed.
        more: the database has more after the last that was fed.
        last: number of that.
    """

    def __init__(self, project: str, model: str, window: Window) -> None:
        self.project, self.model, self.window = project, model, window
        self.lines: deque[Pending] = deque()
        self.later: list[tuple[int, Pending]] = []
        self.flying: dict[int, Pending] = {}
        self.more, self.last = True, 0

    def next(self, now_ns: int) -> Pending | None:
        """Taken out where one may be sent."""
        if len(self.flying) >= self.window.size or not self.window.open_at(now_ns):
            return None
        if self.later and self.later[0][0] <= now_ns:
            return heapq.heappop(self.later)[1]
        return self.lines.popleft() if self.lines else None


class Desk:
    """All batches in progress.

    Args:
        ahead: lines of a batch that are read before they are sent.
        most: lines in flight in all: the ingresses have others to serve.
    """

    def __init__(self, *, ahead: int, most: int) -> None:
        self._ahead, self._most = ahead, most
        self._open: dict[str, _Open] = {}  # oldest first
        self._limits: dict[str, int] = {}
        self._turns: deque[str] = deque()  # of projects
        self._flying: Counter[str] = Counter()  # lines of a model

    @property
    def flying(self) -> int:
        """Lines in flight."""
        return self._flying.total()

    def open(self, batch: str, project: str, model: str, limit: int) -> None:
        """A batch is in progress. `limit`: lines of its model in flight."""
        if batch not in self._open:
            self._limits[model] = limit
            self._open[batch] = _Open(project, model, Window(limit))
            if project not in self._turns:
                self._turns.append(project)

    def close(self, batch: str) -> list[Ref]:
        """It is not, any more; the lines in flight, whose answers are not wanted."""
        if (found := self._open.pop(batch, None)) is None:
            return []
        self._flying[found.model] -= len(found.flying)
        if all(other.project != found.project for other in self._open.values()):
            self._turns.remove(found.project)
        return [Ref(batch, number) for number in found.flying]

    def hungry(self) -> list[tuple[str, int, int]]:
        """(batch, after which line, how many) of those that could soon send more than they have."""
        return [
            (name, each.last, self._ahead)
            for name, each in self._open.items()
            if each.more and len(each.lines) <= self._ahead // 2
        ]

    def feed(self, batch: str, lines: Iterable[Pending], *, more: bool) -> None:
        """Lines after those before."""
        if (found := self._open.get(batch)) is not None:
            fed = tuple(lines)
            found.lines.extend(fed)
            found.more = more
            if fed:
                found.last = fed[-1].number

    def take(self, now_ns: int) -> Taken | None:
        """The next line; it is in flight from now on. None where none may be sent."""
        if self.flying >= self._most:
            return None
        for project in tuple(self._turns):
            for name, each in self._open.items():
                if each.project != project or self._flying[each.model] >= self._limits[each.model]:
                    continue
                if (line := each.next(now_ns)) is not None:
                    each.flying[line.number] = line
                    self._flying[each.model] += 1
                    self._turns.remove(project)
                    self._turns.append(project)
                    return Taken(Ref(name, line.number), line)
        return None

    def answered(self, ref: Ref, outcome: Outcome, now_ns: int) -> Verdict | None:
        """What is made of a line in flight; None where it is not. `kept` has yet to be written: then `written`."""
        each = self._open.get(ref.batch)
        if each is None or (line := each.flying.get(ref.number)) is None:
            return None
        found = verdict(outcome, line.attempts + 1)
        if found == "kept":
            each.window.answered()
            return found
        self._land(each, line)
        if found == "later":
            each.window.refused(outcome.retry_after_s, now_ns)
            each.lines.appendleft(line)
        else:
            wait_ns = int(AGAIN_S * 2.0**line.attempts * 1e9)
            heapq.heappush(each.later, (now_ns + wait_ns, line._replace(attempts=line.attempts + 1)))
        return found

    def written(self, ref: Ref) -> None:
        """A line's answer is in the database."""
        each = self._open.get(ref.batch)
        if each is not None and (line := each.flying.get(ref.number)) is not None:
            self._land(each, line)

    def lost(self, ref: Ref) -> None:
        """Nobody will answer a line in flight: it is sent again, as the same attempt."""
        each = self._open.get(ref.batch)
        if each is not None and (line := each.flying.get(ref.number)) is not None:
            self._land(each, line)
            each.lines.appendleft(line)

    def finished(self) -> list[str]:
        """Batches whose every line is written."""
        return [name for name, each in self._open.items() if not (each.more or each.lines or each.later or each.flying)]

    def next_ns(self, now_ns: int) -> int | None:
        """When a line that waits for its time may be sent; None where no line does."""
        times = [
            max(each.window.opens_ns, each.later[0][0] if each.later and not each.lines else 0)
            for each in self._open.values()
            if each.lines or each.later
        ]
        later = [at for at in times if at > now_ns]
        return min(later, default=None)

    def _land(self, each: _Open, line: Pending) -> None:
        del each.flying[line.number]
        self._flying[each.model] -= 1
