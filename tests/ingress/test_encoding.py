"""A call to an encoder: some sequences at a time, one record in the ledger, nothing left behind however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bus.encoders import EncoderFacts
from bus.messages.requests import Finished, ModelFacts
from bus.packed import unpack_u32
from ingress.accounts import Used
from ingress.api.encoders import _cut, _dimensions, require_generates
from ingress.api.schema_encoding import EmbeddingRequest
from ingress.awaited import Awaited
from ingress.conversation import Order
from ingress.encoding import WINDOW, Encoded, EncodeJob, Tokens, encode
from ingress.errors import ApiError, not_ready
from ingress.models import ServedModel
from ingress.streams import Finish, Piece, Stream, Usage
from ingress.text.tokenizer import Tokenizer, from_directory

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "sat", "##s", "mat", "the"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """WordPiece, as BERT has it; its file says that it cuts and fills up, which is not its business."""
    backend = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.add_special_tokens(WORDS[:4])
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    directory: Path = tmp_path_factory.mktemp("wordpiece")
    backend.save(str(directory / "tokenizer.json"))
    return from_directory(directory)


def served(tokenizer: Tokenizer, **facts: object) -> ServedModel:
    said = {"family": "bert", "kind": "embed", "max_tokens": 16, "dimensions": 4, **facts}
    model = ServedModel("m", tokenizer, None, context_tokens=16, encoder=EncoderFacts(**said))  # type: ignore[arg-type]
    model.facts = ModelFacts("m", bytes(16), 16, 16, len(WORDS), 1, 1)
    return model


class Books:
    """A ledger that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Used] = []

    def ended(self, used: Used) -> None:
        self.records.append(used)

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:  # noqa: ARG002
        raise AssertionError("a call is told of at once")


class House:
    """Takes requests, and ends them when told to."""

    def __init__(self) -> None:
        self.under_way: dict[int, tuple[Order, Awaited, Stream]] = {}
        self.most = 0
        self.taken: list[Order] = []
        self.aborted: list[int] = []
        self.refusal: ApiError | None = None

    async def __call__(self, order: Order, awaited: Awaited, *, promised: bool) -> Stream:
        if self.refusal is not None and not promised:
            raise self.refusal
        assert promised == bool(self.taken), "only the first one may be refused"
        stream = Stream(order.request, awaited.prompt_tokens, lambda _: self._abort(order.request))
        self.under_way[order.request] = (order, awaited, stream)
        self.taken.append(order)
        self.most = max(self.most, len(self.under_way))
        return stream

    def _abort(self, request: int) -> None:
        if self.under_way.pop(request, None) is not None:
            self.aborted.append(request)

    def answer(self, choose: Callable[[list[int]], int]) -> None:
        request = choose(sorted(self.under_way))
        order, awaited, stream = self.under_way.pop(request)
        ids = unpack_u32(order.prompt)
        vector = np.array([ids.sum(), len(ids), order.segment, 1], np.float32)
        stream.push(awaited.complete(vector, Finished(request, "stop", 0, 0, 0, spent_ns=7)))

    def fail(self, reason: str = "error") -> None:
        _, awaited, stream = self.under_way.pop(next(iter(self.under_way)))
        finish = Finish(reason, Usage(awaited.prompt_tokens, 0), None, "it is bad")  # type: ignore[arg-type]
        stream.push(Piece(finish=finish))


def job(texts: list[list[int]]) -> EncodeJob:
    return EncodeJob(sequences=[Tokens(ids, len(ids)) for ids in texts], tenant="t", key="k")


async def drive(work: asyncio.Future[Encoded], house: House, choose: Callable[[list[int]], int]) -> None:
    while not work.done():
        await asyncio.sleep(0)
        if house.under_way:
            house.answer(choose)


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=16), min_size=1, max_size=150), st.randoms())
def test_every_text_gets_its_own_vector_and_only_so_many_are_under_way(
    tokenizer: Tokenizer, texts: list[list[int]], random: object
) -> None:
    house, books = House(), Books()

    async def run() -> Encoded:
        work = asyncio.ensure_future(encode(job(texts), served(tokenizer), house, books, 5))
        await drive(work, house, lambda requests: random.choice(requests))  # type: ignore[attr-defined]
        return await work

    done = asyncio.run(run())
    assert done.vectors.tolist() == [[sum(ids), len(ids), len(ids), 1] for ids in texts]
    assert house.most <= WINDOW
    lengths = [len(order.prompt) for order in house.taken]
    assert lengths[0] == max(lengths)
    assert [order.timing for order in house.taken] == [True] + [False] * (len(texts) - 1)
    (record,) = books.records
    assert (record.outcome, record.prompt_tokens, record.computed) == (
        "stop", sum(map(len, texts)), (7 * len(texts), 7 * len(texts)),
    )  # fmt: skip
    assert (record.whose.tenant, record.whose.key, record.request) == ("t", "k", done.request)


