"""The law of taking over: however an answer was delivered, wherever its ingresses died, its listeners are told the same
text, tokens, log probabilities and usage as undisturbed, in events without a gap or a repeat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import END, VOCABULARY, tiny_metadata

from bus.messages.requests import Finished, FinishReason, ModelFacts, TokenLogprobs
from bus.packed import pack_f32, pack_u32, unpack_u32
from ingress.api.answer import Head
from ingress.api.jobs import Caller, Plan, Settled
from ingress.api.operations import KINDS
from ingress.api.telling import Telling, retell
from ingress.engine import Job, Stream, TokenText
from ingress.generation import Generation
from ingress.job import place, place_again
from ingress.models import ServedModel
from ingress.records import Adopted, Drawn, Opening, Record, Said, frame, read
from ingress.text.tokenizer import from_gguf

MODEL = ServedModel("m", from_gguf(tiny_metadata()), None, eos_ids=(END,), context_tokens=512)
MODEL.facts = ModelFacts("m", bytes(16), 4, 512, VOCABULARY, 1, 1)
CALLER = Caller("t", "o", 1)
PROMPT = "né"


def logprob(token: int, at: int) -> TokenLogprobs:
    return TokenLogprobs(-token - at / 100, pack_u32([token, END]), pack_f32([-1.0, -9.5 - at]))


class Case(NamedTuple):
    """A call and what the scheduler will draw for each of its choices."""

    body: dict[str, Any]
    scripts: list[tuple[list[int], FinishReason]]


words = st.text(alphabet="abSTOP é\U0001f600", max_size=14).map(lambda text: list(text.encode()))
tokens = words | st.lists(st.integers(0, VOCABULARY - 1), max_size=10)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    scripts: list[tuple[list[int], FinishReason]] = []
    for _ in range(draw(st.integers(1, 3))):
        drawn = [token for token in draw(tokens) if token != END]
        scripts.append(([*drawn, END], "stop") if draw(st.booleans()) else ([*drawn, 97], "length"))
    body: dict[str, Any] = {
        "model": "m", "prompt": PROMPT, "stream": True, "n": len(scripts), "max_tokens": 100,
        "stop": draw(st.sampled_from([None, "STOP", ["S", "TOP"], ["PO"]])),
        "min_tokens": draw(st.sampled_from([0, 3])),
        "echo": draw(st.booleans()),
        "logprobs": draw(st.sampled_from([None, 0, 2])),
        "return_token_ids": draw(st.booleans()),
        "include_stop_str_in_output": draw(st.booleans()),
        "skip_special_tokens": draw(st.booleans()),
        "stream_options": {"include_usage": draw(st.booleans())},
    }  # fmt: skip
    return Case(body, scripts)


class Life:
    """One ingress's life with the answer: it tells what the scheduler delivers, until it is killed."""

    def __init__(self, case: Case, journal: bytes) -> None:
        self.case = case
        self.told = read(journal)
        assert self.told is not None
        self.said: list[Record] = []
        self.generations: dict[int, Generation] = {}
        self.streams: dict[int, Stream] = {}
        self.resumed: set[int] = set()

    async def run(self, schedule: Sequence[tuple[int, int]]) -> None:
        """Deliver by (choice, count), then the rest."""
        told = self.told
        assert told is not None
        if told.complete:
            return
        opening = told.opening
        kind = KINDS[opening.operation]
        request = kind.decode(opening.body)
        settled = Settled([unpack_u32(ids).tolist() for ids in opening.prompts], opening.seed)
        plan = await kind.plan(request, MODEL, CALLER, settled)
        renderer = kind.render(Head(opening.response, opening.created, "m", None), request, plan, MODEL.tokenizer)
        if told.adopted or told.records:
            telling = retell(opening, told.records, plan, renderer, self.go_on)
        else:
            telling = Telling(renderer, {i: self.open(i, job) for i, job in enumerate(plan.jobs)}, samples=plan.n)
        task = asyncio.ensure_future(self.listen(telling))
        for choice, count in schedule:
            self.deliver(choice, count)
            if count % 2:  # else the next one comes before anybody has looked
                await self.settle()
        for choice in tuple(self.streams):
            self.deliver(choice, 1000)
        await task

    async def listen(self, telling: Telling) -> None:
        await telling.tell(self.said.append)

    async def settle(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0)

    def open(self, choice: int, job: Job) -> Stream:
        return self.stream(choice, place(job, MODEL, choice, 1).generation, job)

    def go_on(self, job: Job, request: int, adopted: int, drawn: Sequence[Drawn]) -> tuple[Stream, list[Any]]:
        assert self.told is not None
        assert adopted == self.told.adopted + 1
        (order, generation), pieces = place_again(job, MODEL, request, 1, adopted, drawn)
        assert order.adopted == adopted
        if drawn:
            self.resumed.add(request)
        return self.stream(request, generation, job), pieces

    def stream(self, choice: int, generation: Generation, job: Job) -> Stream:
        stream = Stream(choice, 3, lambda _: None)
        if job.prompt_logprobs >= 0 and choice not in self.resumed:
            stream.prompt_logprobs = [None, *(TokenText(i, b"x", -0.25 * i) for i in range(1, len(job.prompt)))]
        self.generations[choice], self.streams[choice] = generation, stream
        return stream

    def deliver(self, choice: int, count: int) -> None:
        if choice not in self.streams or self.streams[choice].finished:
            return
        script, reason = self.case.scripts[choice]
        generation = self.generations[choice]
        start = len(generation.emitted)
        drawn = script[start : start + count]
        values = [logprob(token, at) for at, token in enumerate(drawn, start)] if generation._logprobs else []
        # A scheduler that takes a request up in the middle finds another part of the prompt cached.
        cached = 99 if choice in self.resumed else 2
        end = Finished(choice, reason, len(script), cached, 0) if start + count >= len(script) else None
        if not start:
            generation.cached_tokens = 2
        piece, verdict = generation.take(start, drawn, values, end)
        assert verdict != "gap"
        if piece is not None:
            self.streams[choice].push(piece)


