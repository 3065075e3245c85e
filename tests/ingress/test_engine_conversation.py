"""A conversation with a scheduler that forgets, refuses, repeats and dies: played by hand, with a hand-set clock."""

from __future__ import annotations

import msgspec
import pytest
from tiny_tokenizer import END, VOCABULARY, tiny_metadata

from bus.blocks import chain, salted_root
from bus.messages.requests import (
    Abort,
    Accepted,
    Deltas,
    Finished,
    FinishReason,
    ModelFacts,
    PromptLogprobs,
    RefusalCode,
    Refused,
    Sampling,
    Spent,
    Submit,
    TokenLogprobs,
)
from bus.messages.telemetry import TimelineEvent
from bus.packed import pack_u32, pack_u64, unpack_u32
from ingress.accounts import Used
from ingress.conversation import ASK_AGAIN, ASK_AGAIN_S, LOST_PATIENCE_S, OPEN_PATIENCE_S, Conversation
from ingress.errors import ApiError
from ingress.job import Job, place
from ingress.models import ServedModel
from ingress.samples.pool import POOL, TokenPool
from ingress.streams import Piece, Stream, merge
from ingress.text.tokenizer import from_gguf

TINY = from_gguf(tiny_metadata())
FACTS = ModelFacts("m", bytes(16), 4, 64, VOCABULARY, 1, 1)
SECOND = 10**9


def ids(text: str) -> list[int]:
    return list(text.encode())


def deltas(
    request: int, start: int, text: str, end: FinishReason | None = None, total: int = 0, error: str = ""
) -> Deltas:
    tokens = ids(text)
    finished = (Finished(request, end, total or start + len(tokens), 0, 0, error=error),) if end else ()
    return Deltas(
        1, pack_u64([request]), pack_u32([start]), pack_u32([len(tokens)]), pack_u32(tokens), finished=finished
    )