def test_a_call_that_is_not_taken_is_nobodys_business(tokenizer: Tokenizer) -> None:
    house, books = House(), Books()
    house.refusal = not_ready("no", 1.0)
    with pytest.raises(ApiError, match="no"):
        asyncio.run(encode(job([[4]] * 3), served(tokenizer), house, books, 5))
    assert not books.records
    assert not house.taken


@pytest.mark.parametrize(("reason", "code"), [("error", "encoding_failed"), ("abort", "aborted")])
def test_one_that_fails_ends_the_call_and_the_others_are_aborted(tokenizer: Tokenizer, reason: str, code: str) -> None:
    house, books = House(), Books()

    async def run() -> None:
        work = asyncio.ensure_future(encode(job([[4, 5]] * 200), served(tokenizer), house, books, 5))
        while len(house.under_way) < WINDOW:
            await asyncio.sleep(0)
        house.answer(min)
        house.fail(reason)
        with pytest.raises(ApiError, match="it is bad") as failed:
            await work
        assert failed.value.code == code

    asyncio.run(run())
    assert not house.under_way
    assert len(house.taken) <= WINDOW + 2
    assert [(record.prompt_tokens, record.outcome) for record in books.records] == [
        (2, "error" if reason == "error" else "shutdown")
    ]


def test_a_client_that_goes_away_leaves_nothing_under_way(tokenizer: Tokenizer) -> None:
    house, books = House(), Books()

    async def run() -> None:
        work = asyncio.ensure_future(encode(job([[4, 5]] * 90), served(tokenizer), house, books, 5))
        while len(house.under_way) < WINDOW:
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(run())
    assert not house.under_way
    assert len(house.aborted) == WINDOW
    assert [record.outcome for record in books.records] == ["client"]


@pytest.mark.parametrize(
    ("ids", "problem"),
    [([4] * 17, "17 tokens"), ([9], "vocab"), ([-1], "vocab"), ([], "no tokens"), ([2**70], "vocab")],
)
def test_what_the_model_cannot_take_is_refused_before_anything_is_submitted(
    tokenizer: Tokenizer, ids: list[int], problem: str
) -> None:
    house = House()
    with pytest.raises(ApiError, match=problem) as refused:
        asyncio.run(encode(job([[4], ids]), served(tokenizer), house, Books(), 5))
    assert (refused.value.status, refused.value.param) == (400, "input[1]")
    assert not house.taken


def test_texts_are_tokenised_with_what_belongs_around_them_and_cut_before_it(tokenizer: Tokenizer) -> None:
    assert tokenizer.sequence("The cats sat") == ([2, 8, 4, 6, 5, 3], 6)
    assert tokenizer.sequence("The cats sat", at_most=4) == ([2, 8, 4, 3], 4)
    assert tokenizer.sequence("cat", "mat sat") == ([2, 4, 3, 7, 5, 3], 3)
    assert tokenizer.sequence("cat", "mat sat", at_most=5) == ([2, 4, 3, 7, 3], 3)
    with pytest.raises(ApiError, match="cut to 4 tokens"):
        tokenizer.sequence("cat", "mat sat", at_most=4)
    with pytest.raises(ApiError, match="Unicode"):
        tokenizer.sequence("\ud800")
    assert tokenizer.decode([2, 8, 4, 6, 5, 3]) == "the cats sat"


def test_embeddings_are_cut_only_where_the_model_was_trained_for_it(tokenizer: Tokenizer) -> None:
    asked = EmbeddingRequest(model="m", input="x", dimensions=2)
    with pytest.raises(ApiError, match="Matryoshka") as refused:
        _dimensions(asked, served(tokenizer))
    assert refused.value.param == "dimensions"
    assert _dimensions(asked, served(tokenizer, shorter=(2, 4))) == 2
    assert _dimensions(EmbeddingRequest(model="m", input="x", dimensions=4), served(tokenizer)) == 0
    cut = _cut(np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]], np.float32), 2)
    np.testing.assert_allclose(cut, [[0.6, 0.8], [0.0, 0.0]])


def test_an_encoder_is_not_asked_for_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(ApiError, match="/v1/rerank"):
        require_generates(served(tokenizer, kind="rerank"))
    require_generates(ServedModel("m", tokenizer, None))
