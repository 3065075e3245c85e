"""Masks of grammars in a worker: what is drawn is a sentence, whoever begins it again goes the same way, and a row that
cannot go on is nobody else's trouble."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from driving import Driver, PlainPages, as_array, make_open
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import PAGE_TOKENS, VOCABULARY, Toy, expected_greedy, toy_pages

from bus.messages.requests import Grammar, Sampling
from bus.packed import pack_u32, unpack_f32, unpack_u32
from bus.vocabulary import Vocabulary, read, write
from workers.group import Alone
from workers.sampling.grammar import Grammars
from workers.step.execute import Executor
from workers.step.slots import Slots

END = 96
CELLS, CONTEXT = 96, 64
# Printable characters, two of which make one token now and then; the last id ends.
TOKENS = tuple([bytes([32 + index]) for index in range(90)] + [b"ab", b"12", b"{}", b'":', b'{"', b"<end>"])
WORD = "%llguidance {}\nstart: /[a-c]{3,12}/"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def grammar(run: Path, text: str) -> Grammar:
    assert len(TOKENS) == 96
    tokens = (*TOKENS[:95], b"", TOKENS[95])
    return Grammar(text, write(run, Vocabulary(tokens, pack_u32([END]), pack_u32([END]))))


def new_driver(run: Path, **options: int) -> Driver:
    cpu = torch.device("cpu")
    grammars = Grammars(VOCABULARY, lambda digest: read(run, digest), cpu)
    slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, cpu, grammars)
    return Driver(Executor(Toy(), slots, PlainPages(toy_pages(CELLS)), Alone()), PAGE_TOKENS, CELLS, **options)


def text_of(ids: Sequence[int]) -> str:
    """Up to the end."""
    ids = ids[: ids.index(END)] if END in ids else ids
    return b"".join((*TOKENS[:95], b"")[token] for token in ids).decode()


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 90), min_size=1, max_size=9), min_size=1, max_size=4),
    temperature=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 2**32),
    more=st.sampled_from([{}, {"top_k": 3}, {"min_p": 0.2}, {"top_p": 0.5}, {"repetition_penalty": 1.3}]),
    ahead=st.integers(1, 3),
)
def test_what_is_drawn_is_a_sentence_in_every_manner(
    run: Path, prompts: list[list[int]], temperature: float, seed: int, more: dict[str, float], ahead: int
) -> None:
    """Penalties, truncations and temperatures compose with masks; rows beside without one draw what they always do."""
    followed = Sampling(temperature=temperature, seed=seed, grammar=grammar(run, WORD), **more)  # type: ignore[arg-type]
    drawn = new_driver(run, ahead=ahead).generate([*prompts, [5, 6, 7]], 20, [followed] * len(prompts) + [Sampling()])
    for ids in drawn[:-1]:
        assert END in ids
        assert re.fullmatch("[a-c]{3,12}", text_of(ids))
    assert drawn[-1] == expected_greedy([5, 6, 7], 20)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=9), st.integers(0, 2**63))
def test_one_that_is_begun_again_anywhere_draws_the_same(run: Path, prompt: list[int], seed: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed, presence_penalty=0.5, grammar=grammar(run, WORD))
    whole = new_driver(run).generate([prompt], 10, [sampling])[0]
    emitted: list[int] = []
    while len(emitted) < 10 and END not in emitted:
        driver = new_driver(run)  # a worker that knows nothing
        sequence = prompt + emitted
        opened = make_open(3, sequence, driver.pages_for(CONTEXT)[:8], sampling=sampling, prompt_tokens=len(prompt))
        emitted += as_array(driver.run([(3, 0, len(sequence), True)], opens=[opened]).tokens)
    assert emitted == whole[: len(emitted)]


def test_a_row_that_cannot_go_on_fails_alone(run: Path) -> None:
    """Its grammar is not readable here, its tokens are unknown, or leave no way on; the others' draws are their own."""
    unread = Sampling(grammar=grammar(run, "%llguidance {}\nstart: nothing"))
    unknown = Sampling(grammar=Grammar(WORD, b"\0" * 16))
    hopeless = Sampling(grammar=grammar(run, '%llguidance {}\nstart: "é"'))
    driver = new_driver(run)
    opens = [
        make_open(slot, [1, 2, 3], driver.pages_for(8), sampling=sampling)
        for slot, sampling in enumerate([unread, Sampling(), unknown, hopeless])
    ]
    result = driver.run([(slot, 0, 3, True) for slot in range(4)], opens=opens)
    assert [slot for slot, _ in result.failed] == [0, 2, 3]
    assert all(why for _, why in result.failed)
    assert as_array(result.tokens)[1] == expected_greedy([1, 2, 3], 1)[0]


@pytest.mark.parametrize(("text", "least"), [(WORD, 6), ('%llguidance {}\nstart: "a" | "b" "b"', 1)])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_end_is_held_back_while_there_is_another_way(run: Path, text: str, least: int, temperature: float) -> None:
    """`min_tokens` beside a grammar: where only the end is left, it comes."""
    for seed in range(6):
        sampling = Sampling(
            temperature=temperature, seed=seed, grammar=grammar(run, text), min_tokens=8, suppress=pack_u32([END]),
            logit_bias=((END, 50.0),),
        )  # fmt: skip
        ids = new_driver(run).generate([[1, 2, seed]], 20, [sampling])[0]
        assert least <= ids.index(END) <= 12


def test_log_probabilities_are_of_what_the_grammar_leaves(run: Path) -> None:
    driver = new_driver(run)
    sampling = Sampling(logprobs=5, grammar=grammar(run, '%llguidance {}\nstart: "a" | "b"'))
    opened = make_open(0, [1, 2, 3], driver.pages_for(8), sampling=sampling)
    ((_, value),) = driver.run([(0, 0, 3, True)], opens=[opened]).logprobs
    kept = unpack_u32(value.top_ids).tolist()
    assert {TOKENS[token] for token in kept} <= {b"a", b"b", b"ab"}
    assert np.isclose(np.exp(unpack_f32(value.top)).sum(), 1.0)


def test_forced_tokens_are_what_is_drawn_where_one_text_is_left(run: Path) -> None:
    """Of a constant all, of a choice up to where it parts, of anything none; and each is one that may be drawn."""
    grammars = Grammars(VOCABULARY, lambda digest: read(run, digest), torch.device("cpu"))
    for slot, text in enumerate(('"x12y"', '"12x" | "12y"', "/[a-z]+/", '"é"')):
        grammars.open(slot, grammar(run, f"%llguidance {{}}\nstart: {text}"), [])
    whole, choice, anything, hopeless = grammars.forced_tokens(range(4))
    assert text_of(whole) == "x12y"
    assert "12".startswith(text_of(choice))
    assert choice
    assert anything == hopeless == grammars.forced_tokens([7])[0] == []
    for token in whole:
        grammars.begin([0])
        masks = grammars.masks()
        assert masks is not None
        logits = torch.zeros(VOCABULARY)
        masks.banned[0].apply(logits)
        assert logits[token] == 0
        grammars.append([0], [token])
    assert grammars.forced_tokens([0]) in ([[]], [[END]])
    grammars.append([0], [END])
    assert grammars.forced_tokens([0]) == [[]]
    grammars.stop()


def test_tokens_that_are_damaged_are_not_read(run: Path) -> None:
    digest = write(run, Vocabulary((b"x",), b"", pack_u32([0])))
    assert read(run, digest).tokens == (b"x",)
    next(run.glob(f"{digest.hex()}*")).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        read(run, digest)