class Played:
    """One conversation; the test is the scheduler, the link and the clock."""

    def __init__(self) -> None:
        self.model = ServedModel("m", TINY, None, eos_ids=(END,), context_tokens=64)
        self.linked = False
        self.sent: list[msgspec.Struct] = []
        self.events: list[TimelineEvent] = []
        self.now = SECOND
        self.answers: dict[int, ApiError | None] = {}
        self.used: list[Used] = []
        self.computing: dict[int, tuple[int, int]] = {}
        self.talk = Conversation(self.model, self._send, self.events.append, lambda: self.now, self)

    def _send(self, body: msgspec.Struct) -> bool:
        if self.linked:
            self.sent.append(body)
        return self.linked

    def ended(self, used: Used) -> None:
        self.used.append(used)

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        self.computing[request] = (compute_ns, prefill_ns)

    def up(self, facts: ModelFacts = FACTS) -> None:
        self.linked = True
        self.receive(facts)

    def down(self) -> None:
        self.linked = False
        self.talk.link_down(self.now, "died")

    def receive(self, message: ModelFacts | Accepted | Refused | Deltas | PromptLogprobs | Spent) -> None:
        self.talk.receive(message, self.now)

    def open(self, request: int = 7, prompt: str = "hello wo", **options: object) -> Stream:
        if self.model.facts is None:
            self.model.facts = FACTS
        job = Job(model="m", prompt=ids(prompt), **options)  # type: ignore[arg-type]
        order, generation = place(job, self.model, request, self.now)
        return self.talk.open(order, generation, lambda error: self.answers.setdefault(request, error), self.now)

    def accepted(self, request: int = 7, **options: object) -> Stream:
        stream = self.open(request, **options)
        self.receive(Accepted(request, 0))
        assert self.answers[request] is None
        return stream

    def later(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        self.talk.tick(self.now)

    def take_sent(self) -> list[msgspec.Struct]:
        sent, self.sent = self.sent, []
        return sent


def pieces(stream: Stream) -> Piece:
    """All that waits in a stream, as one."""
    waiting, stream._waiting = stream._waiting, []
    return merge(waiting) if waiting else Piece()


@pytest.fixture
def played() -> Played:
    subject = Played()
    subject.up()
    return subject


# --- submitting ----------------------------------------------------------------------------------------------------


def test_a_submit_says_everything(played: Played) -> None:
    played.open(
        prompt="hello wor", max_tokens=5, stop_token_ids=(65,), min_tokens=2, tenant="t", cache_salt="s", priority=3,
        deadline_s=2.0, sampling=Sampling(temperature=0.5, seed=9),
    )  # fmt: skip
    (submit,) = played.take_sent()
    assert isinstance(submit, Submit)
    salted = salted_root(FACTS.root, b"\x01\0\0\0ts")
    prompt = pack_u32(ids("hello wor"))
    assert submit == Submit(
        request=7, prompt=prompt, max_tokens=5, root=salted, digests=chain(salted, prompt, 4),
        sampling=Sampling(temperature=0.5, seed=9, min_tokens=2, suppress=pack_u32([65, END])),
        stop_token_ids=pack_u32([65, END]), priority=3, deadline_ns=3 * SECOND, tenant="t", submitted_ns=SECOND,
    )  # fmt: skip
    assert len(submit.digests) == 32  # two full blocks of four


def test_max_tokens_left_out_is_the_rest_of_the_context_and_ignore_eos_drops_the_ends(played: Played) -> None:
    played.open(prompt="hello", ignore_eos=True)
    (submit,) = played.take_sent()
    assert isinstance(submit, Submit)
    assert (submit.max_tokens, submit.stop_token_ids, submit.sampling.suppress) == (59, b"", b"")


def test_a_model_without_prefix_cache_or_root_sends_no_digests(played: Played) -> None:
    played.model.prefix_cache = False
    played.open(1)
    played.model.prefix_cache = True
    played.receive(msgspec.structs.replace(FACTS, root=b""))
    played.open(2)
    for submit in played.take_sent():
        assert isinstance(submit, Submit)
        assert (submit.root, submit.digests) == (b"", b"")


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [("overloaded", 429, 3.0), ("not_ready", 503, 3.0), ("draining", 503, 3.0), ("deadline", 503, None),
     ("too_long", 400, None), ("invalid", 400, None), ("quarantined", 500, None)],
)  # fmt: skip
def test_a_refusal_is_the_clients_error(played: Played, code: RefusalCode, status: int, retry: float | None) -> None:
    played.open()
    played.receive(Refused(7, code, "no", retry_after_s=3.0))
    error = played.answers[7]
    assert error is not None
    assert (error.status, error.message, error.retry_after_s) == (status, "no", retry)
    assert len(played.talk) == 0


def test_tokens_come_through_and_the_end_ends(played: Played) -> None:
    stream = played.accepted()
    played.receive(deltas(7, 0, "he"))
    played.receive(deltas(7, 2, "llo", "length"))
    answer = pieces(stream)
    assert answer.text == "hello"
    assert answer.finish is not None
    assert len(played.talk) == 0


def test_one_message_carries_many_requests(played: Played) -> None:
    first, second = played.accepted(1), played.accepted(2, sampling=Sampling(logprobs=1))
    ends = (Finished(2, "length", 2, 0, 0), Finished(1, "error", 0, 0, 0, error="gone"), Finished(99, "stop", 1, 0, 0))
    message = Deltas(
        5, pack_u64([99, 2]), pack_u32([0, 0]), pack_u32([1, 2]), pack_u32(ids("xhi")),
        logprobs=((1, TokenLogprobs(-0.25)), (2, TokenLogprobs(-0.5))), finished=ends,
    )  # fmt: skip
    played.receive(message)
    answer = pieces(second)
    assert (answer.text, [entry.logprob for entry in answer.logprobs]) == ("hi", [-0.25, -0.5])
    failed = pieces(first).finish
    assert failed is not None
    assert (failed.reason, failed.error) == ("error", "gone")


