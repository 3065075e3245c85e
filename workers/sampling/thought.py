"""Budgets of thinking: where an answer has thought long enough, its thought is closed, whatever the model would say.

What is forced is a function of the budget and the tokens that were emitted, as what a grammar leaves is: a request that
is opened again, here or at another replica, is where it was. A thought is found by the text of its marks and not by
ids, since most models can write a mark in several ways.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bus.messages.requests import Thought
from bus.packed import unpack_u32
from bus.vocabulary import Vocabulary

log = logging.getLogger(__name__)

# Tokens beyond the budget that a thought may end by itself in: it is not cut in the middle of a character or of the
# mark that would have closed it.
GRACE: Final = 4

Load = Callable[[bytes], Vocabulary]


class Forced(NamedTuple):
    """What is not drawn.

    Attributes:
        tokens: by row of the draw, the token that stands there.
        failed: by row of the draw, why nothing can.
    """

    tokens: dict[int, int]
    failed: dict[int, str]


class Bounded:
    """One answer that may think so long. Pure.

    Args:
        texts: of all tokens; empty those that leave none.
    """

    def __init__(self, thought: Thought, texts: Sequence[bytes]) -> None:
        self._texts = texts
        self._opens, self._closes = thought.opens.encode(), thought.closes.encode()
        self._closing: list[int] = unpack_u32(thought.closing).tolist()
        self._budget = thought.budget
        self._inside = not self._opens
        self._over = False
        self._at = 0  # of the closing tokens
        self._spent = 0  # tokens of the thought
        self._end = b""  # of the text: what may become a mark

    @property
    def forced(self) -> int | None:
        """The next token, where it is not the model's to say."""
        if 0 < self._at < len(self._closing):
            return self._closing[self._at]
        if self._over or not self._inside or self._at or self._spent < self._budget:
            return None
        if self._spent < self._budget + GRACE and _unfinished(self._end, self._closes):
            return None
        return self._closing[0]

    def take(self, token: int) -> None:
        """A token was drawn, or forced."""
        if self.forced is not None:
            self._at += 1
        if self._over:
            return
        self._end += self._texts[token] if token < len(self._texts) else b""
        if not self._inside:
            self._begin()
        if self._inside:
            self._spent += 1
            self._over = self._closes in self._end
            self._end = self._end[-len(self._closes) :]

    def _begin(self) -> None:
        """See whether a thought begins."""
        begun = self._end.lstrip()
        if begun.startswith(self._opens):
            self._inside, self._end = True, begun[len(self._opens) :]
        else:
            self._over = not self._opens.startswith(begun)


def _unfinished(text: bytes, mark: bytes) -> bool:
    """Whether a text ends within a character, or within a mark."""
    if any(text.endswith(mark[:size]) for size in range(1, len(mark))):
        return True
    try:
        text[-4:].decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


class Thoughts:
    """Of all slots of one worker.

    Args:
        load: finds what tokens stand for.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._digest = b""
        self._texts: tuple[bytes, ...] = ()
        self._rows: dict[int, Bounded | str] = {}  # by slot; a text is why there is none

    def __contains__(self, slot: int) -> bool:
        return slot in self._rows

    def open(self, slot: int, thought: Thought, emitted: Sequence[int]) -> None:
        """A request with a budget enters a slot, after these tokens of its answer."""
        try:
            row = Bounded(thought, self._texts_of(thought))
        except (OSError, ValueError) as error:
            log.error("no tokens for thoughts: %s", error)
            self._rows[slot] = "the model's tokens are not known to its worker"
            return
        for token in emitted:
            row.take(token)
        self._rows[slot] = row

    def close(self, slot: int) -> None:
        """The slot's request leaves it."""
        self._rows.pop(slot, None)

    def append(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """Tokens were drawn, one per slot."""
        for slot, token in zip(slots, tokens, strict=True) if self._rows else ():
            if isinstance(row := self._rows.get(slot), Bounded):
                row.take(token)

    def forced(self, slots: Sequence[int]) -> Forced | None:
        """What is not drawn of these slots; None where all of it is."""
        if not self._rows:
            return None
        made = Forced({}, {})
        for at, slot in enumerate(slots):
            match self._rows.get(slot):
                case str(trouble):
                    made.failed[at] = trouble
                case Bounded(forced=int(token)):
                    made.tokens[at] = token
        return made if made.tokens or made.failed else None

    def _texts_of(self, thought: Thought) -> tuple[bytes, ...]:
        if thought.vocabulary != self._digest:
            found = self._load(thought.vocabulary)
            # Control tokens leave no text, but as marks.
            hidden = set(unpack_u32(found.control).tolist())
            marks = (thought.opens.encode(), thought.closes.encode())
            self._texts = tuple(
                b"" if token in hidden and text not in marks else text for token, text in enumerate(found.tokens)
            )
            self._digest = thought.vocabulary
        return self._texts
