"""Finding spans in text that is still coming, so that the result is that of the whole text however it was cut.

What makes this possible: each kind of span has a pattern of bounded length in a known alphabet. So whether one begins
at a place depends on `Kind.bound` characters after it at most, or on those up to the end of the *run* that the place is
in. A run is a stretch of printable ASCII; a single space between groups of digits or capitals belongs to it, as it may
be within a number. A place is decided when its run has ended or when enough of it is here; what is not decided is held.
A span whose end is open (a token, a private key) is cut out while it comes, and nothing of it is held.

Offsets are in characters of the text since the scanner was made. No regular expression here backtracks without bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

CLOSER: Final = 80  # longest that ends a tail
SLICE: Final = 8192  # characters that are searched at once
LOOKAHEAD: Final = 2  # most that a pattern's assertions look at beyond its end, and behind its beginning
_BRIDGE: Final = " \u00a0\u2009\u202f"
# The rest of a text that may belong to a run: no character that ends one, which is a space that joins nothing, or
# anything but printable ASCII. A space at the very end may yet turn out to join.
RUN: Final = re.compile(rf"(?:[!-~]++|(?<=[0-9A-Z)+])[{_BRIDGE}](?=[0-9A-Z(+]|\Z))++\Z")
# ... where spaces around `=` and `:` join too.
LOOSE_RUN: Final = re.compile(
    rf"(?:[!-~]++|(?<=[0-9A-Z)+])[{_BRIDGE}](?=[0-9A-Z(+]|\Z)|(?<=[=:])[ ]|[ ](?=[=:]|\Z))++\Z"
)


class Span(NamedTuple):
    """A finding: characters `start` to `end`, and what they are."""

    start: int
    end: int
    kind: str


class Kind(NamedTuple):
    """What can be found.

    Attributes:
        name: of its spans.
        pattern: of at most `bound` characters, of runs only; assertions look no further than LOOKAHEAD.
        bound: see `pattern`.
        valid: the length of what begins a candidate and is one, 0 where none is. None: every candidate is.
        spark, hint: without these a text has none of it; the first is what most texts do not have and is quick to see.
            Alternatives that begin with a character each are several times as quick as those that begin with a set.
        loose: in runs that spaces around `=` and `:` do not end. A group `value` in the pattern is then the span.
        tail: what also belongs to a span, however long it is: any number of these characters.
        closer: ends a tail, and belongs to it.
    """

    name: str
    pattern: re.Pattern[str]
    bound: int
    valid: Callable[[str], int] | None = None
    spark: str = ""
    hint: re.Pattern[str] | None = None
    tail: re.Pattern[str] | None = None
    closer: re.Pattern[str] | None = None
    loose: bool = False


class _Next(NamedTuple):
    """A span that comes next, of a match that begins at `begin`."""

    begin: int
    start: int
    end: int


class Scanned(NamedTuple):
    """What has become certain: the text released, and the spans in it. Offsets are the whole text's; a span whose end
    is open is told where it begins, with `end == start`, and what belongs to it is in `text` but in no later span.

    Attributes:
        start: of `text`.
        pieces: `text` in parts, each with the kind of the span that it is, or ""; a part that continues a span of
            before has its kind and `begins` false.
    """

    start: int
    pieces: list[Part]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(part.text for part in self.pieces)

    @property
    def spans(self) -> list[Span]:
        """Those that begin here; one that goes on is as long as it is by now."""
        found: list[Span] = []
        at = self.start
        for part in self.pieces:
            if part.kind and part.begins:
                found.append(Span(at, at + len(part.text), part.kind))
            elif part.kind and found:
                found[-1] = found[-1]._replace(end=at + len(part.text))
            at += len(part.text)
        return found


class Part(NamedTuple):
    """A piece of released text: of a span, or of none (`kind` is empty)."""

    text: str
    kind: str = ""
    begins: bool = True


class Scanner:
    """One text.

    Args:
        kinds: what is looked for. Where two begin at the same place the longer one counts, else the first.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._reach, self._run, self._spark, self._sparks = _known_of(kinds)
        self._text = ""  # what is held, and before it what assertions may look back at
        self._at = 0  # of what is held, within `_text`
        self._released = 0
        self._open: Kind | None = None  # whose tail we are in
        self._seen = ""  # the end of that tail

    def feed(self, text: str) -> Scanned:
        """More text; what has become certain."""
        held = self._text = self._text + text
        at = self._at
        if self._open is None and len(held) - at < self._reach:  # the usual: some words, and nothing in them
            run = self._run.search(held, at)
            limit = len(held) if run is None else run.start()
            if limit == at:
                return Scanned(self._released, [])
            if self._spark.search(held, at, limit) is None:
                start, keep = self._released, max(0, limit - LOOKAHEAD)
                self._released += limit - at
                self._text, self._at = held[keep:], limit - keep
                return Scanned(start, [Part(held[at:limit])])
        return self._advance(final=False)

    def flush(self, text: str = "") -> Scanned:
        """The text is over, after this: the rest."""
        self._text += text
        return self._advance(final=True)

    @property
    def rest(self) -> str:
        """The text that is not decided: it is held."""
        return self._text[self._at :]

    def _advance(self, *, final: bool) -> Scanned:
        start = self._released
        parts: list[Part] = []
        text, at = self._text, self._at
        if self._open is not None:
            at = self._swallow(at, parts)
        if self._open is None and at < len(text):
            limit, whole = (len(text), True) if final else self._decided(at)
            if limit > at:
                # What begins before a run that goes on has ended before it.
                until = limit if whole else len(text)
                there = self._there(at, until)
                if there and (kinds := [kind for kind in self._kinds if kind.spark in there]):
                    at = self._find(kinds, at, limit, parts)
                else:
                    parts.append(Part(text[at:limit]))
                    at = limit
        self._released += at - self._at
        keep = max(0, at - LOOKAHEAD)
        self._text, self._at = text[keep:], at - keep
        return Scanned(start, parts)

    def _there(self, at: int, until: int) -> set[str]:
        """Sparks between two places. Most texts have none, which one look says."""
        if self._spark.search(self._text, at, until) is None:
            return set()
        return {spark for spark, pattern in self._sparks if pattern.search(self._text, at, until) is not None}

    def _decided(self, at: int) -> tuple[int, bool]:
        """Up to where it is certain whether a span begins; and whether those that do are over by there."""
        text = self._text
        # A run that is longer than any match is decided up to there.
        first = max(at, len(text) - self._reach + 1)
        run = self._run.search(text, first)
        return (len(text), True) if run is None else (run.start(), run.start() > first)

    def _find(self, kinds: Sequence[Kind], at: int, limit: int, parts: list[Part]) -> int:
        """Release up to `limit`, with the spans of matches that begin before it; where that ended."""
        text = self._text
        nexts = [self._next(kind, at, limit) for kind in kinds]
        while at < limit:
            best = min(range(len(kinds)), key=lambda index: (nexts[index].start, -nexts[index].end))
            found, kind = nexts[best], kinds[best]
            if found.start >= limit:
                limit = min(limit, *(one.begin for one in nexts))  # of a match that is certain, the span to come
                break
            if found.start > at:
                parts.append(Part(text[at : found.start]))
            parts.append(Part(text[found.start : found.end], kind.name))
            at = found.end
            if kind.tail is not None:
                self._open, self._seen = kind, text[found.start : at]
                at = self._swallow(at, parts)
                if self._open is not None:
                    return at
            nexts = [
                one if one.begin >= at else self._next(of, at, limit) for one, of in zip(nexts, kinds, strict=True)
            ]
        if at < limit:
            parts.append(Part(text[at:limit]))
            at = limit
        return at

    def _next(self, kind: Kind, at: int, limit: int) -> _Next:
        """The first of a kind whose match begins from `at` on and before `limit`; beyond everything if there is
        none."""
        text = self._text
        if kind.hint is None or kind.hint.search(text, at) is not None:
            while (found := kind.pattern.search(text, at)) is not None and found.start() < limit:
                begin = found.start()
                start, end = found.span("value") if kind.loose else found.span()
                if kind.valid is None:
                    return _Next(begin, start, end)
                if length := kind.valid(text[start:end]):
                    return _Next(begin, start, start + length)
                at = begin + 1
        beyond = len(text) + 1
        return _Next(beyond, beyond, beyond)

    def _swallow(self, at: int, parts: list[Part]) -> int:
        """Take in what belongs to the span that is open; where that ended."""
        kind, text = self._open, self._text
        assert kind is not None
        assert kind.tail is not None
        found = kind.tail.match(text, at)
        end = found.end() if found is not None else at
        over = end < len(text)
        if kind.closer is not None:
            seen = self._seen + text[at:end]
            if (closed := kind.closer.search(seen)) is not None:
                end, over = at + closed.end() - (len(seen) - (end - at)), True
            self._seen = seen[-CLOSER:]
        if end > at:
            parts.append(Part(text[at:end], kind.name, begins=False))
        if over:
            self._open, self._seen = None, ""
        return end


