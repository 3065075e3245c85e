"""The answer behind its guards: a stream that is made of another. What the guards let pass goes on; a finding that
blocks ends it, cleanly and at once; what was found is told with its end.

It survives its ingress like any other: what was drawn is replayed into new guards, which then hold back what the others
held back, as that follows from the text alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import Final, NamedTuple

import msgspec

from ingress.guards.channel import Channel, Due, Out
from ingress.guards.look import Guard, Seen, Whose, seen, seen_later
from ingress.streams import AbortReason, ContentKind, Finish, Part, Piece, Stream, joined, merge, parts_of

_ANSWER_ONLY: Final[frozenset[str]] = frozenset({"schema", "length", "grounding"})


class Case(NamedTuple):
    """What belongs to one answer.

    Attributes:
        context: the texts that it should rest on.
        before: what was found in the request, told with the answer's end too.
        done: is told at the end what was found, and how long that took.
    """

    guards: Sequence[Guard]
    context: Sequence[str]
    before: Mapping[str, str]
    whose: Whose
    done: Callable[[Sequence[Seen], int], None]


class _Place(NamedTuple):
    """What is looked at as one text."""

    kind: ContentKind
    call: int = -1
    name: str = ""

    def part(self, text: str) -> Part:
        """Some of it."""
        return Part(self.kind, text, self.call, self.name)


_TEXT: Final = _Place("text")


class _Run:
    """Content of one place that was generated in one go. What comes after it goes out after it, however long it is
    looked at."""

    def __init__(self, place: _Place) -> None:
        # Which tool is called is told before what with.
        self.parts = [place.part("")] if place.call >= 0 else []
        self.place = place
        self.over = False


class Guarded(Stream):
    """A stream of what guards let pass of another.

    Attributes:
        touched: it is not what was generated, or something was found: not to be kept for others.
    """

    def __init__(self, inner: Stream, case: Case) -> None:
        super().__init__(inner.request, inner.prompt_tokens, inner.abort)
        self.prompt_logprobs = inner.prompt_logprobs
        self._inner, self._case = inner, case
        self._channels: dict[_Place, Channel] = {}
        self._place: _Place | None = None  # of the newest content
        self._runs: deque[_Run] = deque()  # that have not gone out whole, in the order in which they were generated
        self._open: dict[_Place, deque[_Run]] = {}  # of these, those that more may come of
        self._tokens: list[Piece] = []  # whose text is held back; only their tokens count
        self._queue: list[Piece] = []  # that came while something was looked at
        self._looking: asyncio.Task[None] | None = None
        self._observing: set[asyncio.Task[Seen]] = set()
        self._findings: dict[tuple[object, ...], Seen] = {}
        self._stops: Seen | None = None  # for which the answer ends
        self._blocked = False
        self._over = False
        self._ns = 0
        inner.listen(self._hear)

    def touch(self) -> None:
        """What it is made of is not to be kept for others either."""
        super().touch()
        self._inner.touch()

    def _hand_over_soon(self) -> None:
        """At once: what this is made of has come a turn of the loop later already."""
        self._hand_over()

    def replay(self, told: Sequence[Piece]) -> list[Piece]:
        """Pieces that another ingress has told of the answer, before any other: as their listeners saw them."""
        shown = []
        for piece in told:
            parts, due = self._through(piece)
            self._note([seen(look.guard, look.text, self._case.context) for look in due if not look.guard.slow])
            shown.append(_with(piece, parts, piece.finish))
        return shown

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _hear(self, piece: Piece) -> None:
        if self._over:
            return
        if self._looking is not None:
            self._queue.append(piece)
        else:
            self._look_at(piece)

    def _look_at(self, piece: Piece) -> None:
        """One piece, as far as that goes without waiting."""
        begun = perf_counter_ns()
        if self._blocked:
            if piece.finish is not None:
                self._end(piece.finish, [])
            return
        parts, due = self._through(piece)
        self._tokens.append(piece)
        waits: list[Due] = []
        for look in due:
            if look.guard.slow:
                waits.append(look)
            else:
                self._note([seen(look.guard, look.text, self._case.context)])
        last = piece.finish is not None
        for look in waits if not last else ():
            if not look.holds:
                self._observe(look)
        waits = [look for look in waits if look.holds or last]
        self._ns += perf_counter_ns() - begun
        if waits or (last and (self._observing or any(channel.whole for channel in self._channels.values()))):
            self._looking = asyncio.ensure_future(self._wait(piece, parts, waits))
            self._looking.add_done_callback(self._looked)
        else:
            self._go_on(piece, parts)

    def _through(self, piece: Piece) -> tuple[list[Part], list[Due]]:
        """The piece's content, each kind through its channel; what of it may go out if the looks find nothing."""
        due: list[Due] = []
        if not piece.parts and piece.finish is None and self._place is _TEXT:  # as nearly all are
            if piece.text:
                self._add(_TEXT, self._channel(_TEXT).feed(piece.text), due)
            return self._ready(), due
        for part in parts_of(piece):
            place = _Place(part.kind, part.call, part.name) if part.kind != "text" else _TEXT
            if place != self._place:
                self._leave(due)
                self._enter(place)
            self._add(place, self._channel(place).feed(part.text), due)
        if piece.finish is not None:
            for place, channel in self._channels.items():
                self._add(place, channel.flush(), due)
                if not channel.whole:
                    self._close(place)
        return self._ready(), due

    def _enter(self, place: _Place) -> None:
        self._place = place
        run = _Run(place)
        self._runs.append(run)
        self._open.setdefault(place, deque()).append(run)

    def _leave(self, due: list[Due]) -> None:
        """Other content follows. A call is never gone on with, so all of it comes out now."""
        if (place := self._place) is None:
            return
        channel = self._channels[place]
        self._add(place, channel.flush() if place.call >= 0 else channel.pause(), due)
        if place.call >= 0 and not channel.whole:
            self._close(place)
            del self._channels[place]

    def _add(self, place: _Place, out: Out, due: list[Due]) -> None:
        if out.seen:
            self._note(out.seen)
        due += out.due
        self._tell(place, out.texts)

    def _tell(self, place: _Place, texts: Sequence[str]) -> None:
        """More of the runs of a place; with each text after the first one, a run is over."""
        runs = self._open[place]
        for number, text in enumerate(texts):
            if number:
                runs.popleft().over = True
            if text:
                runs[0].parts.append(place.part(text))

    def _close(self, place: _Place) -> None:
        """No more comes of a place."""
        for run in self._open.pop(place, ()):
            run.over = True

    def _ready(self) -> list[Part]:
        """What may go out, in the order in which it was generated."""
        parts: list[Part] = []
        while self._runs:
            run = self._runs[0]
            parts += run.parts
            run.parts = []
            if not run.over:
                break
            self._runs.popleft()
        return parts

    def _channel(self, place: _Place) -> Channel:
        if (channel := self._channels.get(place)) is None:
            kind = place.kind
            guards = [guard for guard in self._case.guards if kind == "text" or guard.config.kind not in _ANSWER_ONLY]
            channel = self._channels[place] = Channel(guards, is_json=kind == "tool")
        return channel

    def _go_on(self, piece: Piece, parts: list[Part]) -> None:
        """Everything has been looked at that had to be."""
        if self._stops is not None:
            # What a look has just found something in stays here; text before a span or a limit has been let pass.
            certain = bool(self._stops.guard.kinds) or self._stops.guard.limit is not None
            self._block(piece, parts if certain and not self._stops.trouble else [])
        elif piece.finish is not None:
            self._end(piece.finish, parts)
        elif parts:
            self._out(parts, None)

    def _block(self, piece: Piece, parts: list[Part]) -> None:
        self._blocked = True
        self.touch()
        if parts:
            self._out(parts, None)
        if piece.finish is not None:
            self._end(piece.finish, [])
        else:
            self._inner.abort("stop")  # its last piece has the account

    def _end(self, finish: Finish, parts: list[Part]) -> None:
        self._over = True
        found = [one for one in self._findings.values() if one.look.found and one.guard.config.action != "shadow"]
        if found:
            self.touch()
        guards = dict([*self._case.before.items(), *((one.guard.name, one.outcome) for one in found)])
        reason = "content_filter" if self._blocked else finish.reason
        stop_reason = None if self._blocked else finish.stop_reason
        error = "" if self._blocked else finish.error
        self._case.done(tuple(self._findings.values()), self._ns)
        self._out(parts, msgspec.structs.replace(
            finish, reason=reason, stop_reason=stop_reason, error=error, guards=tuple(guards.items())
        ))  # fmt: skip

    def _out(self, parts: list[Part], finish: Finish | None) -> None:
        held, self._tokens = self._tokens, []
        drawn = merge(held) if held else Piece(timing=finish.timing if finish is not None else None)
        self.push(_with(drawn, parts, finish))

    def _note(self, found: Sequence[Seen]) -> None:
        """Each finding once: an answer may have thousands of a kind."""
        for one in found:
            if one.look.found and self._stops is None and one.stops:
                self._stops = one
            self._findings.setdefault((one.guard.name, one.look, one.trouble), one)

    # --- what takes its time ---------------------------------------------------------------------------------------

    def _observe(self, look: Due) -> None:
        task = asyncio.ensure_future(seen_later(look.guard, look.text, self._case.context, self._case.whose))
        self._observing.add(task)

    async def _wait(self, piece: Piece, parts: list[Part], waits: Sequence[Due]) -> None:
        looks = [seen_later(look.guard, look.text, self._case.context, self._case.whose) for look in waits]
        self._note(await asyncio.gather(*looks))
        if piece.finish is not None:
            observed, self._observing = self._observing, set()
            self._note(await asyncio.gather(*observed))
            for place, channel in self._channels.items() if self._stops is None else ():
                masks = [seen_later(look.guard, look.text, (), self._case.whose) for look in channel.whole]
                if masks:
                    found = await asyncio.gather(*masks)
                    self._note(found)
                    self._tell(place, channel.finish(found))
                self._close(place)
            parts += self._ready()
        self._looking = None
        self._go_on(piece, parts)

    def _looked(self, task: asyncio.Task[None]) -> None:
        """Go on with what came meanwhile."""
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            raise error
        while self._queue and self._looking is None:
            self._hear(self._queue.pop(0))

    def abort(self, reason: AbortReason = "client") -> None:
        """Not wanted any more: nothing is looked at any more either."""
        if not self._over:
            for task in self._observing:
                task.cancel()
            self._observing.clear()
            self._inner.abort(reason)


def _with(piece: Piece, parts: Sequence[Part], finish: Finish | None) -> Piece:
    """The piece with other content, and another end."""
    content: tuple[Part, ...] = ()
    if len(parts) == 1 and parts[0].kind == "text":
        text = parts[0].text
    else:
        content = joined(parts)
        text = "".join(part.text for part in content if part.kind == "text")
        if all(part.kind == "text" for part in content):
            content = ()
    return Piece(text, piece.tokens, piece.logprobs, finish, piece.raw, piece.cached_tokens, piece.timing, content)
