"""The guards in the life of a call: on what is asked, before it is planned; by models, once it may run; on each answer.

A call that no guard is for has none of this. What is found is counted, told with the answer, and in a header.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from bus.messages.control import GuardVerdict
from bus.telemetry import Telemetry
from ingress.api.schema_common import Generation
from ingress.errors import ApiError, unsupported_parameter
from ingress.guards.channel import apply
from ingress.guards.guarded import Case, Guarded
from ingress.guards.look import INLINE, Guard, Look, Seen, Whose, failed, kinds_of, seen, seen_later, windows
from ingress.guards.texts import EARLIER, Text, earlier_texts, parse, replaced, texts
from ingress.job import Job
from ingress.models import ServedModel
from ingress.records import Drawn
from ingress.streams import Finish, Piece, Stream

GoOn = Callable[[Job, int, int, Sequence[Drawn]], tuple[Stream, list[Piece]]]

HEADER: Final = b"x-guard"
# What would show text, or the tokens of it, that a guard has changed or not let pass.
_TELLING: Final = ("logprobs", "top_logprobs", "return_token_ids")
_OTHERS_INSTRUCT: Final = frozenset({"injection", "jailbreak"})
_NOT_OURS: Final = frozenset({"system", "developer", "assistant"})
_REPEATED: Final = frozenset({"system", "developer"})  # whose texts are mostly those of the call before


class Clean:
    """Instructions in which a guard has found nothing: they come again with every call, and what is found follows from
    the text alone. Whole texts, not digests of them: none can be made that passes for another one."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._texts: dict[tuple[str, str], None] = {}

    def knows(self, guard: str, text: str) -> bool:
        """Whether nothing is in it."""
        return (guard, text) in self._texts

    def add(self, guard: str, text: str) -> None:
        """Nothing is. Long ones are looked at again: what is kept has bounds."""
        if len(text) <= INLINE:
            if len(self._texts) >= self._most:
                del self._texts[next(iter(self._texts))]
            self._texts[guard, text] = None


class Guards:
    """All that are configured.

    Args:
        guards: in order.
        telemetry: counts.
    """

    def __init__(self, guards: Iterable[Guard], telemetry: Telemetry) -> None:
        self._guards, self._telemetry = tuple(guards), telemetry
        self._clean = Clean()

    def of(self, names: Iterable[str], model: ServedModel | None, whose: Whose) -> GuardedCall | None:
        """Those of one call; None where it has none.

        Args:
            names: that it goes by: of the model, and of the route to it. A guard of one of them is one of the call's.
            model: reads prompts that are given as ids; None where no model of this host is asked for.
        """
        asked = tuple(names)
        guards = [guard for guard in self._guards if any(map(guard.config.serves, asked))]
        return GuardedCall(guards, model, whose, self._count, self._clean) if guards else None

    def going_on(
        self, go_on: GoOn, names: Iterable[str], model: ServedModel | None, whose: Whose, body: bytes, earlier: bytes
    ) -> GoOn:
        """The engine's `go_on` for a call of another ingress, whose guards have let it pass: with those of its
        answer."""
        if (call := self.of(names, model, whose)) is None:
            return go_on
        call.read(body, earlier)
        return lambda job, request, adopted, drawn: call.go_on(*go_on(job, request, adopted, drawn))

    def trial(self, text: str, stage: Literal["input", "output"]) -> tuple[list[GuardVerdict], str]:
        """What they would say of a text, and the text as it would go on, whatever the model; nothing is counted."""
        verdicts = []
        blocked, shown = False, text
        for guard in self._guards:
            if not (guard.config.on_input if stage == "input" else guard.config.on_output):
                continue
            begun = time.perf_counter()
            shown, found = _tried(guard, text, shown)
            us = (time.perf_counter() - begun) * 1e6
            worst = next((one for one in found if one.look.found), found[0] if found else None)
            outcome = "" if worst is None else worst.outcome or "passed"
            blocked = blocked or outcome == "blocked"
            what = "asks a model" if worst is None else worst.look.what
            verdicts.append(
                GuardVerdict(guard.name, guard.config.kind, guard.config.action, outcome, what, round(us, 1))
            )
        return verdicts, "" if blocked else shown

    def _count(self, stage: str, guards: Sequence[Guard], found: Sequence[Seen], seconds: float) -> None:
        """One request or answer: each guard once, by the gravest that it led to."""
        outcomes: dict[str, str] = {}
        for one in found:
            if (one.look.found or one.trouble) and outcomes.get(one.guard.name) != "blocked":
                outcomes[one.guard.name] = one.outcome
            if one.trouble:
                self._add(one.guard.name, stage, one.trouble)
        for guard in guards:
            outcome = outcomes.get(guard.name, "passed")
            if outcome not in ("failed", "late"):
                self._add(guard.name, stage, outcome)
        self._telemetry.histogram(
            "headrace_guard_seconds", "Time of an ingress for the guards of a request or of an answer.", stage=stage
        ).observe(seconds)

    def _add(self, guard: str, stage: str, outcome: str) -> None:
        self._telemetry.counter(
            "headrace_guard_total", "Requests and answers that a guard looked at, by what followed.",
            guard=guard, stage=stage, outcome=outcome,
        ).add()  # fmt: skip


