"""Masks of the rows whose answers have a grammar: which tokens may be drawn, from what was drawn so far.

A slot has a matcher, which is a function of grammar and emitted tokens alone: a request that is opened again, here or
at another replica, is where it was. Matchers live in one thread of their own, in which grammars are built, tokens taken
in and masks made, while the forward pass runs; what a step needs is asked for before it (`begin`) and waited for after
it (`masks`). llguidance bounds the work of each by counting it (`bus.grammars`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple, cast

import llguidance
import numpy as np
import torch

from bus.grammars import LIMITS
from bus.messages.requests import Grammar
from bus.packed import unpack_u32
from bus.vocabulary import Vocabulary
from workers.sampling.banned import Banned, banned_by

log = logging.getLogger(__name__)

KEPT: Final = 64  # grammars that are built, and not in use; each is some tens of kilobytes

Load = Callable[[bytes], Vocabulary]


class GrammarUnusable(Exception):
    """A row's grammar cannot be followed any further. The message is for whoever sent it."""


class Masks(NamedTuple):
    """What may not be drawn.

    Attributes:
        banned: by row of the draw.
        failed: by row of the draw, why there is no mask.
    """

    banned: dict[int, Banned]
    failed: dict[int, str]


class _Row:
    """One slot's matcher, from its opening on. Only the lane's thread touches it."""

    __slots__ = ("matcher", "over", "pending", "trouble")

    def __init__(self, emitted: Sequence[int]) -> None:
        self.matcher: Any = None
        self.pending = list(emitted)  # tokens that it has not taken in
        self.trouble = ""
        self.over = False  # its sequence has ended; a step that was planned before that was known may still come