def test_deltas_that_contradict_themselves_touch_nothing(played: Played) -> None:
    stream = played.accepted()
    played.receive(Deltas(1, pack_u64([7]), pack_u32([0]), pack_u32([3]), pack_u32(ids("ab"))))
    assert pieces(stream) == Piece()


def test_prompt_logprobs_are_there_with_the_first_token(played: Played) -> None:
    stream = played.accepted(prompt="hey", prompt_logprobs=0)
    played.receive(PromptLogprobs(7, 1, (TokenLogprobs(-1.0), TokenLogprobs(-2.0))))
    entries = stream.prompt_logprobs
    assert entries[0] is None
    assert [(entry.text, entry.logprob) for entry in entries[1:] if entry] == [(b"e", -1.0), (b"y", -2.0)]


def test_a_prompt_may_be_scored_without_an_answer(played: Played) -> None:
    stream = played.accepted(prompt="x" * 64, max_tokens=0, prompt_logprobs=0)
    played.receive(PromptLogprobs(7, 1, (TokenLogprobs(-1.0),) * 63))
    played.receive(deltas(7, 0, "", "length"))
    answer = pieces(stream)
    assert answer.finish is not None
    assert (answer.text, answer.finish.reason, answer.finish.usage.completion_tokens) == ("", "length", 0)
    assert None not in stream.prompt_logprobs[1:]


# --- aborting ------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_aborts_at_once(played: Played) -> None:
    stream = played.accepted()
    played.receive(deltas(7, 0, "he"))
    played.take_sent()
    stream.abort("client")
    stream.abort("client")
    assert played.take_sent() == [Abort(7, "client", 2)]
    played.receive(deltas(7, 2, "llo"))
    answer = pieces(stream)
    assert answer.text == "he"
    assert answer.finish is not None
    assert answer.finish.reason == "abort"


def test_a_stop_string_tells_the_scheduler(played: Played) -> None:
    stream = played.accepted(stop=("ll",))
    played.take_sent()
    played.receive(deltas(7, 0, "hello"))
    assert played.take_sent() == [Abort(7, "stop", 4)]
    answer = pieces(stream)
    assert answer.finish is not None
    assert (answer.text, answer.finish.reason, answer.finish.stop_reason) == ("he", "stop", "ll")


def test_an_answer_that_a_stop_string_ends_knows_what_was_cached(played: Played) -> None:
    """Its `Finished` is never sent: the scheduler is told to stop."""
    stream = played.accepted(stop=("ll",))
    played.receive(msgspec.structs.replace(deltas(7, 0, "he"), cached=((7, 4), (99, 8))))
    played.receive(deltas(7, 2, "llo"))
    answer = pieces(stream)
    assert answer.finish is not None
    assert (answer.finish.usage.completion_tokens, answer.finish.usage.cached_tokens) == (4, 4)


def test_a_deadline_passes(played: Played) -> None:
    opening, running = played.open(1, deadline_s=2.0), played.accepted(2, deadline_s=3.0)
    played.take_sent()
    played.later(2.5)
    error = played.answers[1]
    assert error is not None
    assert (error.status, error.code) == (503, "deadline_exceeded")
    assert opening.finished
    assert not running.finished
    played.later(1)
    assert [body.reason for body in played.take_sent() if isinstance(body, Abort)] == ["deadline", "deadline"]
    finish = pieces(running).finish
    assert finish is not None
    assert (finish.reason, "deadline" in finish.error) == ("abort", True)


# --- when the scheduler is gone ------------------------------------------------------------------------------------