class _Known(NamedTuple):
    """What follows from the kinds alone."""

    reach: int
    run: re.Pattern[str]
    spark: re.Pattern[str]  # any of them
    sparks: tuple[tuple[str, re.Pattern[str]], ...]


# A scanner is made for each text, of few sets of kinds; to hash one takes as long as to read a short text.
_known: dict[int, tuple[Sequence[Kind], _Known]] = {}
_MOST_KNOWN: Final = 256


def _known_of(kinds: Sequence[Kind]) -> _Known:
    found = _known.get(id(kinds))
    if found is not None and found[0] is kinds:
        return found[1]
    sparks = list(dict.fromkeys(kind.spark for kind in kinds))
    known = _Known(
        max(kind.bound for kind in kinds) + LOOKAHEAD,
        LOOSE_RUN if any(kind.loose for kind in kinds) else RUN,
        re.compile("|".join(sparks)),
        tuple((spark, re.compile(spark)) for spark in sparks),
    )
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[id(kinds)] = (kinds, known)
    return known


def scan(kinds: Sequence[Kind], text: str) -> list[Span]:
    """All spans of a whole text. In slices: a search in a long text would let no other thread run meanwhile."""
    scanner, parts = Scanner(kinds), list[Part]()
    last = max(0, len(text) - 1) // SLICE * SLICE
    for at in range(0, last, SLICE):
        parts += scanner.feed(text[at : at + SLICE]).pieces
    return join([*parts, *scanner.flush(text[last:]).pieces])


def join(parts: Iterable[Part]) -> list[Span]:
    """The spans that parts are of, from the first character on."""
    return Scanned(0, list(parts)).spans


def masked(parts: Iterable[Part], mask: Callable[[str], str]) -> str:
    """The text with `mask(kind)` in place of each span."""
    return "".join(part.text if not part.kind else mask(part.kind) if part.begins else "" for part in parts)
