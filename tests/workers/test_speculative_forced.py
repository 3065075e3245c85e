"""Jump-ahead: what a grammar gives is drafted; the tokens are those without, in fewer steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from driving import Driver, PlainPages, as_array, make_open, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_sampling_grammar import CELLS, CONTEXT, END, grammar, new_driver, text_of
from toy import PAGE_TOKENS, VOCABULARY, Toy, toy_pages

from bus.messages.requests import Sampling
from bus.vocabulary import read
from workers.group import Alone
from workers.sampling.grammar import Grammars
from workers.speculative.forced import Forced
from workers.speculative.lookup import Lookup
from workers.step.execute import Executor
from workers.step.slots import Slots

# Given, chosen, given, chosen, given.
TEXT = '%llguidance {}\nstart: "<name>" /[a-c]{1,4}/ "</name><age>" ("12" | "7") "</age>"'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def drafting(run: Path) -> Driver:
    cpu = torch.device("cpu")
    grammars = Grammars(VOCABULARY, lambda digest: read(run, digest), cpu)
    slots = Slots(8, CONTEXT, PAGE_TOKENS, VOCABULARY, CELLS, cpu, grammars)
    proposer = Forced(grammars, Lookup(slots.tokens))
    return Driver(Executor(Toy(), slots, PlainPages(toy_pages(CELLS)), Alone(), proposer=proposer), PAGE_TOKENS, CELLS)


def answer(driver: Driver, prompt: list[int], sampling: Sampling, emitted: list[int], steps: int = 99) -> list[int]:
    """Draw on from what was emitted, to the end or for so many steps, with drafts in every step but the first."""
    tokens = prompt + emitted
    pages = driver.pages_for(CONTEXT)[: CONTEXT // PAGE_TOKENS]
    opened = make_open(0, tokens, pages, sampling=sampling, prompt_tokens=len(prompt))
    out = emitted + as_array(driver.run([(0, 0, len(tokens), True)], opens=[opened]).tokens)
    while END not in out and steps:
        driver.step, steps = driver.step + 1, steps - 1
        plan = make_plan(driver.step, [(0, len(prompt) + len(out) - 1, 1, True)])
        driver.results.append(driver.executor.run(replace(plan, drafts=bytes([6]))))
        out += as_array(driver.results[-1].tokens)
    return out[: out.index(END) + 1] if END in out else out


@settings(max_examples=6, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 90), min_size=1, max_size=9),
    temperature=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 2**32),
    penalty=st.sampled_from([1.0, 1.3]),
    killed=st.integers(0, 6),
)
def test_the_tokens_are_those_without_also_over_a_death(
    run: Path, prompt: list[int], temperature: float, seed: int, penalty: float, killed: int
) -> None:
    sampling = Sampling(
        temperature=temperature, seed=seed, repetition_penalty=penalty, grammar=grammar(run, TEXT)
    )  # fmt: skip
    whole = new_driver(run).generate([prompt], 40, [sampling])[0]
    whole = whole[: whole.index(END) + 1]
    driver = drafting(run)
    assert answer(driver, prompt, sampling, []) == whole
    before = answer(drafting(run), prompt, sampling, [], killed)  # its worker dies; another goes on
    assert (before if END in before else answer(drafting(run), prompt, sampling, before)) == whole
    assert len(driver.results) < 0.75 * len(whole)
    assert text_of(whole).startswith("<name>")