def test_a_new_scheduler_gets_every_live_request_with_its_tokens(played: Played) -> None:
    stream, other = played.accepted(7), played.open(8)
    played.receive(deltas(7, 0, "he"))
    first = [body for body in played.take_sent() if isinstance(body, Submit)]
    played.down()
    assert not played.model.up
    played.later(20)  # beyond the patience of a request that was not taken yet
    played.up()
    again = [body for body in played.take_sent() if isinstance(body, Submit)]
    assert [body.request for body in again] == [7]
    assert unpack_u32(again[0].emitted).tolist() == ids("he")
    assert msgspec.structs.replace(again[0], emitted=b"") == first[0]
    error = played.answers[8]
    assert error is not None
    assert error.status == 503
    assert other.finished
    played.receive(Accepted(7, 0))
    played.receive(deltas(7, 2, "llo", "length"))
    assert pieces(stream).text == "hello"
    assert [event.kind for event in played.events if event.request == 7] == [
        "submitted",
        "orphaned",
        "resumed",
        "told",
    ]


def test_nothing_is_sent_before_the_scheduler_has_introduced_itself(played: Played) -> None:
    played.accepted()
    played.take_sent()
    played.down()
    played.linked = True
    played.later(1)
    played.open(8)
    assert played.take_sent() == []
    played.receive(FACTS)
    assert sorted(body.request for body in played.take_sent() if isinstance(body, Submit)) == [7, 8]


def test_a_scheduler_with_other_pages_gets_other_digests(played: Played) -> None:
    played.accepted()
    played.take_sent()
    played.down()
    played.up(msgspec.structs.replace(FACTS, root=b"\1" * 16, page_tokens=8))
    (submit,) = played.take_sent()
    assert isinstance(submit, Submit)
    assert submit.root == salted_root(b"\1" * 16)
    assert len(submit.digests) == 16


def test_tokens_that_come_twice_are_given_once(played: Played) -> None:
    stream = played.accepted()
    played.receive(deltas(7, 0, "hel"))
    played.down()
    played.up()
    played.receive(deltas(7, 1, "ello", "length"))
    assert pieces(stream).text == "hello"


@pytest.mark.parametrize("code", ["not_ready", "overloaded", "draining"])
def test_an_accepted_request_is_not_given_up_when_it_is_refused_later(played: Played, code: RefusalCode) -> None:
    stream = played.accepted()
    played.down()
    played.up()
    played.take_sent()
    for _ in range(8):
        played.receive(Refused(7, code, "no", retry_after_s=1.0))
        assert played.take_sent() == []
        played.later(2)
        assert [type(body) for body in played.take_sent()] == [Submit]
    played.receive(Accepted(7, 0))
    played.receive(deltas(7, 0, "hi", "length"))
    assert pieces(stream).text == "hi"


def test_a_replica_that_comes_is_used_at_once(played: Played) -> None:
    played.accepted()
    played.down()
    played.up(msgspec.structs.replace(FACTS, replicas_ready=0))
    played.receive(Refused(7, "not_ready", "no"))
    played.take_sent()
    played.receive(FACTS)
    assert [type(body) for body in played.take_sent()] == [Submit]
    played.receive(FACTS)
    assert played.take_sent() == []


def test_a_new_request_waits_for_the_first_replica_of_a_scheduler_that_has_just_come_back(played: Played) -> None:
    nobody = msgspec.structs.replace(FACTS, root=b"", replicas_ready=0)
    played.up()
    played.down()
    played.up(nobody)
    played.open()
    played.receive(Refused(7, "not_ready", "no replica of this model is ready yet"))
    assert played.answers == {}
    played.take_sent()
    played.receive(FACTS)
    assert [type(body) for body in played.take_sent()] == [Submit]
    played.receive(Accepted(7, 0))
    assert played.answers == {7: None}


def test_a_new_request_waits_for_a_first_replica_no_longer_than_for_a_scheduler(played: Played) -> None:
    played.up(msgspec.structs.replace(FACTS, root=b"", replicas_ready=0))
    played.open()
    for _ in range(20):
        played.receive(Refused(7, "not_ready", "no replica of this model is ready yet"))
        played.later(OPEN_PATIENCE_S / 15)
    error = played.answers[7]
    assert error is not None
    assert error.code == "not_ready"


