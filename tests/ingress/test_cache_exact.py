"""What is cached, for whom, and that nobody can see it: keys, the shared file, shared generations, and rendering."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from api_stage import Stage, staged, until
from hypothesis import given, settings
from hypothesis import strategies as st
from test_api_render import TINY, chat, completion, pieces_of, plan
from test_journal import opening

from bus.config import CacheConfig, CacheNamespaceConfig
from bus.messages.requests import ModelFacts, Sampling
from bus.telemetry import Telemetry
from ingress.accounts import NoLedger, Used
from ingress.api import validate
from ingress.api.answer import Renderer
from ingress.api.jobs import Caller, Plan, Prompt
from ingress.api.telling import retell
from ingress.cache import entry as entries
from ingress.cache.costs import Overheard
from ingress.cache.database import OVERHEAD, Kept
from ingress.cache.directives import Directives, directives
from ingress.cache.entry import Replayed
from ingress.cache.front import AnswerCache, Opened
from ingress.cache.keys import exact_key
from ingress.cache.policy import may_keep, why_not
from ingress.cache.spaces import Space, Spaces
from ingress.cache.store import Store, now_ms
from ingress.engine import Finish, Job, Piece, ServedModel, Stream, Usage
from ingress.errors import ApiError, not_ready
from ingress.records import Drawn, Record
from ingress.samples.beams import Beams
from ingress.samples.pool import TokenPool

SPACE = Space("default", True, False, 60.0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def model(root: bytes = b"r" * 16) -> ServedModel:
    served = ServedModel("m", TINY, None, eos_ids=(2,), context_tokens=512)
    served.facts = ModelFacts("m", root, 4, 512, 300, 1, 1)
    return served


def job(**changes: Any) -> Job:
    return Job(**{"model": "m", "prompt": [1, 2, 3], "sampling": Sampling(temperature=0.0), "max_tokens": 8, **changes})


def request(**changes: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0, **changes}
    return validate.chat_request(json.dumps(body).encode())


# --- rendering -----------------------------------------------------------------------------------------------------


def everything(renderer: Renderer, pieces: Sequence[Piece]) -> list[bytes]:
    bodies = renderer.first()
    for piece in pieces:
        bodies += renderer.piece(0, piece, ())
    return bodies + renderer.last([piece.finish for piece in pieces if piece.finish is not None])


def as_found(body: bytes) -> Any:
    """With all of the prompt found in a cache."""
    decoded = json.loads(body)
    if usage := decoded.get("usage"):
        usage["prompt_tokens_details"]["cached_tokens"] = usage["prompt_tokens"]
    return decoded


@given(TEXT, st.lists(st.integers(0, 40)), st.sampled_from(["stop", "length"]), st.booleans(), st.booleans())
def test_a_cached_answer_renders_like_the_live_one(
    text: str, cuts: list[int], reason: str, ids: bool, usage: bool
) -> None:
    """Chunk by chunk and as a whole, for both endpoints: byte for byte, but for the usage's word that it was cached."""
    live = [msgspec.structs.replace(piece, logprobs=()) for piece in pieces_of(text, cuts, reason)]
    assert live[-1].finish is not None
    kept = entries.decode(entries.encode(entries.make(live, live[-1].finish, None)))
    cached = list(entries.pieces(kept))
    options = {"stream": True, "return_token_ids": ids} | ({"stream_options": {"include_usage": True}} if usage else {})
    for make in (chat, completion):
        told, again = everything(make(**options), live), everything(make(**options), cached)
        assert [body for body in told if b'"usage":{' not in body] == [
            body for body in again if b'"usage":{' not in body
        ]
        assert list(map(as_found, told)) == list(map(json.loads, again))
        whole = make(return_token_ids=ids)
        one, other = (whole.whole([_merged(pieces)], [()]) for pieces in (live, cached))
        assert as_found(one) == json.loads(other)


def _merged(pieces: Sequence[Piece]) -> Piece:
    text, tokens = "".join(p.text for p in pieces), tuple(t for p in pieces for t in p.tokens)
    return Piece(text, tokens, finish=pieces[-1].finish)


