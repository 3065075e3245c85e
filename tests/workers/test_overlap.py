"""Two steps in flight on a device that computes beside the host: the tokens of one at a time, and no wait between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from driving import Driver, PlainPages, make_open, make_plan
from pipelined import Asked, Follower, TwoAhead
from stream import OnStream, Stream, StreamCopier, StreamReader, TableOnStream
from toy import PAGE_TOKENS, VOCABULARY, Toy, toy_pages

from bus.messages.requests import Grammar, Sampling
from bus.messages.steps import StepPlan
from bus.packed import pack_u32, unpack_u32
from workers.group import Alone
from workers.hbm.pages import DevicePages
from workers.kernels.triton.tuning import INTERPRETER, tuning
from workers.sampling.banned import Banned
from workers.sampling.grammar import Masks
from workers.sampling.on_device import DeviceSamplingTable
from workers.sampling.table import Sampler, SamplingTable
from workers.step.execute import Executor, StepBroken
from workers.step.overlap import Unread, Wait, Wants, why_wait
from workers.step.slots import Slots

CPU = torch.device("cpu")
SLOTS, CELLS, CONTEXT = 3, 40, 32
FOLLOWED = Grammar("", b"")


def masks(last: dict[int, int]) -> Masks:
    """See `pipelined.Follower`."""
    return Masks({at: Banned(torch.arange(token % 3, VOCABULARY, 3), left=False) for at, token in last.items()}, {})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Worker:
    """An executor on a stream, with plans that wait, over an arena that outlives it."""

    def __init__(self, arena: PlainPages, frames: int, *, poison: int = -1, kernels: bool = False) -> None:
        self.stream = Stream()
        held = torch.full((frames + 1, *arena.tensor.shape[1:]), float("nan"))
        self.pages = DevicePages(held, StreamCopier(self.stream, held, arena.tensor), arena)
        sampler: Sampler = TableOnStream(self.stream, SamplingTable(SLOTS, VOCABULARY, CPU))
        if kernels:
            sampler = DeviceSamplingTable(SLOTS, VOCABULARY, CPU, tuning(INTERPRETER))
        slots = Slots(
            SLOTS, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, CPU, sampler=sampler, placement=self.pages,
            grammars=Follower(VOCABULARY, masks),  # type: ignore[arg-type]
        )  # fmt: skip
        model: Any = OnStream(self.stream, Toy(poison), 2)
        self.executor = Executor(model, slots, self.pages, Alone(), reader=StreamReader(self.stream))
        self.inbox: list[StepPlan] = []
        self.overlapped = 0

    def may_launch(self) -> bool:
        return bool(self.inbox) and self.executor.may_launch(self.inbox[0])

    def launch(self) -> None:
        self.overlapped += self.executor.in_flight > 0
        with self.stream.current():
            self.executor.launch(self.inbox.pop(0))


def alone(asked: Asked) -> list[int]:
    """What a request is answered by itself, one step after the other, with torch's sampler."""
    slots = Slots(1, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, CPU, grammars=Follower(VOCABULARY, masks))  # type: ignore[arg-type]
    driver = Driver(Executor(Toy(), slots, PlainPages(toy_pages(CELLS)), Alone()), PAGE_TOKENS, CELLS)
    (tokens,) = driver.generate([asked.prompt], asked.count, [asked.sampling])
    return tokens[: tokens.index(asked.stop) + 1] if asked.stop in tokens else tokens


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.9]),
    seed=st.integers(0, 2**64 - 1),
    frequency_penalty=st.sampled_from([0.0, 0.0, 1.5]),
    min_tokens=st.sampled_from([0, 3]),
    suppress=st.just(pack_u32(range(0, VOCABULARY, 2))),
    logprobs=st.sampled_from([-1, -1, 2]),
    grammar=st.sampled_from([None, None, None, FOLLOWED]),
)
requests = st.builds(
    Asked, st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), st.integers(1, 10), samplings
)