def opening(case: Case) -> bytes:
    plan: Plan = asyncio.run(_plan(case))
    body = json.dumps(case.body).encode()
    return frame(
        Opening(
            "completions", body, "t", "o", 1, "cmpl-0000000000000000", 7, None, tuple(range(len(plan.jobs))),
            tuple(pack_u32(prompt.ids) for prompt in plan.prompts), plan.seed,
        )
    )  # fmt: skip


async def _plan(case: Case) -> Plan:
    kind = KINDS["completions"]
    return await kind.plan(kind.decode(json.dumps(case.body).encode()), MODEL, CALLER, None)


def added_up(events: Sequence[bytes], n: int) -> dict[str, Any]:
    """What a client has when it has read all events."""
    whole: dict[str, Any] = {"usage": None, "choices": [
        {"text": "", "ids": [], "prompt": [], "reason": None, "tokens": [], "values": [], "offsets": [], "top": []}
        for _ in range(n)]}  # fmt: skip
    for event in events:
        body = json.loads(event)
        whole["usage"] = body.get("usage") or whole["usage"]
        for part in body["choices"]:
            choice = whole["choices"][part["index"]]
            assert choice["reason"] is None, "nothing follows the end of a choice"
            choice["text"] += part["text"]
            choice["ids"] += part.get("token_ids") or []
            choice["prompt"] += part.get("prompt_token_ids") or []
            choice["reason"] = part["finish_reason"] and (part["finish_reason"], part["stop_reason"])
            if (values := part.get("logprobs")) is not None:
                choice["tokens"] += values["tokens"]
                choice["values"] += values["token_logprobs"]
                choice["offsets"] += values["text_offset"]
                choice["top"] += values["top_logprobs"] or []
    return whole


schedules = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=12)
kills = st.lists(st.tuples(schedules, st.integers(0, 20), st.integers(0, 1000)), max_size=3)


@settings(max_examples=300)
@given(cases(), schedules, kills)
@example(
    Case(
        {"model": "m", "prompt": PROMPT, "stream": True, "max_tokens": 100, "stop": "STOP", "logprobs": 1,
         "return_token_ids": True, "stream_options": {"include_usage": True}},
        [([*b"a S\xf0\x9f\x98\x80STOPx", END], "stop")],
    ),
    [(0, 1)] * 12,
    [([(0, 1)] * 9, 6, 3), ([(0, 1)] * 2, 1, 900)],
)  # fmt: skip
def test_kills_change_nothing_of_what_is_told(
    case: Case, last: list[tuple[int, int]], deaths: list[tuple[list[tuple[int, int]], int, int]]
) -> None:
    start = opening(case)
    undisturbed = Life(case, start)
    asyncio.run(undisturbed.run([]))
    expected = added_up([event for record in undisturbed.said for event in record.events], len(case.scripts))

    journal, seen = start, []
    for schedule, records, torn in deaths:
        life = Life(case, journal)
        assert life.told is not None
        assert life.told.events == seen
        journal = journal[: life.told.length]
        if life.told.records or journal != start:
            journal += frame(Adopted("ingress@1", 2))
        asyncio.run(life.run(schedule))
        whole, cut = life.said[:records], life.said[records : records + 1]
        journal += b"".join(map(frame, whole))
        seen += [event for record in whole for event in record.events]
        if cut:
            being_written = frame(cut[0])
            journal += being_written[: torn * len(being_written) // 1001]

    life = Life(case, journal)
    assert life.told is not None
    assert life.told.events == seen
    asyncio.run(life.run(last))
    events = [*seen, *(event for record in life.said for event in record.events)]
    assert added_up(events, len(case.scripts)) == expected
    ends = [record for record in [*life.told.records, *life.said] if isinstance(record, Said) and record.last]
    assert len(ends) == 1


@given(cases(), schedules)
def test_what_is_rendered_again_is_what_was_told(case: Case, schedule: list[tuple[int, int]]) -> None:
    """The renderer that takes over has seen what the first one has seen: it writes the same events from the records."""
    life = Life(case, opening(case))
    asyncio.run(life.run(schedule))
    kind = KINDS["completions"]
    assert life.told is not None
    request = kind.decode(life.told.opening.body)
    plan = asyncio.run(_plan(case))
    renderer = kind.render(Head("cmpl-0000000000000000", 7, "m", None), request, plan, MODEL.tokenizer)
    going = [record for record in life.said if isinstance(record, Drawn) and record.finish is None]
    values: Any = life.streams[0].prompt_logprobs if life.streams else ()
    for choice, job in enumerate(plan.jobs):
        drawn = [record for record in going if record.choice == choice]
        _, pieces = place_again(job, MODEL, choice, 1, 1, drawn)
        told = [tuple(renderer.piece(choice, piece, values)) for piece in pieces]
        assert told == [record.events for record in drawn], "the log probabilities of the prompt are the first choice's"