@given(TEXT, st.lists(st.integers(0, 40)), st.data())
@settings(deadline=None)
def test_a_cached_stream_is_taken_up_after_any_event(text: str, cuts: list[int], data: st.DataObject) -> None:
    """Whatever was told by an ingress that died, the next tells the rest, and the whole is what one would have told."""
    live = pieces_of(text, cuts)
    assert live[-1].finish is not None
    stored = entries.encode(entries.make(live, live[-1].finish, None))
    cached = list(entries.pieces(entries.decode(stored)))
    call = msgspec.structs.replace(opening(), cached=stored, requests=(5,))

    def tell(records: list[Record]) -> list[Record]:
        renderer = chat(stream=True)

        async def run() -> list[Record]:
            said: list[Record] = []
            telling = retell(
                call, records, plan("x", 1)._replace(streams=True), renderer,
                lambda *arguments: entries.go_on(stored, *arguments),
            )  # fmt: skip
            await telling.tell(said.append)
            return said

        return asyncio.run(run())

    undisturbed = tell([])
    assert [event for record in undisturbed for event in record.events] == everything(chat(stream=True), cached)  # type: ignore[union-attr]
    cut = data.draw(st.integers(0, len(undisturbed) - 1))
    assert undisturbed[:cut] + tell(undisturbed[:cut]) == undisturbed


def test_a_stored_answer_of_another_prompt_is_not_taken_up() -> None:
    live = pieces_of("abc", [1])
    assert live[-1].finish is not None
    stored = entries.encode(entries.make(live, live[-1].finish, None))
    with pytest.raises(ValueError, match="not how its cached answer begins"):
        entries.go_on(stored, job(), 5, 1, [Drawn(0, (999,), ())])


@given(st.binary(max_size=80))
def test_bytes_that_are_no_entry_are_never_an_answer(data: bytes) -> None:
    with pytest.raises(entries.BadEntry):
        entries.decode(data)


# --- keys and policy -----------------------------------------------------------------------------------------------


OTHERS: list[dict[str, Any]] = [
    {"prompt": [1, 2, 4]}, {"max_tokens": 9}, {"max_tokens": None}, {"min_tokens": 1}, {"stop": ("x",)},
    {"stop_token_ids": (7,)}, {"ignore_eos": True}, {"include_stop": True}, {"skip_special_tokens": False},
    {"cache_salt": "s"}, {"tenant": "t"}, {"sampling": Sampling(temperature=0.5)},
    {"sampling": Sampling(temperature=0.5, top_p=0.5)}, {"sampling": Sampling(temperature=0.5, top_k=5)},
    {"sampling": Sampling(temperature=0.5, min_p=0.5)}, {"sampling": Sampling(temperature=0, repetition_penalty=1.1)},
    {"sampling": Sampling(temperature=0, presence_penalty=1.0)},
    {"sampling": Sampling(temperature=0, frequency_penalty=1.0)},
    {"sampling": Sampling(temperature=0, logit_bias=((1, 2.0),))},
]  # fmt: skip


def test_whatever_changes_an_answer_changes_its_key() -> None:
    keys = [exact_key(job(**changes), model(), SPACE) for changes in [{}, *OTHERS]]
    keys += [exact_key(job(), model(b"s" * 16), SPACE), exact_key(job(), model(), SPACE._replace(name="faq"))]
    assert len(set(keys)) == len(keys)


def test_what_cannot_change_a_greedy_answer_does_not() -> None:
    plain = exact_key(job(), model(), SPACE)
    for same in (
        {"sampling": Sampling(temperature=0, top_p=0.3, top_k=4, seed=9)}, {"priority": 3}, {"traceparent": "t"},
        {"received_ns": 4}, {"key": "k"},
    ):  # fmt: skip
        assert exact_key(job(**same), model(), SPACE) == plain


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_two_tenants_never_share_a_key(tenant: str, salt: str, other: str, other_salt: str) -> None:
    one = exact_key(job(tenant=tenant, cache_salt=salt), model(), SPACE)
    two = exact_key(job(tenant=other, cache_salt=other_salt), model(), SPACE)
    assert (one == two) == ((tenant, salt) == (other, other_salt))
    public = SPACE._replace(public=True)
    shared = exact_key(job(tenant=tenant), model(), public) == exact_key(job(tenant=other), model(), public)
    assert shared, "a public namespace is one for all"


