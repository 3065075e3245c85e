"""Budgets of thinking in a worker: a thought ends in time whatever the model says, whoever begins it again goes the
same way, and nothing else of a draw is another than it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from driving import Driver, PlainPages, as_array, make_open
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from toy import PAGE_TOKENS, VOCABULARY, Toy, expected_greedy, toy_pages

from bus.messages.requests import Grammar, Sampling, Thought
from bus.packed import pack_u32
from bus.vocabulary import Vocabulary, read, write
from workers.group import Alone
from workers.sampling.grammar import Grammars
from workers.sampling.thought import GRACE, Bounded, Thoughts
from workers.step.execute import Executor
from workers.step.slots import Slots

END = 96
CELLS, CONTEXT = 96, 64
OPEN, CLOSE = "<t>", "</t>"
# Printable characters, and marks, or parts of them, that are one token now and then; the last id ends.
TOKENS = (*(bytes([32 + index]) for index in range(90)), b"</t", b"</t>\n", b"<t>", b"\xc3", b"\xa9", b"", b"<end>")
CLOSING = [0, *(byte - 32 for byte in CLOSE.encode()), 0]  # with a space before and after


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def digest(run: Path) -> bytes:
    return write(run, Vocabulary(TOKENS, pack_u32([END]), pack_u32([END])))


def thought(run: Path, budget: int, opens: str = "") -> Thought:
    return Thought(budget, opens, CLOSE, pack_u32(CLOSING), digest(run))


def new_driver(run: Path, **options: int) -> Driver:
    cpu = torch.device("cpu")
    grammars = Grammars(VOCABULARY, lambda digest: read(run, digest), cpu)
    thoughts = Thoughts(lambda digest: read(run, digest))
    slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, cpu, grammars, thoughts)
    return Driver(Executor(Toy(), slots, PlainPages(toy_pages(CELLS)), Alone()), PAGE_TOKENS, CELLS, **options)


def text_of(ids: Sequence[int]) -> str:
    return b"".join(TOKENS[token] for token in ids).decode(errors="replace")


def spoken(tokens: Sequence[int], budget: int, opens: str) -> tuple[list[int], list[bool]]:
    """What becomes of an answer that would be these tokens: it, and which of its tokens were forced."""
    subject = Bounded(Thought(budget, opens, CLOSE, pack_u32(CLOSING), b""), TOKENS)
    out, forced = [], []
    for token in tokens:
        forced.append(subject.forced is not None)
        out.append(token if subject.forced is None else subject.forced)
        subject.take(out[-1])
    return out, forced


IDS = st.lists(st.one_of(st.integers(0, 94), st.sampled_from([*CLOSING, 90, 91, 92, 93, 94])), max_size=40)


@given(IDS, st.integers(0, 12), st.sampled_from(["", OPEN]))
@example([92, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74], 3, OPEN)
@example([65, 90, 90, 90, 90, 90, 90, 90, 90, 90], 1, "")
@example([65, 93, 94, 66, 67, 68, 69, 70, 71, 72], 2, "")
def test_a_thought_ends_within_its_budget_and_nothing_else_is_forced(
    tokens: list[int], budget: int, opens: str
) -> None:
    out, forced = spoken(tokens, budget, opens)
    text = text_of(out).lstrip() if opens else text_of(out)
    thinks = text.startswith(opens)
    if not thinks:
        assert out == tokens
        return
    begins = next(at for at in range(len(out) + 1) if text_of(out[:at]).lstrip().startswith(opens)) if opens else 0
    if True in forced:
        first = forced.index(True)
        spent = first - begins + (1 if opens else 0)
        assert budget <= spent <= budget + GRACE
        assert CLOSE not in text_of(out[begins:first])
        assert out[first : first + len(CLOSING)] == CLOSING[: len(out) - first]
        assert forced == [first <= at < first + len(CLOSING) for at in range(len(out))]
        if spent < budget + GRACE:  # not in the middle of a mark or a character
            assert not text_of(out[:first]).endswith(("<", "</", "</t"))
            assert out[first - 1 : first] != [93]
    else:
        assert out == tokens
        assert CLOSE in text_of(out[begins:]) or len(out) - begins <= budget + GRACE + 1


@given(IDS, st.integers(0, 12), st.sampled_from(["", OPEN]), st.integers(0, 40))
def test_it_goes_on_anywhere(tokens: list[int], budget: int, opens: str, cut: int) -> None:
    """A machine that was given what was emitted forces what the first one would have."""
    out, forced = spoken(tokens, budget, opens)
    again = Bounded(Thought(budget, opens, CLOSE, pack_u32(CLOSING), b""), TOKENS)
    for token in out[:cut]:
        again.take(token)
    for token, was in zip(out[cut:], forced[cut:], strict=True):
        assert again.forced == (token if was else None)
        again.take(token)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 90), min_size=1, max_size=9), min_size=1, max_size=4),
    budget=st.integers(0, 6),
    more=st.sampled_from([{}, {"top_k": 3}, {"temperature": 1.0, "seed": 5}, {"repetition_penalty": 1.3}]),
    ahead=st.integers(1, 3),
)
def test_the_worker_closes_thoughts(
    run: Path, prompts: list[list[int]], budget: int, more: dict[str, float], ahead: int
) -> None:
    """With plans in flight too; rows beside draw what they always do, and up to its end a thought is what it was."""
    sampling = Sampling(**more)  # type: ignore[arg-type]
    bounded = replace(sampling, thought=thought(run, budget))
    free = new_driver(run).generate(prompts, 16, [sampling] * len(prompts))
    driver = new_driver(run, ahead=ahead)
    drawn = driver.generate([*prompts, [5, 6, 7]], 16, [bounded] * len(prompts) + [Sampling()])
    for ids, without in zip(drawn[:-1], free, strict=True):
        expected, forced = spoken(without, budget, "")
        until = forced.index(True) + len(CLOSING) if True in forced else len(ids)
        assert ids[:until] == expected[:until]
    assert drawn[-1] == expected_greedy([5, 6, 7], 16)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=9), st.integers(0, 2**63), st.booleans())
def test_one_that_is_begun_again_anywhere_is_closed_alike(
    run: Path, prompt: list[int], seed: int, structured: bool
) -> None:
    grammar = Grammar('%llguidance {}\nstart: block "ab"\nblock[lazy]: /(.|\\n)*<\\/t>[ ]?/', digest(run))
    sampling = Sampling(
        temperature=1.5, seed=seed, presence_penalty=0.5, thought=thought(run, 4),
        grammar=grammar if structured else None,
    )  # fmt: skip
    whole = new_driver(run).generate([prompt], 14, [sampling])[0]
    emitted: list[int] = []
    while len(emitted) < 14 and END not in emitted:
        driver = new_driver(run)  # a worker that knows nothing
        sequence = prompt + emitted
        opened = make_open(3, sequence, driver.pages_for(CONTEXT)[:8], sampling=sampling, prompt_tokens=len(prompt))
        emitted += as_array(driver.run([(3, 0, len(sequence), True)], opens=[opened]).tokens)
    assert emitted == whole[: len(emitted)]
    assert CLOSE in text_of(emitted) or (not structured and END in emitted)  # a grammar lets no thought end otherwise
    if structured and END in emitted:
        assert text_of(emitted[:-1]).partition(CLOSE)[2].strip() == "ab"


def test_a_forced_token_has_the_models_log_probability(run: Path) -> None:
    """That of the same token where nothing is forced, among all alternatives."""

    def first(sampling: Sampling) -> tuple[int, float, dict[int, float]]:
        driver = new_driver(run)
        opened = make_open(0, [1, 2, 3], driver.pages_for(8), sampling=sampling)
        result = driver.run([(0, 0, 3, True)], opens=[opened])
        ((_, value),) = result.logprobs
        ids = torch.frombuffer(bytearray(value.top_ids), dtype=torch.int32).tolist()
        top = torch.frombuffer(bytearray(value.top), dtype=torch.float32).tolist()
        return as_array(result.tokens)[0], value.chosen, dict(zip(ids, top, strict=True))

    asked = Sampling(logprobs=VOCABULARY)
    forced, chosen, top = first(replace(asked, thought=thought(run, 0)))
    _, _, free = first(asked)
    assert forced == CLOSING[0]
    assert top == free
    assert chosen == pytest.approx(free[forced])


def test_a_worker_that_knows_no_tokens_fails_that_row_alone(run: Path) -> None:
    unknown = Sampling(thought=replace(thought(run, 1), vocabulary=b"\0" * 16))
    driver = new_driver(run)
    opens = [
        make_open(slot, [1, 2, 3], driver.pages_for(8), sampling=one) for slot, one in enumerate([unknown, Sampling()])
    ]
    result = driver.run([(slot, 0, 3, True) for slot in range(2)], opens=opens)
    assert [slot for slot, _ in result.failed] == [0]
    assert as_array(result.tokens)[1] == expected_greedy([1, 2, 3], 1)[0]
