"""Requests with adapters: each runs where its own is, nobody waits for another's, and what comes and goes is told."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from house import House, ScriptedWorker, message
from simulated import truth

from bus import blocks
from bus.config import AdapterConfig, LoraConfig
from bus.messages.adapters import (
    AdapterAnswer,
    Adapters,
    AdapterState,
    AddAdapter,
    GetAdapters,
    KeepAdapters,
    LoadAdapter,
    RemoveAdapter,
    UnloadAdapter,
)
from bus.messages.control import Ok, Rejected
from bus.messages.requests import ModelFacts, Submit
from bus.messages.steps import StepPlan
from scheduler.service import SchedulerService

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9]
EXPECTED = truth(PROMPT, 8, set(), 0, 64)[0]


class Loader:
    """A scripted worker's adapters: read when `go` says so, refused where `bad` has them."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self.worker, self.there, self.told = worker, {}, []  # type: ignore[var-annotated]
        self.held, self.bad, self.used = False, {}, []  # type: ignore[var-annotated]
        self.digest_of = lambda source: source.source.encode()[-16:].rjust(16, b"-")
        self._wanted: tuple[object, ...] = ()
        before = worker.link._on_message  # type: ignore[attr-defined]

        def on_message(body: object) -> None:
            if isinstance(body, KeepAdapters):
                self.told.append([each.name for each in body.adapters])
                self._wanted = body.adapters
                self.there = {n: a for n, a in self.there.items() if n in {each.number for each in body.adapters}}
                worker.worker.keep(body.adapters)
                self.go()
                return
            if isinstance(body, StepPlan):
                for opened in body.opens:
                    assert not opened.adapter or opened.adapter in self.there, "a slot of an adapter that is not there"
                    self.used.append(self.there.get(opened.adapter))
            before(body)

        worker.link._on_message = on_message  # type: ignore[attr-defined]

    def go(self) -> None:
        if self.held:
            return
        for source in self._wanted:
            if source.number in self.there:  # type: ignore[attr-defined]
                self.worker.link.send(AdapterState(source.number, self.digest_of(source), 100))  # type: ignore[attr-defined]
                continue
            if problem := self.bad.get(source.name):  # type: ignore[attr-defined]
                self.worker.link.send(AdapterState(source.number, problem=problem))  # type: ignore[attr-defined]
                continue
            digest = self.digest_of(source)
            if source.digest not in (b"", digest):  # type: ignore[attr-defined]
                self.worker.link.send(AdapterState(source.number, digest, problem="others"))  # type: ignore[attr-defined]
                continue
            self.there[source.number] = source.name  # type: ignore[attr-defined]
            self.worker.worker.adapters[source.number] = digest  # type: ignore[attr-defined]
            self.worker.link.send(AdapterState(source.number, digest, 100, 5))  # type: ignore[attr-defined]


def expected(facts: ModelFacts, name: str, max_tokens: int = 8) -> list[int]:
    """What is generated with an adapter."""
    digest = next(each.digest for each in facts.adapters if each.name == name)
    return truth(PROMPT, max_tokens, set(), 0, 64, digest)[0]


def with_adapter(number: int, facts: ModelFacts, name: str, max_tokens: int = 8) -> Submit:
    digest = next(each.digest for each in facts.adapters if each.name == name)
    submit = message(number, PROMPT, facts, max_tokens)
    root = blocks.salted_root(facts.root, b"", digest)
    return msgspec.structs.replace(
        submit, adapter=digest, root=root, digests=blocks.chain(root, submit.prompt, facts.page_tokens)
    )


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as directory:  # short: sockets live there
        yield Path(directory)


def start(run: Path, resident: int = 2, configured: tuple[str, ...] = ("a", "b", "c"), workers: int = 1) -> House:
    directory = run / "adapters"
    directory.mkdir(exist_ok=True)
    for name in ("x", "y"):
        (directory / name).mkdir(exist_ok=True)
    house = House(
        run,
        lora=LoraConfig(resident=resident, directory=str(directory)),
        adapter=tuple(AdapterConfig(name=name, source=f"path:/{name}") for name in configured),
        replicas=workers,
    )
    house.start_kv()
    house.start_scheduler()
    return house