@pytest.mark.parametrize(
    ("changes", "space", "why"),
    [
        ({}, SPACE, None),
        ({"seed": 3}, SPACE, None),  # greedy: a seed draws nothing
        ({"temperature": None}, SPACE, "sampled"),
        ({"temperature": 0.7}, SPACE, "sampled"),
        ({"temperature": 0.7}, SPACE._replace(sampled=True), None),
        ({"temperature": 0.7, "seed": 1}, SPACE._replace(sampled=True), "seed"),
        ({"n": 2}, SPACE, "choices"),
        ({"logprobs": True}, SPACE, "logprobs"),
        ({"prompt_logprobs": 0}, SPACE, "logprobs"),
        ({"include_timing": True}, SPACE, "timing"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}, SPACE, "tools"),
        ({"cache": {"no-store": True}}, SPACE, "no-store"),
        ({}, SPACE._replace(exact=False), "off"),
    ],
)
async def test_who_goes_by(changes: dict[str, Any], space: Space, why: str | None) -> None:
    asked = request(**changes)
    sampling = Sampling(
        temperature=1.0 if asked.temperature is None else asked.temperature, logprobs=0 if asked.logprobs else -1
    )
    one = job(
        sampling=sampling, timing=bool(asked.include_timing),
        prompt_logprobs=-1 if asked.prompt_logprobs is None else asked.prompt_logprobs,
    )  # fmt: skip
    planned = Plan([Prompt(None, [1])], [one] * (asked.n or 1), asked.n or 1)
    assert why_not(asked, planned, directives("", asked), space) == why


@pytest.mark.parametrize("more", [{"beams": Beams(2)}, {"pool": TokenPool(9)}])
def test_what_is_searched_for_or_shares_a_budget_goes_by(more: dict[str, Any]) -> None:
    planned = Plan([Prompt(None, [1])], [job(**more)], 1)
    assert why_not(request(), planned, directives("", request()), SPACE) == "choices"


def test_only_answers_that_came_to_their_end_are_kept() -> None:
    usage = Usage(1, 1)
    kept = {(reason, limit): may_keep(job(max_tokens=limit), Finish(reason, usage))  # type: ignore[arg-type]
            for reason in ("stop", "length", "abort", "error") for limit in (None, 4)}  # fmt: skip
    assert {case for case, keep in kept.items() if keep} == {("stop", None), ("stop", 4), ("length", 4)}


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        ("", {}, Directives()),
        ("no-cache", {}, Directives(look_up=False)),
        ("private, NO-STORE", {}, Directives(look_up=False, store=False)),
        ("max-age=60", {"max-age": 5}, Directives(max_age_s=5)),
        ("no-transform", {"no-cache": True}, Directives(look_up=False)),
        ("max-age=-1, x", {}, Directives()),
    ],
)
def test_what_callers_say(header: str, body: dict[str, Any], expected: Directives) -> None:
    assert directives(header, request(**({"cache": body} if body else {}))) == expected


def test_a_namespace_is_given_by_model_and_tenant() -> None:
    faq = CacheNamespaceConfig(name="faq", models=("m",), tenants=("a",), public=True, ttl_s=5)
    spaces = Spaces(CacheConfig(namespace=(faq, CacheNamespaceConfig(name="rest", models=("m",)))))
    assert [spaces.of(*who).name for who in (("m", "a"), ("m", "b"), ("n", "a"))] == ["faq", "rest", "default"]
    assert (spaces.of("m", "a").ttl_s, spaces.of("m", "b").ttl_s) == (5, 3600)


# --- the shared file -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hrc", dir="/tmp") as path:
        yield Path(path)


def kept(key: bytes, body: bytes = b"body", epoch: int = 0, ttl_ms: int = 60_000, space: str = "s") -> Kept:
    return Kept(key, space, epoch, now_ms(), now_ms() + ttl_ms, body)


def test_what_one_keeps_another_serves_until_it_is_flushed(folder: Path) -> None:
    one, two = Store(folder, 1 << 20), Store(folder, 1 << 20)
    one.put(kept(b"k"))
    assert one.get(b"k").body == b"body"  # type: ignore[union-attr]
    assert one.settle()
    assert two.get(b"k").body == b"body"  # type: ignore[union-attr]
    one.put(kept(b"l", space="other"))
    assert two.flush("s") == 1
    assert (one.get(b"k"), two.get(b"k")) == (None, None)
    assert one.get(b"l") is not None
    one.put(kept(b"k", epoch=0))  # it was asked for before the flush
    assert one.get(b"k") is None
    assert one.settle()
    assert two.get(b"k") is None
    one.put(kept(b"k", epoch=1))
    assert one.get(b"k") is not None
    one.forget(b"k")
    assert one.get(b"k") is None
    assert one.settle()
    assert two.get(b"k") is None
    one.close(), two.close()