def answers(asked: list[Asked], seed: int, frames: int) -> None:
    """Law: whatever requests want and wherever they stop, however late the device is, through preemptions and kills of
    the worker, answers are those that each request has alone; a page that got a name holds its block; no launch
    waits for the device, but for frames where there are none."""
    chance = random.Random(seed)
    for each in asked:
        each.stop = chance.choice([-1, *alone(each)])
    expected = [alone(each) for each in asked]
    arena = PlainPages(toy_pages(CELLS))
    scheduler = TwoAhead(asked, SLOTS, CELLS, frames, PAGE_TOKENS, chunk=5)
    worker, kills = Worker(arena, frames), chance.choice([0, 0, 1, 2])
    for _ in range(4000):
        if scheduler.over:
            break
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                if (plan := scheduler.plan()) is not None:
                    worker.inbox.append(plan)
            case 4 | 5 | 6 | 7:
                if worker.may_launch():
                    worker.launch()
            case 8:
                worker.stream.advance(chance.randrange(20))
            case 9 | 10:
                if worker.executor.in_flight:
                    for page, block in scheduler.answered(worker.executor.finish()):
                        assert arena.tensor[page, 0, 0, 0, :, 0].tolist() == block
                        assert arena.valid[page, page + 1000] == PAGE_TOKENS
            case 11:
                if scheduler.seats and chance.random() < 0.2:
                    scheduler.preempt(chance.choice(scheduler.seats))
                elif kills and chance.random() < 0.1:
                    kills -= 1
                    assert worker.stream.waits == 0
                    scheduler.worker_died()
                    worker = Worker(arena, frames)
    assert scheduler.over
    assert [each.emitted for each in asked] == expected
    assert worker.stream.waits == 0


many = given(st.lists(requests, min_size=1, max_size=5), st.integers(0, 2**32), st.integers(9, 30))
test_answers_are_those_of_one_step_at_a_time = settings(max_examples=8, deadline=None)(many(answers))
test_answers_of_many_more = pytest.mark.slow(settings(max_examples=400, deadline=None)(many(answers)))


def test_the_kernels_draw_without_a_wait_and_with_one_copy_a_step() -> None:
    """The device's own sampler, with everything that a request can ask of it at once; and it does overlap."""
    wanted = [
        Sampling(temperature=0.0, logprobs=2),
        Sampling(temperature=0.9, seed=5, top_p=0.9, top_k=9, frequency_penalty=1.0, logit_bias=((3, 2.0),)),
    ]
    asked = [Asked([5, 9, 1], 4, sampling) for sampling in wanted]
    expected = [alone(each) for each in asked]
    scheduler = TwoAhead(asked, SLOTS, CELLS, 20, PAGE_TOKENS, chunk=5)
    worker = Worker(PlainPages(toy_pages(CELLS)), 20, kernels=True)
    steps = 0
    while not scheduler.over:
        while (plan := scheduler.plan()) is not None:
            worker.inbox.append(plan)
        while worker.may_launch():
            worker.launch()
            steps += 1
        scheduler.answered(worker.executor.finish())
    assert [each.emitted for each in asked] == expected
    assert (worker.stream.waits, worker.stream.reads) == (0, steps)
    assert worker.overlapped >= 3


def started(poison: int = -1) -> Worker:
    """A worker with two requests whose first step is launched and not read. The first one's prompt ends in 50."""
    worker = Worker(PlainPages(toy_pages(CELLS)), 20, poison=poison, kernels=poison >= 0)
    opens = [make_open(0, [7, 50], [1]), make_open(1, [1, 2, 3], [4])]
    worker.inbox = [make_plan(1, [(0, 0, 2, True), (1, 0, 3, True)], opens=opens)]
    worker.launch()
    return worker