class GuardedCall:
    """One call and its guards.

    Attributes:
        found: in the request, by guard, as the client is told.
    """

    def __init__(
        self, guards: Sequence[Guard], model: ServedModel | None, whose: Whose, count: Any, clean: Clean
    ) -> None:
        self._clean = clean
        self._input = [guard for guard in guards if guard.config.on_input]
        self._output = [guard for guard in guards if guard.config.on_output]
        self._model, self._whose, self._count = model, whose, count
        self._texts: list[Text] = []
        self.found: dict[str, str] = {}

    # --- what is asked ---------------------------------------------------------------------------------------------

    def refuse(self, request: Generation) -> None:
        """Refuse what would tell what a guard withholds.

        Raises:
            ApiError: 400, by name.
        """
        for guard in self._output:
            for name in _TELLING if guard.holds else ():
                if getattr(request, name, None) not in (None, False):
                    raise unsupported_parameter(
                        name,
                        f"{name}: not here, as the guard {guard.name!r} may change or withhold parts of the answer.",
                    )

    def read(self, body: bytes, earlier: bytes = b"") -> tuple[Any, Any]:
        """Know the texts of a call, without looking at them: those that its answer should rest on.

        Args:
            earlier: items of the stored conversation that it goes on with, as JSON.
        """
        tree, before = parse(body), parse(earlier) if earlier else []
        self._texts = [*earlier_texts(before), *texts(tree), *_of_ids(tree, self._model)]
        return tree, before

    async def admit(self, body: bytes, earlier: bytes = b"") -> tuple[bytes, bytes]:
        """Look at what is asked, and at what it goes on with, with all that do not ask a model; both, with masks where
        there are some. See `read`.

        Raises:
            ApiError: 400 `content_filter`, a guard does not let it pass.
        """
        tree, before = self.read(body, earlier)
        begun = time.perf_counter()
        local = [guard for guard in self._input if guard.ask is None]
        found: list[Seen] = []
        others: dict[tuple[str | int, ...], str] = {}
        try:
            for guard in local:
                for index, text in enumerate(self._texts):
                    if not _is_for(guard, text):
                        continue
                    if text.role in _REPEATED and self._clean.knows(guard.name, text.text):
                        continue
                    now, results = await _look(guard, text.text, self._whose)
                    if text.role in _REPEATED and not any(one.look.found or one.trouble for one in results):
                        self._clean.add(guard.name, text.text)
                    found += results
                    self._settle(results, text)
                    if now is not text.text:
                        if not text.path:
                            raise _blocked(guard, "prompt", "it was given as token ids, which cannot be masked")
                        others[text.path] = now
                        self._texts[index] = text._replace(text=now)
        finally:
            if local:
                self._count("input", local, found, time.perf_counter() - begun)
        stored = {path[1:]: text for path, text in others.items() if path[0] == EARLIER}
        given = {path: text for path, text in others.items() if path[0] != EARLIER}
        return replaced(tree, given) if given else body, replaced(before, stored) if stored else earlier

    async def ask(self) -> None:
        """Have models judge what is asked, all at once.

        Raises:
            ApiError: see `admit`.
        """
        judges = [guard for guard in self._input if guard.ask is not None]
        if not judges:
            return
        begun = time.perf_counter()
        asked = [
            (text, seen_later(guard, window, (), self._whose))
            for guard in judges
            for text in self._texts
            if _is_for(guard, text)
            for window in windows(guard, text.text)
        ]
        found = await asyncio.gather(*(look for _, look in asked))
        self._count("input", judges, found, time.perf_counter() - begun)
        for (text, _), one in zip(asked, found, strict=True):
            self._settle([one], text)

    def _settle(self, results: Sequence[Seen], text: Text) -> None:
        for one in results:
            if one.stops:
                raise _blocked(one.guard, text.where or "prompt", one.look.what)
            if one.look.found and one.guard.config.action != "shadow":
                self.found[one.guard.name] = one.outcome

    # --- the answer ------------------------------------------------------------------------------------------------

    def tell(self, headers: list[tuple[bytes, bytes]] | None) -> None:
        """What was found in the request, for a stream's head: what is found in its answer comes with its end."""
        if headers is not None and self.found:
            headers.append(_header(self.found))

    def wrap(self, stream: Stream) -> Stream:
        """The answer behind its guards."""
        if not self._output and not self.found:
            return stream
        return self._guarded(stream)

    def go_on(self, stream: Stream, told: list[Piece]) -> tuple[Stream, list[Piece]]:
        """The same for one that another ingress has begun: the rest, and what was told as its listeners saw it."""
        if not self._output:
            return stream, told
        guarded = self._guarded(stream)
        return guarded, guarded.replay(told)

    def _guarded(self, stream: Stream) -> Guarded:
        context = [text.text for text in self._texts if text.role != "assistant"]

        def done(found: Sequence[Seen], ns: int) -> None:
            self._count("output", self._output, found, ns / 1e9)

        return Guarded(stream, Case(self._output, context, self.found, self._whose, done))