def test_whoever_else_opens_and_closes_the_file_takes_nothing_along(folder: Path) -> None:
    """A process that closes a database as the last one removes its log; who has it open counts, also twice."""
    one = Store(folder, 1 << 20)
    one.put(kept(b"k"))
    assert one.settle()
    look = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]);"
        "print(d.execute('SELECT count(*) FROM answers').fetchone()); d.close()"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", look, str(one.path)], capture_output=True, text=True, check=True)
        assert done.stdout == "(1,)\n"
    one.put(kept(b"l"))
    assert one.settle()
    other = Store(folder, 1 << 20)
    assert other.get(b"l") is not None
    other.close()
    one.close()


def test_an_answer_is_not_served_after_its_time(folder: Path) -> None:
    store = Store(folder, 1 << 20)
    store.put(kept(b"k", ttl_ms=-1))
    assert store.settle()
    assert store.get(b"k") is None
    store.close()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4000)), min_size=1, max_size=60))
@settings(deadline=None, max_examples=15)
def test_it_never_holds_more_than_it_may(writes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="hrc", dir="/tmp") as path:
        store = Store(Path(path), 16_000)
        for name, size in writes:
            store.put(kept(bytes([name]), b"x" * size))
        assert store.settle()
        assert store.settle()  # the batch after: evicted
        assert store.held <= 16_000
        with sqlite3.connect(next(Path(path).glob("answers-*.db"))) as file:
            rows = file.execute("SELECT length(body) FROM answers").fetchall()
        assert store.held == sum(length + OVERHEAD for (length,) in rows)
        store.close()


def test_the_least_recently_used_goes_first(folder: Path) -> None:
    store = Store(folder, 40 * (1000 + OVERHEAD))
    for name in range(40):
        store.put(kept(bytes([name]), b"x" * 1000))
        assert store.settle()
    used = [bytes([name]) for name in range(0, 40, 2)]
    for key in used:
        assert store.get(key) is not None
    store.tick()
    assert store.settle()
    store.put(kept(b"new", b"x" * 1000))
    assert store.settle()
    assert store.settle()
    assert all(store.get(key) is not None for key in [*used, b"new"])
    assert store.get(bytes([1])) is None
    store.close()


