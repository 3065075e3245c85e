"""Matching by meaning: how many wrong answers it would serve, whom it matches with whom, and when it stops."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache_exact import Backend, Books, job, model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from bus.config import CacheConfig, CacheNamespaceConfig
from bus.messages.requests import Sampling
from bus.telemetry import Telemetry
from ingress.api import validate
from ingress.api.jobs import Caller, Plan, Prompt
from ingress.api.schema_chat import ChatRequest
from ingress.cache.costs import Overheard
from ingress.cache.front import AnswerCache, Opened
from ingress.cache.generations import Generations
from ingress.cache.keys import history_key
from ingress.cache.semantic import calibration as calibrating
from ingress.cache.semantic import index as index_module
from ingress.cache.semantic import lookup as lookup_module
from ingress.cache.semantic.agreement import agree
from ingress.cache.semantic.calibration import Calibration, Calibrations, choose, needed, wilson_lower, wilson_upper
from ingress.cache.semantic.eligible import excluded, history, question
from ingress.cache.semantic.features import NAMES, broken, features
from ingress.cache.semantic.index import FLAT, Partition, Partitions
from ingress.cache.semantic.lookup import Asked, Semantic, Vector
from ingress.cache.semantic.static import FORMAT, About, NotPrepared, StaticVectors
from ingress.cache.semantic.verifier import LEAST_COSINE, Forest, Verifier, shipped
from ingress.cache.semantic.words import words
from ingress.cache.spaces import Space
from ingress.cache.store import Store
from ingress.engine import Finish, Job, Piece, Stream, Usage

DATA = Path(__file__).parent / "cache_data"
PAIRS = [json.loads(line) for line in (DATA / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


# --- the bound -----------------------------------------------------------------------------------------------------


def test_the_bound_on_public_pairs() -> None:
    """Exact counts on fixed data, each pair judged by a forest that has not seen it, by the code that serves."""
    forests = [Verifier(one) for one in msgspec.json.decode((DATA / "folds.json").read_bytes(), type=list[Forest])]
    served: dict[bool, int] = {True: 0, False: 0}
    for pair in PAIRS:
        left, right = words(pair["a"]), words(pair["b"])
        if pair["cosine"] < LEAST_COSINE or broken(left, right):
            continue
        row = features(left, right, pair["cosine"], pair["static_cosine"], tuple(pair["near"]))
        served[pair["same_answer"]] += forests[pair["fold"]].score(row) > shipped().forest.threshold_5
    assert len(PAIRS) == 600
    assert served[False] <= 15, "of 300 traps: 5 %"
    assert served[True] >= 171, "of 300 with the same answer: 57 %"


def test_no_conversation_is_answered_with_another_history() -> None:
    data = pytest.importorskip("fow_cache.data")
    space = Space("s", True, False, 60.0, semantic="on")
    wrong = same = 0
    for pair in data.load_conversations():
        asked = []
        for side in ("a", "b"):
            body = json.dumps({"model": "m", "messages": pair[side], "temperature": 0})
            request = validate.chat_request(body.encode())
            rest = history(request)
            assert rest is not None
            asked.append((history_key(job(), model(), space, rest), question(request)))
        matched = asked[0][0] == asked[1][0] and None not in (asked[0][1], asked[1][1])
        wrong += matched and not pair["same_answer"]
        same += not pair["same_answer"]
    assert (wrong, same >= 100) == (0, True)


@given(st.sampled_from(PAIRS), st.booleans())
def test_the_order_of_two_questions_makes_no_difference(pair: dict[str, Any], swap: bool) -> None:
    left, right = words(pair["a"]), words(pair["b"])
    if swap:
        left, right = right, left
    one = features(left, right, 0.9, 0.9, (0.5, 0.7))
    other = features(right, left, 0.9, 0.9, (0.5, 0.7))
    ordered = [name for name in NAMES if name not in ("alone_least", "alone_most", "alone_difference", "typos")]
    assert [one[NAMES.index(name)] for name in ordered] == [other[NAMES.index(name)] for name in ordered]
    assert bool(broken(left, right)) == bool(broken(right, left))


@pytest.mark.parametrize(
    ("left", "right", "guard"),
    [
        ("Can I bring 100ml of perfume?", "Can I bring 250ml of perfume?", "numbers"),
        ("How long is the course of three weeks?", "How long is the course of 3 weeks?", ""),
        ("Is the clinic open on Sunday?", "Is the clinic open on Monday?", "times"),
        ("How do I export data from Salesforce?", "How do I export data from HubSpot?", "entities"),
        ("How do I lock my card?", "How do I unlock my card?", "opposites"),
        ("Is the deposit refundable?", "Is the deposit non-refundable?", "negations"),
        ("How do I convert a Word document to PDF?", "How do I convert a PDF to a Word document?", "direction"),
        ("What's the return policy?", "what is the return policy please", ""),
        ("How do I recieve it", "How do I receive it", ""),
    ],
)
def test_guards(left: str, right: str, guard: str) -> None:
    assert broken(words(left), words(right)) == guard


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("What is the capital of France?", ""),
        ("What is the weather in Paris?", "time"),
        ("Who is the current president of France?", "time"),
        ("Where is my order, please?", "account"),
        ("What is the price of gold?", "time"),
        ("def f(x): return x + 1", "code"),
        ("Write to me@example.org", "code"),
        ("continue", ""),
        ("go on ...", "depends"),
        ("hi", "length"),
        ("a " * 400, "length"),
        ("Wie heißt die Hauptstadt?", ""),
        ("日本の首都はどこですか教えてください", "language"),
    ],
)
def test_what_is_never_matched(text: str, why: str) -> None:
    found = excluded(text)
    assert found == why or (text == "continue" and found == "depends")


# --- calibration ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_bounds_hold_the_share(wrong: int, more: int) -> None:
    total = wrong + more
    assert 0 <= wilson_lower(wrong, total) <= wrong / total <= wilson_upper(wrong, total) <= 1
    assert wilson_upper(wrong, total) <= wilson_upper(wrong + 1, total) + 1e-9


@given(st.lists(st.tuples(st.floats(-3, 3), st.booleans()), max_size=200), st.floats(0.01, 0.5))
def test_a_threshold_is_within_its_budget_by_what_was_seen(seen: list[tuple[float, bool]], budget: float) -> None:
    step = choose(seen, budget)
    if step is not None:
        above = [agreed for score, agreed in seen if score >= step.threshold]
        assert (step.served, step.wrong) == (len(above), above.count(False))
        assert wilson_upper(step.wrong, step.served) <= budget


def test_how_much_must_be_seen() -> None:
    assert wilson_upper(0, needed(0.02)) <= 0.02 < wilson_upper(0, needed(0.02) - 1)
    assert choose([(1.0, True)] * (needed(0.02) - 1), 0.02) is None
    assert choose([(1.0, True)] * needed(0.02), 0.02) is not None


def test_audits_switch_off() -> None:
    assert not calibrating.broken_by([False] * 3, 0.02)
    assert calibrating.broken_by([True] * 17 + [False] * 3, 0.02)
    assert not calibrating.broken_by([True] * 40, 0.02)


def test_calibrations_are_shared_and_a_damaged_file_calibrates_nothing(tmp_path: Path) -> None:
    one, two = Calibrations(tmp_path), Calibrations(tmp_path)
    calibration = Calibration(0.5, 0.01, 300, 200, 1, 7, "e")
    one.set("faq", calibration)
    two.look()
    assert two.of("faq") == calibration
    two.set("other", calibration)
    one.look()
    assert one.of("faq") == one.of("other") == calibration
    (tmp_path / "cache-calibration.json").write_text("{")
    one.look()
    assert one.of("faq") is None


@pytest.mark.parametrize(
    ("left", "right", "cosine", "same"),
    [
        ("It costs £5.", "it costs  £5.", 0.0, True),
        ("It costs £5.", "It costs £6.", 0.99, False),
        ("You can.", "You can not.", 0.99, False),
        ("Paris is the capital.", "The capital is Paris, of course.", 0.97, True),
        ("Paris is the capital.", "Bananas are yellow.", 0.1, False),
    ],
)
def test_agreement(left: str, right: str, cosine: float, same: bool) -> None:
    assert agree(left, right, cosine) == same


# --- index ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_the_nearest_are_found_and_what_is_gone_is_not(seed: int, count: int, gone: set[int]) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    partition = Partition(8)
    for index, row in enumerate(rows):
        partition.add(index + 1, bytes([index]), "", row, b"")
    left = [index for index in range(count) if index not in gone]
    for index in gone & set(range(count)):
        partition.remove(bytes([index]))
    found = [near.place for near in partition.nearest(rows[0], 0.1, 3)]
    expected = sorted((i for i in left if rows[i] @ rows[0] >= 0.1), key=lambda i: -float(rows[i] @ rows[0]))[:3]
    assert found == expected
    assert len(partition) == len(left)


def test_a_large_partition_is_a_graph() -> None:
    pytest.importorskip("usearch")
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(FLAT + 40, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    partition = Partition(32)
    for index, row in enumerate(rows):
        partition.add(index + 1, index.to_bytes(4, "little"), "", row, b"")
    assert partition.nearest(rows[FLAT + 5], 0.9, 3)[0].place == FLAT + 5
    partition.remove((FLAT + 5).to_bytes(4, "little"))
    assert not partition.nearest(rows[FLAT + 5], 0.9, 3)


def test_the_graph_finds_what_a_look_at_all_rows_finds() -> None:
    """Questions come in clusters; of 200 that are near a kept one, that one is found."""
    pytest.importorskip("usearch")
    generator = np.random.default_rng(2)
    centres = generator.normal(size=(60, 64))
    rows = (centres[generator.integers(0, 60, 6000)] + 0.6 * generator.normal(size=(6000, 64))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    partition = Partition(64)
    for index, row in enumerate(rows):
        partition.add(index + 1, index.to_bytes(4, "little"), "", row, b"")
    found = 0
    for place in range(0, 6000, 30):
        asked = rows[place] + 0.02 * generator.normal(size=64).astype(np.float32)
        best = int((rows @ asked).argmax())
        found += best in [near.place for near in partition.nearest(asked / np.linalg.norm(asked), 0.55, 4)]
    assert found >= 196, found


def test_a_question_that_is_kept_anew_has_one_place_and_a_worn_partition_begins_anew() -> None:
    row = np.ones(4, np.float32) / 2
    partitions = Partitions(4)
    partition = partitions.of(b"p")
    for number in range(1, 4):
        partition.add(number, b"k", "", row, b"")
    assert (len(partition), partition.newest) == (1, 3)
    partition.remove(b"k")
    partition.add(4, b"k", "", row, b"")
    assert len(partition.nearest(row, 0.5, 4)) == 1
    for number in range(5, 5 + FLAT):
        partition.add(number, number.to_bytes(4, "little"), "", row, b"")
    assert not partition.worn
    for number in range(5, 5 + FLAT * 2 // 3):
        partition.remove(number.to_bytes(4, "little"))
    assert partition.worn
    partitions.renew(b"p")
    assert (len(partitions.of(b"p")), partitions.of(b"p").newest) == (0, 0)


def test_a_full_partition_goes_on_without_its_older_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MOST", 20)
    monkeypatch.setattr(index_module, "MOST_FLAT", 20)
    partitions = Partitions(4)
    for number in range(1, 31):
        partitions.of(b"p").add(number, bytes([number]), "", np.ones(4, np.float32), b"")
    assert len(partitions.of(b"p")) == 20
    assert partitions.of(b"p").worn
    partitions.renew(b"p")
    assert partitions.of(b"p").newest == 11


def test_what_all_partitions_hold_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MOST_IN_ALL", 5)
    partitions = Partitions(4)
    for part in b"abc":
        for number in range(1, 4):
            partitions.of(bytes([part])).add(number, bytes([number]), "", np.ones(4, np.float32), b"")
    partitions.bound()
    assert [len(partitions.of(bytes([part]))) for part in b"cba"] == [3, 0, 0]


# --- all of it -----------------------------------------------------------------------------------------------------

VOCABULARY = sorted({word for pair in PAIRS for side in "ab" for word in words(pair[side]).all})


def write_static(directory: Path) -> None:
    """Vectors of the words of the pairs, drawn once: near is who shares words."""
    directory.mkdir()
    known = {word: index for index, word in enumerate(["[UNK]", *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(known, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    rows = np.random.default_rng(5).normal(size=(len(known), 64))
    rows[0] = 0
    np.save(directory / "vectors.npy", rows.astype(np.float16))
    (directory / "about.json").write_bytes(msgspec.json.encode(About(FORMAT, "e", len(known), 64)))


class Means:
    """An encoder that is the static vectors' mean."""

    def __init__(self, static: StaticVectors) -> None:
        self._static = static
        self.asked: list[str] = []
        self.calls = 0

    async def embed(self, model: str, text: str, deadline_s: float) -> Vector:
        assert (model, deadline_s > 0) == ("encoder", True)
        self.asked.append(text)
        await asyncio.sleep(0)
        return self._static.vector(text)

    async def embed_all(self, model: str, texts: Sequence[str], deadline_s: float) -> Vector:
        self.calls += 1
        return np.stack([await self.embed(model, text, deadline_s) for text in texts])