def tell_found(headers: list[tuple[bytes, bytes]] | None, finishes: Iterable[Finish | None]) -> None:
    """What was found in request and answers, in one header."""
    found = {name: outcome for finish in finishes if finish is not None for name, outcome in finish.guards}
    if headers is not None and found:
        headers[:] = [header for header in headers if header[0] != HEADER]
        headers.append(_header(found))


def _header(found: Mapping[str, str]) -> tuple[bytes, bytes]:
    return HEADER, ", ".join(f"{name}={outcome}" for name, outcome in found.items()).encode()


async def _look(guard: Guard, text: str, whose: Whose) -> tuple[str, list[Seen]]:
    """One text through one guard: the text as it goes on, and what was found."""
    if guard.limit is not None:
        return text, [Seen(guard, Look(len(text) > guard.limit, "length"))]
    if guard.kinds:
        begun = time.perf_counter()
        try:
            other, one = apply(guard, text) if len(text) <= INLINE else await asyncio.to_thread(apply, guard, text)
        except Exception as error:
            return text, [failed(guard, error)]
        if guard.deadline_s is not None and time.perf_counter() - begun > guard.deadline_s:
            one = one._replace(trouble="late")
        return (other if guard.config.action == "mask" else text), [one]
    if guard.find is not None:
        one = await seen_later(guard, text, (), whose)
        masks = guard.config.action == "mask" and one.spans
        return (_masked(guard, text, one) if masks else text), [one]
    results = []
    for window in windows(guard, text):
        slow = guard.slow or len(text) > INLINE
        results.append(await seen_later(guard, window, (), whose) if slow else seen(guard, window))
    return text, results


def _tried(guard: Guard, text: str, shown: str) -> tuple[str, list[Seen]]:
    """A text through one guard, here and now; `shown` is what those before have made of it."""
    if guard.ask is not None:
        return shown, []
    if guard.limit is not None:
        return shown, [Seen(guard, Look(len(text) > guard.limit, "length"))]
    masks = guard.config.action == "mask"
    try:
        if guard.kinds:
            other, one = apply(guard, shown if masks else text)
            return (other if masks else shown), [one]
        if guard.find is not None:
            spans = tuple(guard.find(shown if masks else text))
            one = Seen(guard, Look(bool(spans), kinds_of(spans)), "", spans)
            return (_masked(guard, shown, one) if masks else shown), [one]
    except Exception as error:
        return shown, [failed(guard, error)]
    return shown, [seen(guard, window) for window in windows(guard, text)]


def _masked(guard: Guard, text: str, one: Seen) -> str:
    parts: list[str] = []
    at = 0
    for span in sorted(one.spans):
        if span.start >= at:
            parts += text[at : span.start], guard.mask(span.kind)
            at = span.end
    return "".join([*parts, text[at:]])


def _is_for(guard: Guard, text: Text) -> bool:
    if guard.config.roles:
        return text.role in guard.config.roles
    return guard.config.kind not in _OTHERS_INSTRUCT or text.role not in _NOT_OURS


def _of_ids(tree: Any, model: ServedModel | None) -> Iterator[Text]:
    """Prompts that were given as token ids, as the model reads them."""
    prompt = tree.get("prompt")
    if model is None or not isinstance(prompt, list) or not prompt:
        return
    for ids in [prompt] if isinstance(prompt[0], int) else prompt:
        if isinstance(ids, list) and all(isinstance(one, int) and 0 <= one < model.vocabulary for one in ids):
            yield Text((), "", model.tokenizer.decode(ids, skip_special=False))


def _blocked(guard: Guard, param: str, what: str) -> ApiError:
    why = f": {what}" if what else ""
    return ApiError(
        400, "invalid_request_error", f"The request is not let pass by the guard {guard.name!r}{why}.",
        code="content_filter", param=param,
    )  # fmt: skip