@pytest.mark.parametrize("harm", ["overwritten", "truncated", "a row"])
def test_a_damaged_file_is_thrown_away_and_never_served(folder: Path, harm: str) -> None:
    store, other = Store(folder, 1 << 20), Store(folder, 1 << 20)
    for name in range(200):
        store.put(kept(b"%d" % name, b"%d" % name * 300))
    assert store.settle()
    path = next(folder.glob("answers-*.db"))
    if harm == "a row":
        with sqlite3.connect(path) as file:
            file.execute("UPDATE answers SET body = replace(body, '1', '2')")
    else:
        with sqlite3.connect(path) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = path.stat().st_size
        with path.open("r+b") as raw:
            if harm == "truncated":
                raw.truncate(size // 2)
            else:
                raw.seek(100)
                raw.write(b"\xff" * (size - 100))
    late = Store(folder, 1 << 20)
    for reader in (store, other, late):
        reader.tick()
        for name in range(200):
            found = reader.get(b"%d" % name)
            assert found is None or found.body == b"%d" % name * 300
    assert store.damaged + other.damaged + late.damaged >= 1
    for reader in (store, other, late):
        reader.tick()  # whoever has not noticed follows
    store.put(kept(b"again"))
    assert store.settle()
    assert all(reader.get(b"again") is not None for reader in (store, other, late))
    store.close(), other.close(), late.close()


def test_without_a_file_there_is_no_cache_and_no_error(folder: Path) -> None:
    (folder / "cache").write_text("not a directory")
    store = Store(folder / "cache", 1 << 20)
    store.put(kept(b"k"))
    assert store.get(b"k") is None
    assert store.flush("s") is None
    store.close()


# --- shared generations --------------------------------------------------------------------------------------------


class Backend:
    """The engine's side of streams, played by the test."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.aborted: list[int] = []
        self.lent: dict[int, Any] = {}
        self.gone_on: list[tuple[int, list[tuple[int, ...]]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.met: Any = None  # sets the facts of a model

    async def expect(self, model: ServedModel) -> None:
        await asyncio.sleep(0)
        if self.met is None:
            raise not_ready("no", 1.0)
        self.met(model)

    async def open(self, job: Job) -> Stream:
        await self.gate.wait()
        number = 100 + len(self.streams)
        stream = Stream(number, len(job.prompt), lambda _: self.end(number, "abort"))
        self.streams[number] = stream
        return stream

    def go_on(self, job: Job, request: int, adopted: int, drawn: Sequence[Drawn]) -> tuple[Stream, list[Piece]]:
        assert adopted == 0
        self.gone_on.append((request, [one.tokens for one in drawn]))
        stream = self.streams[request] = Stream(request, len(job.prompt), lambda _: self.end(request, "abort"))
        return stream, []

    def lend(self, request: int, give_back: Any) -> None:
        self.lent[request] = give_back

    def unlend(self, request: int) -> None:
        self.lent.pop(request, None)

    def abort(self, requests: Any) -> None:
        for request in requests:
            if (give_back := self.lent.get(request)) is not None and give_back():
                continue
            if request in self.streams and not self.streams[request].finished:
                self.aborted.append(request)
                self.streams[request].abort()

    def say(self, number: int, text: str) -> None:
        self.streams[number].push(Piece(text, tuple(text.encode())))

    def end(self, number: int, reason: str = "stop", count: int = 0) -> None:
        self.streams[number].push(Piece(finish=Finish(reason, Usage(3, count))))  # type: ignore[arg-type]


class Books(NoLedger):
    def __init__(self) -> None:
        self.rows: list[Used] = []

    def ended(self, used: Used) -> None:
        self.rows.append(used)


class House:
    """A cache on a played engine."""

    def __init__(self, folder: Path, config: CacheConfig | None = None) -> None:
        self.backend, self.books = Backend(), Books()
        self.telemetry = Telemetry()
        self.store = Store(folder, 1 << 20)
        self.cache = AnswerCache(
            config or CacheConfig(), self.backend, self.store, Overheard(self.books), self.telemetry
        )
        self.model = model()

    async def ask(self, header: str = "", tenant: str = "", **changes: Any) -> Opened:
        asked = request(**changes)
        one = job(tenant=tenant, sampling=Sampling(temperature=asked.temperature or 0))
        planned = Plan([Prompt(None, [1, 2, 3])], [one], 1)
        caller = Caller(tenant, "", 1, cache_control=header)

        async def dispatch(jobs: Sequence[Job]) -> list[Stream]:
            return [await self.backend.open(one) for one in jobs]

        return await self.cache.open(asked, planned, self.model, caller, dispatch)


@pytest.fixture
async def house(folder: Path) -> Any:
    house = House(folder)
    yield house
    house.cache.close()


def said(opened: Opened) -> str:
    return dict(opened.headers)[b"x-cache"].decode()


async def text(opened: Opened) -> tuple[str, str]:
    pieces = [piece async for piece in opened.streams[0]]
    assert pieces[-1].finish is not None
    return "".join(piece.text for piece in pieces), pieces[-1].finish.reason


async def test_a_miss_then_a_hit_with_a_row_for_each(house: House) -> None:
    first = await house.ask()
    house.backend.say(100, "Hello")
    house.backend.end(100, count=5)
    assert (said(first), await text(first)) == ("miss", ("Hello", "stop"))
    again = await house.ask()
    assert (said(again), await text(again)) == ("exact", ("Hello", "stop"))
    assert len(house.backend.streams) == 1
    assert dict(again.headers)[b"x-cache-age"] == b"0"
    [row] = house.books.rows
    assert (row.outcome, row.prompt_tokens, row.generated_tokens, row.computed) == ("cached", 3, 5, (0, 0))


async def test_the_first_call_after_a_start_waits_for_what_the_model_is(house: House) -> None:
    """And is kept: what its scheduler says is a part of the key."""
    facts, house.model.facts = house.model.facts, None
    with pytest.raises(ApiError, match="no"):
        await house.ask()
    assert not house.backend.streams
    house.backend.met = lambda model: setattr(model, "facts", facts)
    first = await house.ask()
    house.backend.say(100, "Hi")
    house.backend.end(100, count=2)
    assert (said(first), await text(first)) == ("miss", ("Hi", "stop"))
    assert said(await house.ask()) == "exact"


async def test_tenants_cannot_probe_each_other(house: House) -> None:
    """Neither what is kept nor what is under way can be seen by another tenant: by header, by time or by text."""
    mine = await house.ask(tenant="a")
    theirs = await house.ask(tenant="b")
    assert (said(mine), said(theirs), len(house.backend.streams)) == ("miss", "miss", 2)
    house.backend.end(100)
    house.backend.end(101)
    assert said(await house.ask(tenant="c")) == "miss"
    assert said(await house.ask(tenant="a")) == "exact"


async def test_what_callers_forbid_is_not_done(house: House) -> None:
    first = await house.ask("no-store")
    house.backend.end(100)
    assert said(first) == "bypass"
    assert said(await house.ask()) == "miss"
    house.backend.say(101, "old")
    house.backend.end(101)
    fresh = await house.ask("no-cache")
    assert said(fresh) == "miss"
    house.backend.say(102, "new")
    house.backend.end(102)
    assert await text(await house.ask()) == ("new", "stop")
    await asyncio.sleep(0.01)
    assert said(await house.ask("max-age=0")) == "miss"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_a_guard_touched_is_not_kept(house: House, when: str) -> None:
    first = await house.ask()
    if when == "before":
        first.streams[0].touch()
    house.backend.end(100)
    first.streams[0].touch()
    assert said(await house.ask()) == "miss"


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_what_failed_is_not_kept(house: House, reason: str) -> None:
    await house.ask()
    house.backend.end(100, reason)
    assert said(await house.ask()) == "miss"


async def test_followers_share_a_generation_from_its_beginning(house: House) -> None:
    leader = await house.ask()
    house.backend.say(100, "Hel")
    follower = await house.ask()
    house.backend.say(100, "lo")
    house.backend.end(100, count=5)
    assert await text(leader) == await text(follower) == ("Hello", "stop")
    assert (said(follower), len(house.backend.streams)) == ("exact", 1)
    assert leader.streams[0].request != follower.streams[0].request
    assert [row.outcome for row in house.books.rows] == ["cached"]
    assert not house.backend.lent


async def test_an_answer_may_be_whole_before_anybody_listens(house: House) -> None:
    open_ = house.backend.open

    async def at_once(job: Job) -> Stream:
        stream = await open_(job)
        stream.push(Piece("all", (1,)))
        stream.push(Piece(finish=Finish("stop", Usage(3, 1))))
        return stream

    house.backend.open = at_once  # type: ignore[method-assign]
    assert await text(await house.ask()) == ("all", "stop")
    again = await house.ask()
    assert (said(again), await text(again)) == ("exact", ("all", "stop"))
    assert not house.backend.lent


async def test_a_follower_waits_for_a_leader_that_is_being_opened(house: House) -> None:
    house.backend.gate.clear()
    leader, follower = asyncio.ensure_future(house.ask()), asyncio.ensure_future(house.ask())
    await asyncio.sleep(0)
    house.backend.gate.set()
    opened = [await leader, await follower]
    house.backend.say(100, "x")
    house.backend.end(100)
    assert [await text(one) for one in opened] == [("x", "stop")] * 2
    assert len(house.backend.streams) == 1


async def test_a_leader_that_leaves_does_not_end_what_others_hear(house: House) -> None:
    leader, follower = await house.ask(), await house.ask()
    house.backend.say(100, "a")
    house.backend.abort([leader.streams[0].request])
    assert not house.backend.aborted
    house.backend.say(100, "b")
    house.backend.end(100)
    assert await text(follower) == ("ab", "stop")


async def test_when_all_have_left_it_ends(house: House) -> None:
    leader, one, two = await house.ask(), await house.ask(), await house.ask()
    house.backend.abort([one.streams[0].request, leader.streams[0].request])
    assert not house.backend.aborted
    house.backend.abort([two.streams[0].request])
    assert house.backend.aborted == [100]
    assert sorted(row.outcome for row in house.books.rows) == ["client", "client"]
    assert not house.backend.lent
    assert said(await house.ask()) == "miss"


async def test_a_follower_goes_on_alone_after_what_it_told(house: House) -> None:
    leader, follower = await house.ask(), await house.ask()
    house.backend.say(100, "ab")
    house.backend.end(100, "error")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    request = follower.streams[0].request
    assert house.backend.gone_on == [(request, [(97, 98)])]
    house.backend.say(request, "c")
    house.backend.end(request)
    assert await text(follower) == ("abc", "stop")
    assert (await text(leader))[1] == "error"
    assert not house.backend.lent


async def test_a_follower_alone_can_leave(house: House) -> None:
    await house.ask()
    follower = await house.ask()
    house.backend.end(100, "error")
    for _ in range(3):
        await asyncio.sleep(0)
    house.backend.abort([follower.streams[0].request])
    assert (await text(follower))[1] == "abort"
    for _ in range(3):
        await asyncio.sleep(0)
    assert not house.backend.lent


async def test_a_leader_that_is_refused_leaves_others_to_ask_themselves(house: House) -> None:
    house.backend.gate.clear()
    leader = asyncio.ensure_future(house.ask())
    await asyncio.sleep(0)
    follower = asyncio.ensure_future(house.ask())
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.wait([leader])
    house.backend.gate.set()
    opened = await follower
    assert said(opened) == "miss"
    house.backend.say(100, "x")
    house.backend.end(100)
    assert await text(opened) == ("x", "stop")


async def test_a_replayed_stream_hands_its_pieces_over_one_by_one() -> None:
    live = [*(Piece(str(i % 10), (i,)) for i in range(300)), Piece(finish=Finish("stop", Usage(1, 300)))]
    stream = Replayed(1, entries.make(live, live[-1].finish, None))  # type: ignore[arg-type]
    heard: list[Piece] = []
    stream.listen(heard.append)
    until_done = asyncio.timeout(30)
    async with until_done:
        while not heard or heard[-1].finish is None:
            await asyncio.sleep(0)
    assert [piece.text for piece in heard] == [piece.text for piece in live]


# --- over HTTP -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(2) as stage:
        yield stage


def post(stage: Stage, header: str = "", **changes: Any) -> httpx.Response:
    body = {"model": "m", "temperature": 0, "seed": 0, "max_tokens": 12, **changes}
    headers = {"cache-control": header} if header else {}
    return stage.visits.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.system
def test_every_surface_and_every_ingress_is_answered_from_one_generation(stage: Stage) -> None:
    asked = {"messages": [{"role": "user", "content": "surfaces"}]}
    first = post(stage, **asked)
    assert first.headers["x-cache"] == "miss"
    count = len(stage.player.submits)
    until(lambda: all(post(stage, **asked).headers["x-cache"] == "exact" for _ in range(20)))
    count = len(stage.player.submits)
    again = post(stage, **asked)
    assert again.headers["x-cache-age"].isdigit()
    one, other = first.json(), again.json()
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == other["usage"]["prompt_tokens"]
    for changing in ("id", "created", "usage"):
        del one[changing], other[changing]
    assert one == other
    stream = post(stage, stream=True, stream_options={"include_usage": True}, **asked)
    assert stream.headers["x-cache"] == "exact"
    chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    told = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert told == first.json()["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert stream.text.endswith("data: [DONE]\n\n")
    response = chunks[0]["id"]
    resumed = stage.visits.get(f"/v1/streams/{response}", headers={"last-event-id": f"{response}:2"})
    assert resumed.status_code == 200
    assert resumed.text.split("\n\n") == stream.text.split("\n\n")[2:]
    assert len(stage.player.submits) == count


@pytest.mark.system
def test_no_store_is_never_kept(stage: Stage) -> None:
    asked = {"messages": [{"role": "user", "content": "secret"}]}
    assert [post(stage, "no-store", **asked).headers["x-cache"] for _ in range(3)] == ["bypass"] * 3
    assert post(stage, **asked).headers["x-cache"] == "miss"
    assert post(stage, temperature=0.5, **asked).headers["x-cache"] == "bypass"


@pytest.mark.system
def test_an_idempotent_call_is_answered_from_the_cache_too(stage: Stage) -> None:
    asked = {"messages": [{"role": "user", "content": "once"}]}
    post(stage, **asked)
    until(lambda: all(post(stage, **asked).headers["x-cache"] == "exact" for _ in range(20)))
    count = len(stage.player.submits)
    body = {"model": "m", "temperature": 0, "seed": 0, "max_tokens": 12, **asked}
    key = {"idempotency-key": "k"}
    bodies = {stage.visits.post("/v1/chat/completions", json=body, headers=key).text for _ in range(6)}
    assert len(bodies) == 1
    assert len(stage.player.submits) == count
