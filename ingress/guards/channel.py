"""One text of an answer on its way through the guards: what may go out by now, and what has to be looked at first.
Pure, and a function of the text alone: cut into pieces otherwise, the same comes out.

Those that block see the text as it was generated, and hold back what they have not seen whole. What they all have let
pass goes through those that mask, one after the other. Those that only flag hold nothing back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ingress.guards.json_text import JsonMasker
from ingress.guards.look import Guard, Look, Seen, failed, kinds_of
from ingress.guards.scan import Part, Scanner, masked, scan


class Due(NamedTuple):
    """A look to be taken. `holds`: the text that came out with it may only go out when it found nothing."""

    guard: Guard
    text: str
    holds: bool


class Out(NamedTuple):
    """What came of more text.

    Attributes:
        texts: for the client, once all of `due` that hold it have been looked at: more of the run that is under way,
            and then, for each run that is over with that, of the next.
        due: looks to be taken.
        seen: what was found already. After one that blocks, no text follows.
    """

    texts: list[str]
    due: list[Due]
    seen: list[Seen]


class _Gate:
    """One guard that does not mask, and how far it has let the text pass."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.passed = 0  # characters
        self.stopped = False  # it found something at `passed`
        self._scanner = Scanner(guard.kinds) if guard.kinds else None
        self._text = ""  # of the window, or of everything
        self._begin = 0  # where that text begins
        self._length = 0
        self._told: set[str] = set()
        self._broken = False

    def take(self, text: str, *, final: bool) -> tuple[list[Due], list[Seen]]:
        """More text; what is to be looked at, and what was found."""
        self._length += len(text)
        if self._broken:
            if not self.stopped:
                self.passed = self._length
            return [], []
        if self._scanner is not None:
            return [], self._spans(self._scanner, text, final=final)
        if self.guard.limit is not None:
            return [], self._count(self.guard.limit)
        self._text += text
        return self._windows(final=final), []

    def _spans(self, scanner: Scanner, text: str, *, final: bool) -> list[Seen]:
        found: list[str] = []
        try:
            parts = _scanned(scanner, text, final=final)
        except Exception as error:
            return self._broke(error)
        for part in parts:
            if part.kind and part.begins:
                found.append(part.kind)
            if not found and not self.stopped:
                self.passed += len(part.text)
        return self._found(found)

    def _broke(self, error: Exception) -> list[Seen]:
        """It looks no further; what its policy says follows."""
        self._scanner, self._broken = None, True
        trouble = failed(self.guard, error)
        self.stopped = trouble.look.found
        if not self.stopped:
            self.passed = self._length
        return [trouble]

    def _count(self, limit: int) -> list[Seen]:
        self.passed = min(self._length, limit)
        return self._found(["length"] if self._length > limit else [])

    def _found(self, kinds: Sequence[str]) -> list[Seen]:
        new = [kind for kind in dict.fromkeys(kinds) if kind not in self._told]
        if not new:
            return []
        self.stopped = True
        self._told.update(new)
        return [Seen(self.guard, Look(True, " ".join(new)))]

    def _windows(self, *, final: bool) -> list[Due]:
        due: list[Due] = []
        config, holds = self.guard.config, self.guard.holds
        if not self.guard.whole:
            while len(self._text) >= config.window:
                due.append(Due(self.guard, self._text[: config.window], holds))
                self.passed = self._begin + config.window
                step = config.window - config.overlap
                self._text, self._begin = self._text[step:], self._begin + step
        if final:
            if self._length > self.passed or (self.guard.whole and self._length):
                due.append(Due(self.guard, self._text, holds))
            self.passed = self._length
        return due