@pytest.fixture
def house(run: Path) -> Iterator[House]:
    house = start(run)
    yield house
    house.close()


def known(house: House, ingress, *names: str) -> ModelFacts:  # type: ignore[no-untyped-def]
    """The facts, when all of these have been read."""

    def there() -> bool:
        read = {each.name for each in ingress.facts[-1].adapters if each.digest}
        return set(names) <= read

    house.until(there)
    facts: ModelFacts = ingress.facts[-1]
    return facts


def test_configured_adapters_are_read_in_turn_however_few_have_room(house: House) -> None:
    loader = Loader(house.worker())
    facts = known(house, house.ingress(), "a", "b", "c")
    assert [each.name for each in facts.adapters] == ["a", "b", "c"]
    assert all(len(told) <= 2 for told in loader.told)


def test_a_request_waits_for_its_adapter_and_nobody_for_it(house: House) -> None:
    loader = Loader(house.worker())
    ingress = house.ingress()
    facts = known(house, ingress, "a", "b", "c")  # b and c are there now
    loader.held = True
    ingress.submit(with_adapter(1, facts, "a"))
    house.until(lambda: bool(loader.told) and "a" in loader.told[-1])
    ingress.submit(with_adapter(2, facts, "c"))
    ingress.submit(message(3, PROMPT, facts))
    house.until(lambda: {2, 3} <= ingress.finished.keys())
    assert 1 in ingress.accepted
    assert 1 not in ingress.finished
    loader.held = False
    loader.go()
    house.until(lambda: 1 in ingress.finished)
    assert [ingress.tokens[number] for number in (1, 2, 3)] == [expected(facts, "a"), expected(facts, "c"), EXPECTED]
    assert loader.used == ["c", None, "a"]


def test_an_adapter_s_pages_are_nobody_else_s(house: House) -> None:
    Loader(house.worker())
    ingress = house.ingress()
    facts = known(house, ingress, "a", "b", "c")
    for number, name in enumerate(("", "a", "b", "", "a", "b"), start=1):
        ingress.submit(with_adapter(number, facts, name) if name else message(number, PROMPT, facts))
        house.until(lambda number=number: number in ingress.finished)  # type: ignore[misc]
    cached = [ingress.finished[number].cached_tokens for number in range(1, 7)]
    assert cached == [0, 0, 0, 8, 8, 8]


def test_where_all_are_used_who_waits_gets_in_when_one_has_left(run: Path) -> None:
    house = start(run, resident=1, configured=("a", "b"))
    try:
        worker = house.worker()
        loader = Loader(worker)
        ingress = house.ingress()
        facts = known(house, ingress, "a", "b")
        worker.held = True  # 1 goes on and on
        ingress.submit(with_adapter(1, facts, "a", 50))
        house.until(lambda: "a" in loader.used)
        ingress.submit(with_adapter(2, facts, "b"))
        house.turn(2.3)  # `fetching.PATIENCE_NS`
        ingress.submit(with_adapter(3, facts, "a"))  # a leaves: it waits behind b
        house.turn(0.2)
        assert loader.told[-1] == ["a"]
        worker.held = False
        worker.turn()
        house.until(lambda: {1, 2, 3} <= ingress.finished.keys())
        assert loader.used == ["a", "b", "a"]
    finally:
        house.close()


def test_one_that_cannot_be_read_is_told_of_and_the_others_are_served(house: House) -> None:
    loader = Loader(house.worker())
    loader.bad["b"] = "it is a pickle"
    ingress = house.ingress()
    known(house, ingress, "a", "c")
    house.until(lambda: any(each.trouble for each in ingress.facts[-1].adapters))
    assert {each.name: each.trouble for each in ingress.facts[-1].adapters} == {"a": "", "b": "it is a pickle", "c": ""}