def _request(text: str, before: str = "Be brief.") -> ChatRequest:
    messages = [{"role": "system", "content": before}, {"role": "user", "content": text}]
    return validate.chat_request(json.dumps({"model": "m", "messages": messages, "temperature": 0}).encode())


class House:
    def __init__(self, folder: Path, semantic: Any, audit: float = 0.001) -> None:
        self.backend, self.telemetry = Backend(), Telemetry()
        self.store = Store(folder / "cache", 1 << 20)
        static = StaticVectors(folder / "static")
        self.means = Means(static)
        self.calibrations = Calibrations(folder / "state")
        space = CacheNamespaceConfig(name="faq", semantic=semantic, audit=audit)
        self.semantic = Semantic(
            self.store, self.calibrations, static, self.means, "encoder", self.telemetry, shipped()
        )
        config = CacheConfig(encoder="encoder", namespace=(space,))
        self.cache = AnswerCache(config, self.backend, self.store, Overheard(Books()), self.telemetry, self.semantic)

    def turn(self, text: str) -> Asked:
        one: Job = job(prompt=list(text.encode()), sampling=Sampling(temperature=0))
        asked = self.semantic.turn(_request(text), one, model(), self.cache._spaces.of("m", ""))
        assert asked is not None
        return asked

    async def ask(self, text: str, tenant: str = "", before: str = "Be brief.", header: str = "") -> Opened:
        request = _request(text, before)
        one: Job = job(prompt=list(text.encode()), tenant=tenant, sampling=Sampling(temperature=0))

        async def dispatch(jobs: Any) -> list[Stream]:
            return [await self.backend.open(one) for one in jobs]

        caller = Caller(tenant, "", 1, cache_control=header)
        return await self.cache.open(request, Plan([Prompt(None, [1])], [one], 1), model(), caller, dispatch)

    async def answer(self, text: str, answer: str, **who: str) -> str:
        """Ask, and have it generated where it is not served; what the cache said."""
        before = len(self.backend.streams)
        opened = await self.ask(text, **who)
        if len(self.backend.streams) > before:
            stream = opened.streams[0]
            stream.push(Piece(answer, tuple(answer.encode())))
            stream.push(Piece(finish=Finish("stop", Usage(3, len(answer)))))
            while self.semantic._tasks:
                await asyncio.sleep(0.001)
            assert self.store.settle()
        return dict(opened.headers)[b"x-cache"].decode()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hrc", dir="/tmp") as path:
        write_static(Path(path) / "static")
        (Path(path) / "state").mkdir()
        yield Path(path)