class Grammars:
    """Of all slots of one worker.

    Args:
        vocabulary: number of logits.
        load: finds the tokens that a grammar is about.
        device: where logits are.
    """

    def __init__(self, vocabulary: int, load: Load, device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self._builder = _Builder(vocabulary, load)
        self._rows: dict[int, _Row] = {}
        self._lane = ThreadPoolExecutor(1, "grammars")
        self._due: Future[Masks] | None = None

    def __contains__(self, slot: int) -> bool:
        return slot in self._rows

    def open(self, slot: int, grammar: Grammar, emitted: Sequence[int]) -> None:
        """A request with a grammar enters a slot, after these tokens of its answer."""
        row = self._rows[slot] = _Row(emitted)
        self._lane.submit(self._build, row, grammar)

    def close(self, slot: int) -> None:
        """The slot's request leaves it."""
        self._rows.pop(slot, None)

    def append(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """Tokens were drawn, one per slot."""
        for slot, token in zip(slots, tokens, strict=True) if self._rows else ():
            if (row := self._rows.get(slot)) is not None:
                row.pending.append(token)

    def begin(self, slots: Sequence[int]) -> None:
        """Have masks made for a draw from these slots."""
        rows = [(at, row) for at, slot in enumerate(slots) if (row := self._rows.get(slot)) is not None]
        self._due = self._lane.submit(self._masks, rows) if rows else None

    def masks(self) -> Masks | None:
        """The masks that were begun; None where no row has a grammar."""
        due, self._due = self._due, None
        return due.result() if due is not None else None

    def forced_tokens(self, slots: Sequence[int]) -> list[list[int]]:
        """By slot, the tokens that its answer goes on with where its grammar leaves one text: guesses of what will be
        drawn, as that text can be cut into tokens in other ways. None where it leaves several, or there is no
        grammar."""
        rows = [self._rows.get(slot) for slot in slots]
        if not any(rows):
            return [[] for _ in rows]
        return self._lane.submit(lambda: [self._forced(row) if row is not None else [] for row in rows]).result()

    def stop(self) -> None:
        """End the thread."""
        self._lane.shutdown(wait=False, cancel_futures=True)

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _build(self, row: _Row, grammar: Grammar) -> None:
        try:
            row.matcher = self._builder.matcher(grammar)
        except GrammarUnusable as error:
            row.trouble = str(error)

    def _masks(self, rows: list[tuple[int, _Row]]) -> Masks:
        made = Masks({}, {})
        for at, row in rows:
            banned = None if row.trouble else self._banned(row)
            if row.trouble:
                made.failed[at] = row.trouble
            elif banned is not None:
                made.banned[at] = banned
        return made

    def _forced(self, row: _Row) -> list[int]:
        if row.trouble or not self._caught_up(row):
            return []
        forced: list[int] = row.matcher.compute_ff_tokens()
        return forced

    def _caught_up(self, row: _Row) -> bool:
        """Have a row's matcher take in what was drawn; whether its answer goes on after that."""
        pending, row.pending = row.pending, []
        for token in pending:
            if row.over or token in self._builder.ends:
                row.over = True
            elif not row.matcher.consume_token(token):
                row.trouble = _trouble(row.matcher)
                return False
        return not row.over

    def _banned(self, row: _Row) -> Banned | None:
        """Of one row; None where its answer is at its end, and what is drawn after it means nothing."""
        if not self._caught_up(row):
            return None
        matcher = row.matcher
        made = -(-self._builder.tokens // 32)
        words = np.zeros(max(made, -(-self._vocabulary // 32)), np.uint32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, 4 * made)
        if matcher.is_error():
            row.trouble = _trouble(matcher)
            return None
        banned = banned_by(words[: -(-self._vocabulary // 32)], self._vocabulary, self._device)
        if banned is None:
            row.trouble = "no token of this model goes on with what the grammar asks for"
        return banned


class _Builder:
    """Matchers at the beginning of their grammars. The tokens of one vocabulary are kept: a worker has one model."""

    def __init__(self, vocabulary: int, load: Load) -> None:
        self._vocabulary, self._load = vocabulary, load
        self._limits = llguidance.LLParserLimits(**LIMITS)
        self._digest = b""
        self._tokenizer: Any = None
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self.tokens = 0  # of the vocabulary
        self.ends: frozenset[int] = frozenset()

    def matcher(self, grammar: Grammar) -> Any:
        """One of its own for a request.

        Raises:
            GrammarUnusable: it cannot be built.
        """
        if grammar.vocabulary != self._digest:
            self._read(grammar.vocabulary)
        matcher = self._kept.get(grammar.text)
        if matcher is None:
            matcher = llguidance.LLMatcher(self._tokenizer, grammar.text, log_level=0, limits=self._limits)
            if matcher.is_error():
                raise GrammarUnusable(_trouble(matcher))
            self._kept[grammar.text] = matcher
        self._kept.move_to_end(grammar.text)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return matcher.deep_copy()

    def _read(self, digest: bytes) -> None:
        try:
            found = self._load(digest)
        except (OSError, ValueError) as error:
            log.error("no tokens for grammars: %s", error)
            raise GrammarUnusable("the model's tokens are not known to its worker") from None
        self._kept.clear()
        self._tokenizer = tokenizer_of(found)
        self._digest, self.tokens = digest, len(found.tokens)
        self.ends = frozenset(unpack_u32(found.ends).tolist())


class _Words:
    """A vocabulary as llguidance asks for it. Text that a grammar forces is cut into the longest tokens there are."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = unpack_u32(vocabulary.control).tolist()
        self.eos_token_id = int(unpack_u32(vocabulary.ends)[0])
        self.made: Any = None

    def __call__(self, text: bytes | str) -> list[int]:
        ids: list[int] = self.made.greedy_tokenize(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        return ids


def tokenizer_of(vocabulary: Vocabulary) -> Any:
    """A vocabulary as matchers use it. Takes a few hundred milliseconds."""
    words = _Words(vocabulary)
    words.made = llguidance.LLTokenizer(
        cast(Any, words), n_vocab=len(words.tokens), eos_token=unpack_u32(vocabulary.ends).tolist()
    )
    return words.made


def _trouble(matcher: Any) -> str:
    """Why a matcher cannot go on. What it says itself may quote the grammar, and is left out of messages and logs."""
    reason = matcher.stop_reason()
    if reason in ("ParserTooComplex", "LexerTooComplex"):
        return "the grammar became too complex to be followed any further"
    return f"the grammar cannot be followed any further ({reason})"
