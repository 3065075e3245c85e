"""Real models, drafting for themselves and for each other: the tokens are those without drafts, bit by bit."""

from __future__ import annotations

import pytest
import torch
from driving import Driver, PlainPages
from real import CPU, PAGE_TOKENS, model_file, reference
from test_speculative import DraftingDriver

from bus.messages.requests import Sampling
from bus.process import EXIT_CONFIG
from workers.group import Alone
from workers.host import cpu_flags
from workers.kernels.build import library
from workers.kernels.pack import Kernels
from workers.loading import why_not
from workers.models.architecture import kv_shape
from workers.models.interface import SINGLE, Model
from workers.models.load import build, load_weights
from workers.speculative.choice import Speculation, proposer_of
from workers.speculative.draft import DraftModel
from workers.speculative.vocabulary import OtherVocabulary, require_same, tokens_of
from workers.step.execute import Executor
from workers.step.slots import Slots
from workers.weights.prepared import Prepared

pytestmark = [pytest.mark.model, pytest.mark.kernels]

CELLS, CONTEXT, TOKENS = 320, 512, 40


@pytest.fixture(scope="module")
def weights() -> Prepared:
    kernels = Kernels(library(cpu_flags()), 2, "file")
    return load_weights(model_file("smollm2"), dtype=torch.bfloat16, kernels=kernels)


def prompts() -> list[list[int]]:
    """Three of the references, and two that repeat themselves."""
    ids = [list(prompt["ids"]) for prompt in reference("smollm2")]
    return [*ids[:3], ids[0] * 4, ids[1][:12] * 5]


KINDS = (
    Sampling(),
    Sampling(temperature=0.8, top_p=0.9, seed=11),
    Sampling(repetition_penalty=1.2, frequency_penalty=0.3),
    Sampling(),
    Sampling(temperature=1.0, seed=5),
)


class RealDriver(DraftingDriver):
    """The same on a real model, with the proposer that workers have."""

    def __init__(self, weights: Prepared, how: Speculation, draft: Prepared | None = None, *, ahead: int = 2) -> None:
        model: Model = build(weights, SINGLE, CPU)
        self.slots = Slots(8, CONTEXT, PAGE_TOKENS, model.architecture.vocabulary, CELLS, CPU)
        shape = kv_shape(model.architecture, PAGE_TOKENS, torch.bfloat16)
        size = (CELLS, shape.layers, 2, shape.kv_heads, PAGE_TOKENS, shape.head_dim)
        pages = PlainPages(torch.zeros(size, dtype=torch.bfloat16))
        proposer = proposer_of(how, self.slots, Alone(), model, draft)
        Driver.__init__(
            self, Executor(model, self.slots, pages, Alone(), proposer=proposer), PAGE_TOKENS, CELLS, ahead=ahead
        )
        self.most, self.drafted, self.accepted, self.context = 6, 0, 0, CONTEXT


@pytest.fixture(scope="module")
def plain(weights: Prepared) -> list[list[int]]:
    """Each prompt alone, without drafts."""
    return [
        RealDriver(weights, "off").generate([ids], TOKENS, [kind])[0]
        for ids, kind in zip(prompts(), KINDS, strict=True)
    ]


@pytest.mark.parametrize("how", ["lookup", "suffix", "draft"])
def test_a_batch_with_drafts_is_each_prompt_alone_without(
    weights: Prepared, plain: list[list[int]], how: Speculation
) -> None:
    driver = RealDriver(weights, how, weights)
    assert driver.speculate(prompts(), TOKENS, KINDS) == plain
    assert driver.accepted > TOKENS / 2
    if how == "draft":  # the model itself: every draft is right, but for penalties, which it does not know
        assert driver.accepted > 0.7 * driver.drafted


def test_a_draft_model_forgets_what_does_not_fit_and_finds_its_way_again(
    weights: Prepared, plain: list[list[int]]
) -> None:
    """Room for two of the five sequences: others are computed again, and nothing changes but the time."""
    driver = RealDriver(weights, "off")
    small = DraftModel(build(weights, SINGLE, CPU), torch.bfloat16, driver.slots, kv_bytes=24 << 20)
    driver.executor._proposer = small
    assert driver.speculate(prompts(), TOKENS, KINDS) == plain
    assert driver.accepted


def test_the_vocabulary_is_compared() -> None:
    smollm, qwen = model_file("smollm2"), model_file("qwen05b")
    require_same(smollm, smollm)
    assert len(tokens_of(qwen)) == 151_936
    with pytest.raises(
        OtherVocabulary, match=r"another vocabulary than SmolLM2.*token \d+ is '.*' there and '.*' here"
    ):
        require_same(smollm, qwen)
    said, code = why_not("coder", OtherVocabulary("the draft model x has another vocabulary than y"))
    assert (said, code) == ("model 'coder': the draft model x has another vocabulary than y", EXIT_CONFIG)