def test_requests_of_one_that_cannot_be_read_again_end_with_the_reason(house: House) -> None:
    loader = Loader(house.worker())
    ingress = house.ingress()
    facts = known(house, ingress, "a", "b", "c")
    loader.bad["a"] = "its files are gone"
    ingress.submit(with_adapter(1, facts, "a"))
    house.until(lambda: 1 in ingress.finished)
    assert ingress.finished[1].reason == "error"
    assert "'a' cannot be loaded: its files are gone" in ingress.finished[1].error
    ingress.submit(with_adapter(2, facts, "b"))
    house.until(lambda: 2 in ingress.finished)
    assert ingress.tokens[2] == expected(facts, "b")


def test_one_whose_files_are_others_by_now_is_another_adapter(house: House) -> None:
    loader = Loader(house.worker())
    ingress = house.ingress()
    facts = known(house, ingress, "a", "b", "c")
    before = {each.name: each.digest for each in facts.adapters}
    loader.digest_of = lambda _: b"another content!"
    ingress.submit(with_adapter(1, facts, "a"))
    house.until(lambda: 1 in ingress.finished)
    assert ingress.finished[1].reason == "error"
    house.until(lambda: b"another content!" in {each.digest for each in ingress.facts[-1].adapters})
    now = {each.name: each.digest for each in ingress.facts[-1].adapters}
    assert now == before | {"a": b"another content!"}


def test_a_worker_s_death_brings_the_adapter_to_the_next_one(house: House) -> None:
    worker = house.worker()
    loader = Loader(worker)
    ingress = house.ingress()
    facts = known(house, ingress, "a", "b", "c")
    ingress.submit(with_adapter(1, facts, "a", 40))
    house.until(lambda: len(ingress.tokens.get(1, [])) > 3)
    worker.held = True
    house.turn(0.1)
    worker.link.close()
    second = Loader(house.worker(epoch=2))
    house.until(lambda: 1 in ingress.finished)
    assert ingress.tokens[1] == expected(facts, "a", 40)
    assert second.used == ["a"]
    assert loader.used == ["a"]


def answers(ingress) -> dict[int, AdapterAnswer]:  # type: ignore[no-untyped-def]
    """Kept as they come."""
    found: dict[int, AdapterAnswer] = {}
    before = ingress.link._on_message

    def on_message(body: object) -> None:
        if isinstance(body, AdapterAnswer):
            found[body.rid] = body
        before(body)

    ingress.link._on_message = on_message
    return found


def test_loading_and_unloading_at_run_time(house: House, run: Path) -> None:
    loader = Loader(house.worker())
    ingress, other = house.ingress(), house.ingress("ingress@1")
    known(house, ingress, "a", "b", "c")
    said = answers(ingress)
    directory = run / "adapters"
    asks = [
        LoadAdapter(1, "mine", str(directory / "x")),
        LoadAdapter(2, "mine", "x"),  # the same, once more
        LoadAdapter(3, "mine", "y"),
        LoadAdapter(4, "a b", "x"),
        LoadAdapter(5, "m", "x"),
        LoadAdapter(6, "there", "nowhere"),
        LoadAdapter(7, "out", str(run)),
        LoadAdapter(8, "out", "x/../../.."),
        UnloadAdapter(9, "nobody"),
        UnloadAdapter(10, "a"),
    ]
    for ask in asks:
        assert ingress.link.send(ask)
    house.until(lambda: len(said) == len(asks))
    assert {rid: (answer.problem[:40], answer.missing) for rid, answer in said.items()} == {
        1: ("", False), 2: ("", False), 3: ("there is an adapter 'mine' already, from", False),
        4: ("a name has letters, digits, dot, dash an", False), 5: ("'m' is the name of something else here", False),
        6: ("'nowhere' is no adapter's directory in t", False),
        7: (f"'{run}' is no adapter's directory in "[:40], False),
        8: ("'x/../../..' is no adapter's directory i", False), 9: ("there is no adapter 'nobody'", True),
        10: ("'a' is configured: take its [[model.adap", False),
    }  # fmt: skip
    for each in (ingress, other):
        house.until(lambda each=each: "mine" in {a.name for a in each.facts[-1].adapters if a.digest})  # type: ignore[misc]
    facts = ingress.facts[-1]
    ingress.submit(with_adapter(1, facts, "mine", 40))
    house.until(lambda: "mine" in loader.used)
    assert ingress.link.send(UnloadAdapter(11, "mine"))
    house.until(lambda: 11 in said and 1 in ingress.finished)
    assert ingress.tokens[1] == expected(facts, "mine", 40), "what is under way is completed"
    assert "mine" not in {each.name for each in ingress.facts[-1].adapters}
    house.until(lambda: "mine" not in loader.there.values())
    ingress.submit(with_adapter(2, facts, "mine"))
    house.until(lambda: 2 in ingress.refused)
    assert ingress.refused[2].code == "adapter"