class Channel:
    """One text, from its beginning to its end. It may come in several runs, with other content between them; what comes
    out is told apart by them, and nothing that is masked goes on from one to the next.

    Args:
        guards: in order.
        is_json: it is JSON, and stays so.
    """

    def __init__(self, guards: Sequence[Guard], *, is_json: bool = False) -> None:
        self._gates = [_Gate(guard) for guard in guards if guard.config.action != "mask"]
        self._holding = [gate for gate in self._gates if gate.guard.holds]
        self._masks = [_Mask(guard, is_json) for guard in guards if guard.config.action == "mask" and guard.kinds]
        self._whole = [guard for guard in guards if guard.config.action == "mask" and guard.find is not None]
        self._raw = ""  # generated, and not let pass
        self._fed = 0  # characters
        self._passed = 0  # of these
        self._borders: list[int] = []  # where runs end that have not been let pass whole
        self._kept = ""  # let pass, and waiting for those that mask a whole text
        self._blocked = False

    def feed(self, text: str) -> Out:
        """More of it."""
        return self._take(text, final=False)

    def pause(self) -> Out:
        """A run of it is over: other content follows."""
        seen: list[Seen] = []
        self._borders.append(self._fed)
        if self._blocked or self._whole:
            return Out([""], [], seen)
        return Out(self._runs("", seen, final=False), [], seen)

    def flush(self) -> Out:
        """It is over."""
        return self._take("", final=True)

    @property
    def whole(self) -> list[Due]:
        """At the end: who masks what was kept. `finish` takes what they found."""
        return [Due(guard, self._kept, holds=True) for guard in self._whole] if self._kept else []

    def finish(self, found: Sequence[Seen]) -> list[str]:
        """The runs of the text that was kept, masked: what goes out last."""
        text, spans = self._kept, sorted(span for seen in found for span in seen.spans)
        guards = {span: seen.guard for seen in found for span in seen.spans}
        runs: list[list[str]] = [[]]
        at = 0

        def until(end: int) -> None:
            nonlocal at
            while self._borders and self._borders[0] <= end:
                border = max(at, self._borders.pop(0))  # a run ends after a span that goes on over its end
                runs[-1].append(text[at:border])
                runs.append([])
                at = border
            runs[-1].append(text[at:end])
            at = end

        for span in spans:
            if span.start >= at:
                until(span.start)
                runs[-1].append(guards[span].mask(span.kind))
                at = span.end
        until(len(text))
        return [self._mask("".join(run), [], final=True) for run in runs]

    def _take(self, text: str, *, final: bool) -> Out:
        due: list[Due] = []
        seen: list[Seen] = []
        self._fed += len(text)
        for gate in self._gates:
            looks, found = gate.take(text, final=final)
            due += looks
            seen += found
        clear = text
        if self._holding:
            self._raw += text
            passed = min(gate.passed for gate in self._holding)
            clear, self._raw = self._raw[: passed - self._passed], self._raw[passed - self._passed :]
        if self._blocked:
            return Out([""], [], [])
        if not self._gates and not self._whole and not self._borders:  # as mostly: all that there is masks
            self._passed += len(clear)
            return Out([self._mask(clear, seen, final=final)], due, seen)
        self._blocked = any(gate.stopped for gate in self._holding)
        if self._whole:
            self._kept += clear
            self._passed += len(clear)
            return Out([""], due, seen)
        return Out(self._runs(clear, seen, final=final or self._blocked), due, seen)

    def _runs(self, clear: str, seen: list[Seen], *, final: bool) -> list[str]:
        """What was let pass, masked, by the runs that it belongs to."""
        runs = []
        while self._borders and self._borders[0] <= self._passed + len(clear):
            size = self._borders.pop(0) - self._passed
            runs.append(self._mask(clear[:size], seen, final=True))
            clear = clear[size:]
            self._passed += size
        self._passed += len(clear)
        return [*runs, self._mask(clear, seen, final=final)]

    def _mask(self, text: str, seen: list[Seen], *, final: bool) -> str:
        for mask in self._masks:
            text, found = mask.take(text, final=final)
            if found:
                seen += found
                self._blocked = self._blocked or any(one.stops for one in found)
        return text


class _Mask:
    """One guard that masks spans."""

    def __init__(self, guard: Guard, is_json: bool) -> None:
        self._guard = guard
        self._scanner: Scanner | None = Scanner(guard.kinds)
        self._json = JsonMasker() if is_json else None
        self._stopped = False

    def take(self, text: str, *, final: bool) -> tuple[str, list[Seen]]:
        """More text; what goes on of it, and what was found."""
        guard, scanner = self._guard, self._scanner
        if scanner is None:
            return "" if self._stopped else text, []
        try:
            parts = _scanned(scanner, text, final=final)
        except Exception as error:
            trouble = failed(guard, error)
            self._scanner, self._stopped = None, trouble.stops
            return "" if trouble.stops else scanner.rest, [trouble]
        if not parts:
            return "", []
        if final:
            self._scanner = Scanner(guard.kinds)
        if len(parts) == 1 and not parts[0].kind and self._json is None:  # as nearly always
            return parts[0].text, []
        mask = self._json.masked if self._json is not None else masked
        found = dict.fromkeys(part.kind for part in parts if part.kind and part.begins)
        return mask(parts, guard.mask), [Seen(guard, Look(True, " ".join(found)))] if found else []


def _scanned(scanner: Scanner, text: str, *, final: bool) -> list[Part]:
    return scanner.flush(text).pieces if final else scanner.feed(text).pieces


def apply(guard: Guard, text: str) -> tuple[str, Seen]:
    """A whole text through one guard that finds spans by itself: the text masked, and what was found."""
    spans = scan(guard.kinds, text)
    if not spans:
        return text, Seen(guard, Look(False))
    parts: list[Part] = []
    at = 0
    for span in spans:
        parts += Part(text[at : span.start]), Part(text[span.start : span.end], span.kind)
        at = span.end
    parts.append(Part(text[at:]))
    return masked(parts, guard.mask), Seen(guard, Look(True, kinds_of(spans)), "", tuple(spans))