def test_a_refusal_that_will_not_pass_ends_an_accepted_request(played: Played) -> None:
    stream = played.accepted()
    played.receive(Refused(7, "quarantined", "it took its worker down twice"))
    finish = pieces(stream).finish
    assert finish is not None
    assert (finish.reason, finish.error) == ("error", "it took its worker down twice")


def test_patience_with_a_scheduler_that_does_not_come_back_ends(played: Played) -> None:
    stream = played.accepted()
    played.down()
    played.later(LOST_PATIENCE_S - 1)
    assert not stream.finished
    played.later(2)
    finish = pieces(stream).finish
    assert finish is not None
    assert finish.reason == "error"
    assert len(played.talk) == 0


def test_patience_with_a_scheduler_that_does_not_answer_ends(played: Played) -> None:
    played.open()
    played.later(OPEN_PATIENCE_S + 1)
    error = played.answers[7]
    assert error is not None
    assert error.status == 503
    assert [type(body) for body in played.take_sent()] == [Submit, Abort]


# --- lost tokens ---------------------------------------------------------------------------------------------------


def test_missing_tokens_are_asked_for_once_and_then_again(played: Played) -> None:
    stream = played.accepted()
    played.receive(deltas(7, 0, "h"))
    played.take_sent()
    played.receive(deltas(7, 3, "l"))
    played.receive(deltas(7, 4, "o"))
    (again,) = played.take_sent()
    assert isinstance(again, Submit)
    assert unpack_u32(again.emitted).tolist() == ids("h")
    played.now += int(ASK_AGAIN_S * SECOND)
    played.receive(deltas(7, 5, "!"))
    assert [type(body) for body in played.take_sent()] == [Submit]
    played.receive(deltas(7, 1, "ello", "length"))
    assert pieces(stream).text == "hello"


def test_tokens_that_never_come_end_in_an_error(played: Played) -> None:
    stream = played.accepted()
    for _ in range(ASK_AGAIN + 1):
        played.receive(deltas(7, 3, "l"))
        played.now += int(ASK_AGAIN_S * SECOND)
    finish = pieces(stream).finish
    assert finish is not None
    assert (finish.reason, "lost" in finish.error) == ("error", True)


def test_an_end_that_counts_more_tokens_than_came_asks_for_them(played: Played) -> None:
    stream = played.accepted()
    played.receive(deltas(7, 0, "he", "length", total=5))
    assert len(played.talk) == 1
    played.receive(deltas(7, 2, "llo", "length"))
    assert pieces(stream).text == "hello"


# --- what is checked before ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "param", "code", "message"),
    [
        ({"prompt": []}, "prompt", None, "empty"),
        ({"prompt": [1, VOCABULARY]}, "prompt", None, f"{VOCABULARY} is out"),
        ({"prompt": [-1]}, "prompt", None, "-1 is out"),
        ({"prompt": [2**70]}, "prompt", None, "integers"),
        ({"prompt": [1.5]}, "prompt", None, "integers"),
        ({"prompt": [0] * 64}, None, "context_length_exceeded", "64.*64"),
        ({"prompt": [0] * 60, "max_tokens": 5}, "max_tokens", "context_length_exceeded", "64.*60.*5 are 65"),
        ({"prompt": [0], "max_tokens": 0}, "max_tokens", None, "at least 1"),
        ({"prompt": [0], "max_tokens": 5, "min_tokens": 6}, "min_tokens", None, "5"),
        ({"prompt": [0], "stop_token_ids": (VOCABULARY,)}, "stop_token_ids", None, "out of"),
        ({"prompt": [0], "sampling": Sampling(logit_bias=((-1, 1.0),))}, "logit_bias", None, "out of"),
    ],
)
def test_bad_jobs_are_refused_by_parameter(
    options: dict[str, object], param: str | None, code: str | None, message: str
) -> None:
    model = ServedModel("m", TINY, None, context_tokens=64)
    model.facts = FACTS
    with pytest.raises(ApiError, match=message) as caught:
        place(Job(model="m", **options), model, 1, SECOND)  # type: ignore[arg-type]
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


