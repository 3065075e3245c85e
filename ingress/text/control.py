"""What clients write never becomes a control token: names of control tokens in it stay text.

Templates put control tokens into a prompt by writing their names, and the rendered text is tokenised with names
becoming ids. So a name in a message would become one too, and end a turn that the client cannot end. Here such names
are broken by a mark (a character that no text has) before the template sees them; `Tokenizer.encode_apart` tells by it
which are the template's own. Text without anything like a name is never changed, so its ids are those that Hugging
Face's functions give it.

A name can also be put together: of the ends of two messages, or of a message's end and what a template writes after it.
So a text gets marks at its ends too where these could be a part of a name, and afterwards the control tokens must be
the same as with texts that cannot be a part of any name. Pure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from ingress.text.names import NOTHING, longest_of

# Noncharacters: for use inside of a process, never in text that is interchanged. A text that has one all the same gets
# another mark.
_MARKS: Final = tuple(map(chr, (*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xF1000))))


class ControlNames:
    """The names of one model.

    Args:
        control: names of control tokens, which nobody but the template may write.
        marks: names of other tokens that the template writes around what others say. An assistant has written them
            itself, so they stay what they are in its messages.
    """

    def __init__(self, control: Iterable[str], marks: Iterable[str] = ()) -> None:
        self._control = _Names([name for name in control if len(name) > 1])
        self._all = _Names([*self._control.names, *(name for name in marks if len(name) > 1)])

    def like(self, text: str, role: str) -> bool:
        """Whether a text of that role could be, or help to be, a name."""
        return self._of(role).like(text)

    def broken(self, mark: str) -> Callable[[str, str], str]:
        """Text and role to the same text with names broken by `mark`."""
        return lambda text, role: self._of(role).broken(text, mark)

    def harmless(self, mark: str) -> Callable[[str, str], str]:
        """Text and role to a text that cannot be a part of a control token's name."""
        return lambda text, _: self._control.harmless(text, mark)

    def written(self, rendered: str) -> list[str]:
        """The names of control tokens in a rendered prompt, in order."""
        return self._control.found(rendered)

    def _of(self, role: str) -> _Names:
        return self._control if role == "assistant" else self._all


def free_mark(texts: Iterable[str]) -> str:
    """A character that is in none of the texts."""
    used = set(itertools.chain.from_iterable(texts))
    return next(mark for mark in _MARKS if mark not in used)


class _Names:
    def __init__(self, names: Collection[str]) -> None:
        self.names = sorted(set(names), key=len, reverse=True)
        self._name = re.compile(longest_of(self.names))
        # Looking ahead, so that names that overlap are found too.
        self._each = re.compile(f"(?={longest_of(self.names)})")
        # Either end of a name, wherever: a template may cut texts where it likes.
        hints = {name[:2] for name in self.names} | {name[-2:] for name in self.names}
        self._hint = re.compile("|".join(map(re.escape, sorted(hints))) or NOTHING)
        self._longest = max(map(len, self.names), default=0)
        self._beginnings = {name[:size] for name in self.names for size in range(1, len(name))}
        self._ends = {name[-size:] for name in self.names for size in range(1, len(name))}
        edges = {name[0] for name in self.names} | {name[-1] for name in self.names}
        self._edge = re.compile("|".join(map(re.escape, sorted(edges))) or NOTHING)

    def like(self, text: str) -> bool:
        core = text.strip()
        return self._before(core) or self._after(core) or self._hint.search(core) is not None

    def broken(self, text: str, mark: str) -> str:
        core = text.strip()
        start = text.index(core) if core else 0
        before, after = text[:start], text[start + len(core) :]
        pieces, at = [], 0
        for match in self._each.finditer(core):
            pieces.append(core[at : match.start() + 1])
            at = match.start() + 1
        broken = mark.join([*pieces, core[at:]])
        head = mark if self._before(core) else ""
        tail = mark if self._after(core) else ""
        return f"{before}{head}{broken}{tail}{after}"

    def harmless(self, text: str, mark: str) -> str:
        return self._edge.sub(mark, text)

    def found(self, text: str) -> list[str]:
        return self._name.findall(text)

    def _before(self, core: str) -> bool:
        """Whether what stands before a text could make a name with it."""
        return self._inside(core) or any(core[:size] in self._ends for size in range(1, self._reach(core)))

    def _after(self, core: str) -> bool:
        """... what stands after it."""
        return self._inside(core) or any(core[-size:] in self._beginnings for size in range(1, self._reach(core)))

    def _inside(self, core: str) -> bool:
        return 0 < len(core) < self._longest and any(core in name for name in self.names)

    def _reach(self, core: str) -> int:
        return min(len(core) + 1, self._longest)
