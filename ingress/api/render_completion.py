"""A completion as OpenAI writes it: chunks of a stream, or one body. Pure, but for the offsets that a stream counts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from ingress.api import schema_completion as schema
from ingress.api.answer import Head, Mould, encode, finish_reason, finite, guards, prompt_logprobs, total_usage
from ingress.api.jobs import Plan, Prompt
from ingress.api.ledger import ledger, together
from ingress.api.schema_common import RequestTiming, Usage
from ingress.engine import Finish, Piece, TokenText
from ingress.text.tokenizer import Tokenizer


class CompletionRenderer:
    """One call's answer. Choice `i` answers prompt `i // n`.

    Args:
        head: what every body begins with.
        request: decides which optional parts there are.
        plan: for the prompts, which `echo` repeats.
        tokenizer: writes prompts that were given as ids.
    """

    def __init__(self, head: Head, request: schema.CompletionRequest, plan: Plan, tokenizer: Tokenizer) -> None:
        self._head = head
        self._plan = plan
        self._tokenizer = tokenizer
        self._echo = bool(request.echo)
        self._alternatives = request.logprobs
        self._token_ids = bool(request.return_token_ids)
        self._include_usage = request.include_usage
        self._prompt_logprobs = request.prompt_logprobs is not None
        choices = len(plan.prompts) * plan.n
        self._offsets = [_Offsets() for _ in range(choices)]
        self._begun = [False] * choices
        self._only_text = not self._token_ids and self._alternatives is None
        self._moulds: dict[int, Mould] = {}  # by choice

    @property
    def id(self) -> str:
        """Of the response."""
        return self._head.id

    def first(self) -> list[bytes]:
        """Nothing: a completion's stream begins with its text."""
        return []

    def piece(self, index: int, piece: Piece, prompt: Sequence[TokenText | None]) -> list[bytes]:
        """The chunk of a piece of choice `index`, if there is anything new in it. `prompt`: log probabilities of the
        prompt's tokens, for `echo`."""
        begins, self._begun[index] = not self._begun[index], True
        if self._only_text and piece.finish is None and not begins:
            return [self._mould(index).fill(piece.text)] if piece.text else []
        choice = self._choice(index, piece, prompt, begins)
        if not (begins or choice.text or piece.logprobs or piece.finish or (self._token_ids and piece.tokens)):
            return []
        timing = ledger(piece.finish) if piece.finish is not None else UNSET
        return [self._chunk([choice], timing=timing)]

    def last(self, finishes: Sequence[Finish]) -> list[bytes]:
        """The chunk with the usage, where it was asked for."""
        return [self._chunk([], total_usage(finishes, self._plan.n))] if self._include_usage else []

    def whole(self, answers: Sequence[Piece], prompts: Sequence[Sequence[TokenText | None]]) -> bytes:
        """The body of a call that does not stream; `answers` are whole, in order of choices."""
        finishes = [answer.finish for answer in answers if answer.finish is not None]
        choices = [
            self._choice(index, answer, prompts[index // self._plan.n], begins=True)
            for index, answer in enumerate(answers)
        ]
        return encode(
            schema.Completion(
                id=self._head.id,
                created=self._head.created,
                model=self._head.model,
                system_fingerprint=self._head.fingerprint,
                choices=choices,
                usage=total_usage(finishes, self._plan.n),
                headrace=together([ledger(finish) for finish in finishes]),
            )
        )

    def _choice(
        self, index: int, piece: Piece, prompt: Sequence[TokenText | None], begins: bool
    ) -> schema.CompletionChoice:
        asked = self._plan.prompts[index // self._plan.n]
        echoed = self._text_of(asked) if self._echo and begins else ""
        return schema.CompletionChoice(
            index=index,
            text=echoed + piece.text,
            logprobs=self._logprobs(index, piece, asked, prompt, begins) if self._alternatives is not None else None,
            finish_reason=finish_reason(piece.finish) if piece.finish is not None else None,
            stop_reason=piece.finish.stop_reason if piece.finish is not None else None,
            token_ids=list(piece.tokens) if self._token_ids else UNSET,
            prompt_token_ids=asked.ids if self._token_ids and begins else UNSET,
            prompt_logprobs=prompt_logprobs(prompt) if self._prompt_logprobs and begins else UNSET,
            guards=guards(piece.finish),
        )

    def _logprobs(
        self, index: int, piece: Piece, asked: Prompt, prompt: Sequence[TokenText | None], begins: bool
    ) -> schema.CompletionLogprobs:
        rows: list[tuple[bytes, TokenText | None]] = []
        if self._echo and begins:
            values = prompt or [None] * len(asked.ids)
            rows += [
                (self._tokenizer.token_bytes(token), value) for token, value in zip(asked.ids, values, strict=True)
            ]
        rows += [(token.text, token) for token in piece.logprobs]
        offsets = self._offsets[index]
        return schema.CompletionLogprobs(
            text_offset=[offsets.of(text) for text, _ in rows],
            token_logprobs=[None if value is None else finite(value.logprob) for _, value in rows],
            tokens=[_name(text) for text, _ in rows],
            top_logprobs=[self._top(value) for _, value in rows] if self._alternatives else None,
        )

    def _top(self, value: TokenText | None) -> dict[str, float] | None:
        """The alternatives by name, and, as OpenAI has it, the drawn token where it is not among them."""
        if value is None:
            return None
        named: dict[str, float] = {}
        for _, text, logprob in value.top[: self._alternatives]:
            named.setdefault(_name(text), finite(logprob))  # two tokens of one name: the better
        named.setdefault(_name(value.text), finite(value.logprob))
        return named

    def _text_of(self, prompt: Prompt) -> str:
        return prompt.text if prompt.text is not None else self._tokenizer.decode(prompt.ids, skip_special=False)

    def _mould(self, index: int) -> Mould:
        if (mould := self._moulds.get(index)) is None:
            mould = self._moulds[index] = Mould(self._chunk([schema.CompletionChoice(index=index, text="")]), "text")
        return mould

    def _chunk(
        self,
        choices: list[schema.CompletionChoice],
        usage: Usage | None = None,
        timing: RequestTiming | UnsetType = UNSET,
    ) -> bytes:
        return encode(
            schema.Completion(
                id=self._head.id,
                created=self._head.created,
                model=self._head.model,
                system_fingerprint=self._head.fingerprint,
                choices=choices,
                usage=usage if self._include_usage else UNSET,
                headrace=timing,
            )
        )


class _Offsets:
    """Where tokens begin in the text, in characters. A token inside a character begins where the character does."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def of(self, token: bytes) -> int:
        start = self._characters
        self._characters += len(self._decoder.decode(token))
        return start


def _name(token: bytes) -> str:
    """A token as a key: its text, or its bytes where it is only part of a character, so that names stay apart."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