def test_one_that_is_refused_leaves_nothing(house: House) -> None:
    loader = Loader(house.worker())
    ingress = house.ingress()
    known(house, ingress, "a", "b", "c")
    said = answers(ingress)
    loader.bad["mine"] = "adapter_model.bin is a pickle"
    ingress.link.send(LoadAdapter(1, "mine", "x"))
    house.until(lambda: 1 in said)
    assert said[1].problem == "adapter_model.bin is a pickle"
    assert "mine" not in {each.name for each in ingress.facts[-1].adapters}
    house.turn(0.1)
    assert "mine" not in loader.told[-1]


def test_a_scheduler_that_comes_back_knows_them_all(house: House) -> None:
    worker = house.worker()
    Loader(worker)
    ingress = house.ingress()
    known(house, ingress, "a", "b", "c")
    said = answers(ingress)
    ingress.link.send(LoadAdapter(1, "mine", "x"))
    house.until(lambda: 1 in said)
    before = {each.name: each.digest for each in ingress.facts[-1].adapters}
    house.services["scheduler"].stop()
    seen = len(ingress.facts)
    house.start_scheduler(2)
    house.until(lambda: len(ingress.facts) > seen)
    assert {each.name: each.digest for each in ingress.facts[seen].adapters} == before, "before any worker read one"
    house.until(lambda: bool(ingress.facts[-1].root))
    ingress.submit(with_adapter(1, ingress.facts[-1], "mine"))
    house.until(lambda: 1 in ingress.finished)
    assert ingress.tokens[1] == expected(ingress.facts[-1], "mine")


def test_ranks_answer_together(run: Path) -> None:
    house = start(run, configured=("a",))
    try:
        first, second = (Loader(house.worker(0, rank, ranks=2)) for rank in range(2))
        second.held = True
        ingress = house.ingress()
        house.until(lambda: bool(first.there))
        house.turn(0.2)
        assert not ingress.facts[-1].adapters[0].digest
        second.held = False
        second.go()
        known(house, ingress, "a")
    finally:
        house.close()


def test_two_replicas_have_what_their_requests_want(run: Path) -> None:
    house = start(run, resident=1, configured=("a", "b"), workers=2)
    try:
        loaders = [Loader(house.worker(number)) for number in range(2)]
        ingress = house.ingress()
        facts = known(house, ingress, "a", "b")
        for number in range(1, 13):
            ingress.submit(with_adapter(number, facts, "ab"[number % 2]))
        house.until(lambda: len(ingress.finished) == 12)
        wanted = {number: expected(facts, "ab"[number % 2]) for number in range(1, 13)}
        assert ingress.tokens == wanted
        assert all(len(told) <= 1 for loader in loaders for told in loader.told)
        assert sum(len(loader.used) for loader in loaders) == 12
    finally:
        house.close()


def test_an_operator_may_do_the_same(house: House, run: Path) -> None:
    Loader(house.worker())
    ingress = house.ingress()
    known(house, ingress, "a", "b", "c")
    service = house.services["scheduler"]
    assert isinstance(service, SchedulerService)
    assert isinstance(service.control(AddAdapter(1, "mine", str(run))), Ok)
    known(house, ingress, "mine")
    shown = service.control(GetAdapters(2))
    assert isinstance(shown, Adapters)
    assert [each.name for each in shown.adapters] == ["a", "b", "c", "mine"]
    assert shown.adapters[3].replicas == (0,)
    assert isinstance(service.control(RemoveAdapter(3, "a")), Rejected)
    assert isinstance(service.control(RemoveAdapter(4, "mine")), Ok)
    house.until(lambda: "mine" not in {each.name for each in ingress.facts[-1].adapters})
