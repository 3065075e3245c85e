"""One answer as it grows: tokens in, pieces out. Pure: no socket, no clock, no loop.

It knows which tokens it has, so a repeated delivery changes nothing and a gap is seen; it finds stop strings and
leaves out the text of the token that stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from bus.messages.requests import Finished, TokenLogprobs
from bus.packed import unpack_f32, unpack_u32
from ingress.samples.pool import POOL, TokenPool
from ingress.streams import Finish, Part, Piece, TokenText, Usage, joined
from ingress.text.detokenizer import Detokenizer
from ingress.text.reasoning import ThoughtParser
from ingress.text.stop import StopMatcher, StopStrings
from ingress.text.tokenizer import Tokenizer
from ingress.timing import Timing
from ingress.tools.parser import CallParser

Verdict = Literal[
    "going",  # more will come
    "gap",  # tokens before these are missing: ask for them again
    "stopped",  # a stop string was found: the scheduler must be told
    "finished",  # the scheduler said so
]


class Taken(NamedTuple):
    """What a delivery brought. `piece` is `None` where nothing may go out yet."""

    piece: Piece | None
    verdict: Verdict


class Generation:
    """The state of one answer.

    Args:
        tokenizer: of the model.
        prompt_tokens: for the account.
        stop: strings that end the answer.
        own_stops: the caller's stop token ids; the others that end a sequence are the model's.
        all_stops: every id that ends the sequence.
        min_tokens: no stop string counts before so many tokens.
        include_stop: keep the text of what stopped.
        logprobs: whether pieces carry log probabilities.
        timing: where its time goes, where that was asked for; its conversation keeps it.
        thoughts: parts thinking from the answer.
        calls: parts tool calls from it.

    Attributes:
        pool: the tokens that this answer and the other samples of its call may have together; None where nobody counts.
        emitted: the tokens so far.
        cached_tokens: prompt tokens whose KV was found when the answer was begun. Not what a scheduler finds that takes
            it up in the middle.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        *,
        stop: StopStrings | None = None,
        own_stops: frozenset[int] = frozenset(),
        all_stops: frozenset[int] = frozenset(),
        min_tokens: int = 0,
        include_stop: bool = False,
        skip_special: bool = True,
        logprobs: bool = False,
        timing: Timing | None = None,
        thoughts: ThoughtParser | None = None,
        calls: CallParser | None = None,
    ) -> None:
        self.timing = timing
        self.pool: TokenPool | None = None
        self.emitted: list[int] = []
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
        self._matcher = StopMatcher(stop, include=include_stop) if stop is not None else None
        self._own_stops, self._all_stops = own_stops, all_stops
        self._min_tokens, self._include_stop, self._logprobs = min_tokens, include_stop, logprobs
        self._thoughts, self._calls = thoughts, calls
        self._parted = thoughts is not None or calls is not None
        self._reasoning_tokens = 0
        self._parts: list[Part] = []  # not delivered yet
        self._decoded = 0  # characters that came out of the detokeniser
        self._released = 0  # characters that went out
        self._new_tokens: list[int] = []  # not delivered yet
        self._new_raw: list[TokenLogprobs | None] = []  # of these, where log probabilities are asked for
        self._new_logprobs: list[tuple[int, TokenText]] = []  # not delivered yet, with where their text begins

    def take(
        self,
        start: int,
        tokens: Sequence[int],
        logprobs: Sequence[TokenLogprobs | None] = (),
        finished: Finished | None = None,
    ) -> Taken:
        """A delivery: `tokens` are the answer's from index `start` on; `logprobs` is empty or one for each."""
        known = len(self.emitted)
        if start > known:
            return Taken(None, "gap")
        if finished is not None and not known:
            self.cached_tokens = finished.cached_tokens
        tokens, logprobs = tokens[known - start :], logprobs[known - start :]
        ended = finished is not None
        if self.pool is not None and (paid := self.pool.take(len(tokens))) < len(tokens):
            tokens, logprobs, finished = tokens[:paid], logprobs[:paid], None
        stopper = finished is not None and finished.reason == "stop" and bool(tokens) and tokens[-1] in self._all_stops
        found: str | None = None
        text = ""
        if self._matcher is None and not self._logprobs and not self._parted:
            text = self._plain(tokens, hide_last=stopper and not self._include_stop)
        else:
            for at, token in enumerate(tokens):
                hidden = stopper and not self._include_stop and at == len(tokens) - 1
                fresh, found = self._one(token, logprobs[at] if at < len(logprobs) else None, hidden=hidden)
                text += fresh
                if found is not None:
                    break
        if self.pool is not None:
            self.pool.left += len(tokens) - (len(self.emitted) - known)  # those behind a stop string are nobody's
        # Tokens that the account counts and that never came are asked for again; a request that failed or was aborted
        # ends as it is.
        complete = finished is None or finished.reason not in ("stop", "length")
        lost = finished is not None and not complete and finished.completion_tokens > len(self.emitted)
        if found is None and (lost or (finished is None and not self._spent)):
            return Taken(self._piece(text), "gap" if lost else "going")
        if found is None:
            rest, found = self._flush()
            text += rest
        elif self._parted:
            self._end_parts()
        finish = self._finish(finished, found)
        return Taken(self._piece(text, finish, cut=found is not None), "finished" if ended else "stopped")

    def end(
        self, finish_reason: Literal["abort", "error", "length"], error: str = "", stop_reason: str | None = None
    ) -> Piece:
        """End it from this side: the last piece, with the text held back so far."""
        text, found = self._flush()
        usage = self._usage()
        return (
            self._piece(text, Finish(finish_reason, usage, stop_reason, error, self.timing), cut=found is not None)
            or Piece()
        )

    @property
    def _spent(self) -> bool:
        return self.pool is not None and not self.pool.left

    # --- text ------------------------------------------------------------------------------------------------------

    def _plain(self, tokens: Sequence[int], *, hide_last: bool) -> str:
        self.emitted.extend(tokens)
        self._new_tokens.extend(tokens)
        return self._detokenizer.feed(tokens[:-1] if hide_last else tokens)

    def _one(self, token: int, logprob: TokenLogprobs | None, *, hidden: bool) -> tuple[str, str | None]:
        """Take one token; what may go out, and the stop string that it completes."""
        self.emitted.append(token)
        self._new_tokens.append(token)
        if self._logprobs:
            self._new_raw.append(logprob)
        if hidden:
            return "", None
        if logprob is not None and self._logprobs:
            self._new_logprobs.append((self._decoded, token_text(self._tokenizer, token, logprob)))
        text = self._detokenizer.feed((token,))
        self._decoded += len(text)
        found = None
        if self._matcher is not None and len(self.emitted) > self._min_tokens:
            text, found = self._matcher.feed(text)
        if self._parted:
            self._tell_apart(text)
        return text, found

    def _flush(self) -> tuple[str, str | None]:
        text = self._detokenizer.flush()
        self._decoded += len(text)
        found = None
        if self._matcher is not None:
            text, found = self._matcher.feed(text)
            text += self._matcher.flush()
        if self._parted:
            self._add(self._thoughts.feed(text) if self._thoughts is not None else [Part("text", text)])
            self._end_parts()
        return text, found

    def _tell_apart(self, text: str) -> None:
        """Tell thinking, answer and calls apart in what a token has released. Its token is one of the thought if that
        was open before it or is after it."""
        if (thoughts := self._thoughts) is None:
            self._add([Part("text", text)])
            return
        before = thoughts.inside
        self._add(thoughts.feed(text))
        self._reasoning_tokens += before or thoughts.inside

    def _end_parts(self) -> None:
        """What those who tell apart have held back."""
        if self._thoughts is not None:
            self._add(self._thoughts.flush())
        if self._calls is not None:
            self._parts += self._calls.flush()

    def _add(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.kind == "text" and self._calls is not None:
                self._parts += self._calls.feed(part.text)
            elif part.text:
                self._parts.append(part)

    def _usage(self) -> Usage:
        allowed = self.pool.size if self.pool is not None else 0
        return Usage(
            self.prompt_tokens, len(self.emitted), self.cached_tokens, self._reasoning_tokens, allowed=allowed
        )  # fmt: skip

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _piece(self, text: str, finish: Finish | None = None, *, cut: bool = False) -> Piece | None:
        self._released += len(text)
        parts: tuple[Part, ...] = ()
        if self._parted:
            text, parts = self._by_kind()
        if not text and not parts and finish is None:
            return None
        tokens, self._new_tokens = tuple(self._new_tokens), []
        raw, self._new_raw = tuple(self._new_raw), []
        ready = self._ready_logprobs(everything=finish is not None and not cut)
        return Piece(text, tokens, ready, finish, raw, self.cached_tokens, self.timing, parts)

    def _by_kind(self) -> tuple[str, tuple[Part, ...]]:
        """The answer proper in what is ready, and all of it by kind where there is anything else."""
        parts, self._parts = joined(self._parts), []
        text = "".join(part.text for part in parts if part.kind == "text")
        return text, parts if any(part.kind != "text" for part in parts) else ()

    def _ready_logprobs(self, *, everything: bool) -> tuple[TokenText, ...]:
        """Those of tokens whose text begins in what went out: what a stop string cut away has none."""
        if not self._new_logprobs:
            return ()
        ready = [entry for start, entry in self._new_logprobs if everything or start < self._released]
        self._new_logprobs = self._new_logprobs[len(ready) :]
        return tuple(ready)

    def _finish(self, finished: Finished | None, found: str | None) -> Finish:
        usage = self._usage()
        if found is None and self._spent and (finished is None or finished.reason == "length"):
            return Finish("length", usage, POOL, "", self.timing)
        if found is not None or finished is None:
            return Finish("stop", usage, found, "", self.timing)
        last = self.emitted[-1] if self.emitted and finished.reason == "stop" else None
        return Finish(finished.reason, usage, last if last in self._own_stops else None, finished.error, self.timing)


def token_text(tokenizer: Tokenizer, token: int, logprob: TokenLogprobs) -> TokenText:
    """A log probability with the bytes of its tokens.

    Raises:
        ValueError: ids and values are not whole numbers of 32 bits, or not as many.
    """
    ids, values = unpack_u32(logprob.top_ids).tolist(), unpack_f32(logprob.top).tolist()
    top = tuple((index, tokenizer.token_bytes(index), value) for index, value in zip(ids, values, strict=True))
    return TokenText(token, tokenizer.token_bytes(token), logprob.chosen, top)