KNOWN, SAME = "How do I cancel the contract?", "How can I cancel the contract please?"
OTHER = "How do I renew the contract?"


def calibrate(house: House, threshold: float = 0.0) -> None:
    house.calibrations.set("faq", Calibration(threshold, 0.01, 300, 200, 0, 1, "e"))


async def test_shadow_serves_nothing_and_sees_what_it_would_have(folder: Path) -> None:
    house = House(folder, "shadow")
    assert await house.answer(KNOWN, "Write to us.") == "miss"
    assert await house.answer(SAME, "Write to us.") == "miss"
    assert await house.answer("How could I cancel the contract?", "No idea 7.") == "miss"
    seen = house.store.observations("faq", 10)
    assert [(one.kind, one.agree) for one in seen] == [("shadow", False), ("shadow", True)]
    assert (seen[1].asked, seen[1].known) == (SAME, KNOWN)
    house.cache.close()


async def test_on_serves_only_what_is_calibrated(folder: Path) -> None:
    house = House(folder, "on", audit=1e-9)
    assert await house.answer(KNOWN, "Write to us.") == "miss"
    assert await house.answer(SAME, "Write to us.") == "miss", "not calibrated"
    calibrate(house)
    opened = await house.ask("How can I cancel the contract?")
    headers = dict(opened.headers)
    assert headers[b"x-cache"] == b"semantic"
    assert 0.6 <= float(headers[b"x-cache-similarity"]) <= 1
    assert "".join([piece.text async for piece in opened.streams[0]]) == "Write to us."
    assert await house.answer(OTHER, "Nothing to do.") == "miss", "an opposite"
    calibrate(house, 99.0)
    assert await house.answer("Please how can I cancel the contract?", "x") == "miss", "below the threshold"
    house.cache.close()


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("abcXYZé9 \t\n.,?!'-\u00a0\u200b\x1c中"), max_size=60))
def test_words_apart_have_the_tokens_that_they_have_together(text: str) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = ["[UNK]", *"abcxyze9.,?!'-", "##a", "##b", "##x", "ab"]
    known = {piece: at for at, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    with tempfile.TemporaryDirectory(prefix="hrc", dir="/tmp") as path:
        directory = Path(path)
        backend.save(str(directory / "tokenizer.json"))
        rows = np.arange(len(known), dtype=np.float16)[:, None]
        np.save(directory / "vectors.npy", rows)
        (directory / "about.json").write_bytes(msgspec.json.encode(About(FORMAT, "e", len(known), 1)))
        static = StaticVectors(directory)
        assert static._by_words
        assert static.tokens(text)[:, 0].tolist() == backend.encode(text, add_special_tokens=False).ids


async def test_the_encoder_is_asked_when_a_question_first_comes_near_and_once_for_each(folder: Path) -> None:
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    assert await house.answer(KNOWN, "Write to us.") == "miss"
    assert house.means.asked == [], "nothing was near"
    assert await house.answer(SAME, "x") == "semantic"
    assert (house.means.asked, house.means.calls) == ([SAME, KNOWN], 1)
    assert house.store.settle()
    # Another ingress, or this one after its start, has what was embedded.
    house.cache.close()
    house = House(folder, "on", audit=1e-9)
    assert await house.answer("How could I cancel the contract?", "x") == "semantic"
    assert house.means.asked == ["How could I cancel the contract?"]
    house.cache.close()


async def test_a_vector_counts_as_held_and_is_written_once(folder: Path) -> None:
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    await house.answer(KNOWN, "Write to us.")
    before = house.store.held
    asked = house.turn(SAME)
    assert await house.semantic.find(asked) is not None
    assert house.store.settle()
    (row,) = house.store.turns(asked.part, 0, 9)
    assert len(row[1].vector) == 2 * 64
    assert house.store.held == before + 2 * 64
    house.store.add_vector(row[1].key, b"other")
    assert house.store.settle()
    assert house.store.turns(asked.part, 0, 9) == [row]
    house.cache.close()


async def test_neither_tenants_nor_histories_meet(folder: Path) -> None:
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    assert await house.answer(KNOWN, "Write to us.", tenant="a") == "miss"
    asked = len(house.means.asked)
    for who in ({"tenant": "b"}, {"tenant": ""}, {"tenant": "a", "before": "Be long."}):
        assert await house.answer(SAME, "x", **who) == "miss"
        assert len(house.means.asked) == asked, "nothing was near"
    assert await house.answer("How can I cancel the contract?", "x", tenant="a") == "semantic"
    house.cache.close()


async def test_a_flush_holds_for_meanings_too(folder: Path) -> None:
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    await house.answer(KNOWN, "Write to us.")
    assert await house.answer(SAME, "x") == "semantic"
    house.store.flush("faq")
    assert await house.answer(SAME, "x") == "miss"
    house.cache.close()


async def test_an_answer_that_is_gone_leaves_the_next_best_one(folder: Path) -> None:
    """Of two kept questions that mean the same, the nearer one's answer is gone."""
    house = House(folder, "on", audit=1e-9)
    await house.answer(KNOWN, "Write to us.")
    await house.answer("How can I cancel the contract?", "Write to us!")
    calibrate(house)
    best = await house.semantic.find(house.turn(SAME))
    assert best is not None
    house.store.forget(best.key)
    assert house.store.settle()
    assert await house.answer(SAME, "x") == "semantic"
    house.cache.close()


async def test_an_answer_too_old_for_one_caller_is_there_for_others(folder: Path) -> None:
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    await house.answer(KNOWN, "Write to us.")
    await asyncio.sleep(0.01)
    assert dict((await house.ask(SAME, header="max-age=0")).headers)[b"x-cache"] == b"miss"
    assert await house.answer("How could I cancel the contract?", "x") == "semantic"
    house.cache.close()


async def test_after_a_damaged_file_meanings_are_found_in_the_next_one(folder: Path) -> None:
    """Whose rows are numbered from 1 again."""
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    for text in (KNOWN, OTHER, "Where do I find the contract?"):
        await house.answer(text, "Write to us.")
    assert await house.answer(SAME, "x") == "semantic"
    path = house.store.path
    assert path is not None
    Generations(folder / "cache").next(path)  # as another ingress does that finds it damaged
    house.store.tick()
    assert house.store.path != path
    assert await house.answer(KNOWN, "Write to us again.") == "miss"
    assert await house.answer(SAME, "x") == "semantic"
    house.cache.close()


async def test_an_encoder_that_does_not_answer_is_waited_for_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    await house.answer(KNOWN, "Write to us.")
    house.semantic._wait_s = 0.02
    asked: list[tuple[str, ...]] = []

    async def stuck(model: str, texts: Sequence[str], deadline_s: float) -> Vector:  # noqa: ARG001
        if deadline_s < 1:
            asked.append(tuple(texts))
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(house.means, "embed_all", stuck)
    for text in (SAME, "How could I cancel the contract?", "How can I cancel the contract?"):
        assert dict((await house.ask(text)).headers)[b"x-cache"] == b"miss"
    assert asked == [(SAME, KNOWN)]
    assert len(house.semantic._tasks) == 1, "it is waited for, but by no client"
    house.cache.close()


async def test_a_large_partition_is_read_beside_the_lookups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a start: no lookup waits for all of it, and in the end it is all there."""
    house = House(folder, "on", audit=1e-9)
    calibrate(house)
    for number in range(8):
        await house.answer(f"Which {VOCABULARY[number * 50]} is nearest to the station?", "x")
    await house.answer(KNOWN, "Write to us.")
    house.cache.close()
    monkeypatch.setattr(lookup_module, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(lookup_module, "READ_ON_S", 0.0)
    house = House(folder, "on", audit=1e-9)
    assert dict((await house.ask(SAME)).headers)[b"x-cache"] == b"miss", "not in yet"
    while house.semantic._tasks:
        await asyncio.sleep(0)
    assert await house.answer("How could I cancel the contract?", "x") == "semantic"
    house.cache.close()


async def test_audits_that_disagree_switch_it_off(folder: Path) -> None:
    house = House(folder, "on", audit=1.0)  # every hit is generated all the same
    calibrate(house)
    await house.answer(KNOWN, "Write to us.")
    asks = [f"How {verb} I cancel the contract{end}" for verb in ("can", "could", "should", "may", "might", "would")
            for end in ("?", " please?", " please", ".", "!", "??")]  # fmt: skip
    for text in asks[: calibrating.LEAST_AUDITS + 1]:
        assert await house.answer(text, "Something else: 12.") == "miss"
    known = house.calibrations.of("faq")
    assert known is not None
    assert "compared answers differ" in known.off
    house.cache.close()


def test_what_is_not_prepared_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotPrepared, match="headrace cache prepare"):
        StaticVectors(tmp_path)