def test_a_step_that_breaks_takes_the_one_behind_it_along() -> None:
    """Given logits that are not finite, found when the next step is launched, which looked the token up that there is
    not; then the first names its slot, and nothing is in flight, held or published."""
    worker = started(poison=50)
    worker.inbox = [make_plan(2, [(0, 2, 1, True), (1, 3, 1, True)])]
    assert worker.may_launch()
    worker.launch()
    with pytest.raises(StepBroken) as broken:
        worker.executor.finish()
    assert (broken.value.slots, broken.value.together) == ((0,), True)
    assert (worker.executor.in_flight, worker.pages.frames.held) == (0, 0)
    assert worker.stream.is_done(worker.stream.mark), "what was behind it may write no more"
    worker.inbox = [make_plan(3, [(0, 0, 3, True)], opens=[make_open(0, [1, 2, 3], [9])])]
    worker.launch()
    assert unpack_u32(worker.executor.finish().tokens).tolist() == alone(Asked([1, 2, 3], 1, Sampling()))


def test_a_plan_that_cannot_be_launched_leaves_the_step_in_flight_as_it_is() -> None:
    worker = started()
    worker.inbox = [make_plan(2, [(2, 0, 1, True)], closes=[0])]
    with pytest.raises(StepBroken, match="closed slots"):
        worker.launch()
    assert unpack_u32(worker.executor.finish().tokens).tolist() == [
        *alone(Asked([7, 50], 1, Sampling())), *alone(Asked([1, 2, 3], 1, Sampling()))
    ]  # fmt: skip
    worker.executor.reset()
    assert worker.pages.frames.held == 0


def test_frames_that_are_still_copied_out_are_waited_for_where_there_are_no_others() -> None:
    """Given a request that has ended, whose last step fills a page in vain, when another one needs every frame that the
    scheduler knows to be free, then it has them."""
    arena = PlainPages(toy_pages(CELLS))
    worker = Worker(arena, frames=2)
    worker.inbox = [make_plan(1, [(0, 0, 4, True)], opens=[make_open(0, [1, 2, 3, 4], [1, 2])])]
    worker.launch()
    worker.inbox = [make_plan(2, [(1, 0, 5, True)], closes=[0], opens=[make_open(1, [5, 6, 7, 8, 9], [3, 4])])]
    worker.launch()
    first = worker.executor.finish()
    assert arena.valid == {(1, 1001): 4}, "of the step that is told, and of no other"
    second = worker.executor.finish()
    assert unpack_u32(first.tokens).tolist() == alone(Asked([1, 2, 3, 4], 1, Sampling()))
    assert unpack_u32(second.tokens).tolist() == alone(Asked([5, 6, 7, 8, 9], 1, Sampling()))
    assert arena.valid == {(1, 1001): 4, (3, 1003): 4}
    assert arena.tensor[1, 0, 0, 0, :, 0].tolist() == [1, 2, 3, 4]


slot_sets = st.frozensets(st.integers(0, 3), max_size=2)
seldom = st.sampled_from([False, False, False, True])


@given(
    unread=st.builds(Unread, st.sampled_from([0, 1, 1, 1, 2]), slot_sets),
    wants=st.builds(Wants, slot_sets, slot_sets, seldom, seldom),
)
def test_a_step_waits_for_what_the_host_has_to_see_and_for_nothing_else(unread: Unread, wants: Wants) -> None:
    """Laws: with nothing unread there is no wait; more that is unread or wanted never takes a wait away; slots that
    nobody follows make none."""
    found = why_wait(unread, wants)
    needs = unread.followed & (wants.draws | wants.changes) or wants.drafts or wants.prompt_logprobs
    assert (found is None) == (not unread.steps or not (unread.steps >= 2 or needs))
    if found is not None:
        for more in (unread._replace(followed=unread.followed | {9}), unread._replace(steps=unread.steps + 1)):
            assert why_wait(more, wants) is not None
        assert why_wait(unread, wants._replace(draws=wants.draws | {9})) is not None
    if found in (Wait.GRAMMAR_OR_THOUGHT, Wait.SLOT_CHANGES):
        assert why_wait(unread._replace(followed=frozenset()), wants) is None