# --- accounts ------------------------------------------------------------------------------------------------------


def test_an_answer_that_ends_is_accounted_once_with_what_its_client_is_told(played: Played) -> None:
    stream = played.accepted(max_tokens=5, tenant="t")
    played.receive(deltas(7, 0, "abc"))
    ended = Finished(7, "length", 5, 0, 0, spent_ns=30, prefill_ns=10)
    played.receive(Deltas(2, pack_u64([7]), pack_u32([3]), pack_u32([2]), pack_u32(ids("de")), finished=(ended,)))
    (used,) = played.used
    finish = pieces(stream).finish
    assert finish is not None
    assert (used.request, used.outcome, used.computed) == (7, "length", (30, 10))
    assert (used.whose.model, used.whose.tenant) == ("m", "t")
    assert (used.prompt_tokens, used.generated_tokens) == (finish.usage.prompt_tokens, finish.usage.completion_tokens)
    played.talk.abort(7, "client")
    assert len(played.used) == 1


def test_what_this_side_ends_is_accounted_and_its_computing_is_told_later(played: Played) -> None:
    played.accepted(stop=("lo",))
    played.receive(deltas(7, 0, "hello"))
    played.accepted(8)
    played.receive(deltas(8, 0, "hel"))
    played.talk.abort(8, "client")
    assert [(used.request, used.outcome, used.computed) for used in played.used] == [
        (7, "stop", None),
        (8, "client", None),
    ]
    played.receive(Spent(7, 50, 20))
    played.receive(Deltas(3, b"", b"", b"", b"", finished=(Finished(8, "length", 3, 0, 0, spent_ns=9, prefill_ns=4),)))
    assert played.computing == {7: (50, 20), 8: (9, 4)}


def test_what_was_never_taken_is_not_accounted(played: Played) -> None:
    played.open(7)
    played.receive(Refused(7, "overloaded", "full"))
    played.open(8)
    played.talk.abort(8, "client")
    assert not played.used


def test_a_request_that_fails_is_accounted_and_one_that_goes_elsewhere_is_not(played: Played) -> None:
    played.accepted(7)
    played.accepted(8)
    played.talk.leave(8)
    played.down()
    played.later(301)
    assert [(used.request, used.outcome) for used in played.used] == [(7, "error")]


# --- tokens of all samples -----------------------------------------------------------------------------------------


def test_when_the_tokens_of_all_samples_are_used_up_none_goes_on(played: Played) -> None:
    """One that waits in the queue, and one that has not been taken yet, are not computed for nothing."""
    pool = TokenPool(3)
    first, second = (played.accepted(request, pool=pool, call=7) for request in (7, 8))
    third = played.open(9, pool=pool, call=7)
    other = played.accepted(10)
    played.receive(deltas(8, 0, "x"))
    played.receive(deltas(7, 0, "ab"))
    ends = [pieces(stream) for stream in (first, second, third)]
    assert [end.text for end in ends] == ["ab", "x", ""]
    assert [(end.finish.reason, end.finish.stop_reason) for end in ends if end.finish] == [("length", POOL)] * 3
    assert played.answers[9] is None
    aborted = [body.request for body in played.take_sent() if isinstance(body, Abort)]
    assert sorted(aborted) == [7, 8, 9]
    assert not other.finished
    assert [(used.request, used.generated_tokens, used.whose.call, used.whose.allowed) for used in played.used] == [
        (7, 2, 7, 3), (8, 1, 7, 3), (9, 0, 7, 3)
    ]  # fmt: skip
    played.receive(deltas(8, 1, "y"))
    assert pieces(second) == Piece()
