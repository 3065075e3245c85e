"""Everything with everything: speculation, adapters, grammars, sampling, warm prefixes, tensor-parallel ranks and
crashes, each in combination with each, on real processes.

The oracle is the plain configuration: the same question to the same weights without speculation, with a cold prefix,
alone, and nobody dies. A cell's answer is that one, token for token, and its log probabilities are the same floats.
Ranks add partial sums up in another order: the plain answers of two ranks have the same tokens as those of one (the
weights are float32, and the CPU kernels sum in the same order everywhere), and log probabilities that differ by
rounding; a cell with two ranks has the bits of the plain configuration with two. Schedulers draft whatever it costs
(`tests/eager`): what a step takes on this machine decides nothing.

All pairs of values are here; all triples are the slow suite's.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import httpx
import jsonschema
import pytest
import toy_model
from asking import Stream, Told, ask, door_of, stream
from chaos.checker import violations
from chaos.http_door import HttpDoor
from covering import covering
from matrix import FACTORS, REGEX, SCHEMA, Cell, Json, Question, models
from stack import Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.kernels]

PAIRS: Final = [Cell(**row) for row in covering(FACTORS, 2)]
TRIPLES: Final = [Cell(**row) for row in covering(FACTORS, 3)]
TRIES: Final = 5  # of a cell whose answer was whole before anybody could be killed, or whose prefix was not found
EAGER: Final = str(Path(__file__).parents[1] / "eager")  # schedulers that draft whatever it costs
MODELS: Final = [speculation + ranks for speculation in FACTORS["speculation"] for ranks in FACTORS["ranks"]]


class Board:
    """The running stack, the plain answers, and what came of the cells, a round for each crash.

    Attributes:
        plain: by ranks and question.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.plain: dict[tuple[str, Question], Told] = {}
        self._asked = 0
        self._rounds: dict[tuple[str, int], dict[Cell, list[Stream]]] = {}

    def streams(self, cell: Cell, cells: list[Cell]) -> list[Stream]:
        """Of a cell's questions, asked together with all of `cells` that have its crash."""
        key = (cell.crash, len(cells))
        if key not in self._rounds:
            together = [each for each in cells if each.crash == cell.crash]
            self._rounds[key] = asyncio.run(self._round(together))
        assert cell in self._rounds[key], f"{cell}: {TRIES} times it was over too soon, or its prefix was not found"
        return self._rounds[key][cell]

    async def _round(self, cells: list[Cell]) -> dict[Cell, list[Stream]]:
        done: dict[Cell, list[Stream]] = {}
        async with door_of(self.stack.url) as door:
            await self._answer_plainly(door, cells)
            for _ in range(TRIES):
                if not (left := [cell for cell in cells if cell not in done]):
                    break
                for cell, (streams, struck) in (await self._strike(door, left)).items():
                    if struck:
                        done[cell] = streams
                until(self._whole, 120, "everybody is back")
        return done

    def _whole(self) -> bool:
        others = ("kv@host", "ingress@0", "ingress@1")
        return self.stack.replicas_ready() == len(MODELS) and all(self.stack.pid(name) for name in others)

    async def _answer_plainly(self, door: HttpDoor, cells: list[Cell]) -> None:
        """What is not known yet: on one rank each question alone; on two those that cells have there, together."""

        async def answer(ranks: str, question: Question) -> None:
            if (ranks, question) not in self.plain:
                asked = await ask(door, question.body(f"off{ranks}", self._salt()))
                assert asked.complete, asked.error
                self.plain[ranks, question] = asked.told

        async def alone() -> None:
            for question in dict.fromkeys(question for cell in cells for question in cell.questions):
                await answer("1", question)

        shared = dict.fromkeys(question for cell in cells if cell.ranks == "2" for question in cell.questions)
        await asyncio.gather(alone(), *(answer("2", question) for question in shared))

    async def _strike(self, door: HttpDoor, cells: list[Cell]) -> dict[Cell, tuple[list[Stream], bool]]:
        """Ask everything at once, and kill who is to die once all that depend on it are in the middle of their answers.
        Whether each cell was what it says, too: under way at that time, and with its prefix found if it is warm."""
        salts = {cell: self._salt() for cell in cells}  # one for both adapters, whose pages must be apart all the same
        bodies = {cell: [each.body(cell.model, salts[cell]) for each in cell.questions] for cell in cells}
        warm = [body for cell in cells if cell.prefix == "warm" for body in bodies[cell]]
        await asyncio.gather(*(_warm(door, body) for body in warm))
        streams = {cell: [stream() for _ in bodies[cell]] for cell in cells}
        calls = [
            asyncio.create_task(ask(door, body, into))
            for cell in cells
            for body, into in zip(bodies[cell], streams[cell], strict=True)
        ]
        groups = [list(group) for _, group in groupby(sorted(cells, key=_struck_with), _struck_with)]
        struck = await asyncio.gather(*(self._kill({cell: streams[cell] for cell in group}) for group in groups))
        await asyncio.gather(*calls)
        hit = {cell for group in struck for cell in group}
        return {
            cell: (those, any(each.error for each in those) or (cell in hit and _as_said(cell, those)))
            for cell, those in streams.items()
        }

    async def _kill(self, group: dict[Cell, list[Stream]]) -> list[Cell]:
        """Kill who is to die for these cells. Returns those all of whose streams were under way then."""
        async with asyncio.timeout(120):
            while not all(each.under_way or each.over for those in group.values() for each in those):
                await asyncio.sleep(0.002)
        hit = [cell for cell, those in group.items() if all(each.under_way for each in those)]
        for victim in _victims(next(iter(group))):
            self.stack.kill(victim)
        return hit

    def _salt(self) -> str:
        self._asked += 1
        return f"cell {self._asked}"


async def _warm(door: HttpDoor, body: Json) -> None:
    """Have a prompt computed, and kept."""
    for _ in range(TRIES):
        if cached(await ask(door, {**body, "max_tokens": 1})):
            return


def _as_said(cell: Cell, those: list[Stream]) -> bool:
    """Whether a warm prefix was found: a scheduler waits for kv a few milliseconds, then it computes. And whether those
    that were struck had to be taken up again: the client may have been behind, and the answer whole."""
    found = cell.prefix == "cold" or all(cached(each) for each in those)
    return found and (cell.crash in ("none", "kv") or all(each.told.timing["resumptions"] for each in those))


def cached(asked: Stream) -> int:
    """Tokens of a prompt that were found in memory."""
    assert asked.complete, asked.error
    return int(asked.told.timing["cached_tokens"]["memory"])


def _victims(cell: Cell) -> tuple[str, ...]:
    """Who is killed for a cell."""
    return {
        "none": (),
        "worker": (f"worker@{cell.model}.0.{int(cell.ranks) - 1}",),
        "scheduler": (f"scheduler@{cell.model}",),
        "kv": ("kv@host",),
        "ingress": ("ingress@0", "ingress@1"),
    }[cell.crash]


def _struck_with(cell: Cell) -> tuple[str, ...]:
    """Cells for which it is the same are struck together."""
    return _victims(cell) or (str(cell),)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    directory = tmp_path_factory.mktemp("matrix")
    weights, drafter = toy_model.made(directory)
    adapters = {name: toy_model.adapter(directory / name, seed) for seed, name in enumerate("ab", start=1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", EAGER, prepend=os.pathsep)
        with running(models(weights, drafter, adapters), ingresses=2, arena="256MiB") as stack:
            until(lambda: stack.replicas_ready() == len(MODELS), 120, "all replicas")
            until(lambda: _served(stack) == 3 * len(MODELS), 60, "all adapters")
            yield Board(stack)


def _served(stack: Stack) -> int:
    return len(httpx.get(f"{stack.url}/v1/models", timeout=30).json()["data"])


def check(board: Board, cell: Cell, cells: list[Cell]) -> None:
    """That a cell's answers are the plain ones, and that it was what it says."""
    for question, asked in zip(cell.questions, board.streams(cell, cells), strict=True):
        expected = board.plain[cell.ranks, question]
        struck = asked.breaks if cell.crash == "ingress" else []
        assert not [*violations(asked, expected, struck)], f"{cell} {question}"
        assert asked.answer.choices == expected.choices, f"{cell} {question}: log probabilities of the same bits"
        if cell.prefix == "cold" and cell.crash in ("none", "kv"):
            assert cached(asked) == 0, f"{cell}: the prefix was to be computed"


@pytest.mark.parametrize("cell", PAIRS, ids=str)
def test_any_two_values_together_change_nothing(board: Board, cell: Cell) -> None:
    check(board, cell, PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("cell", TRIPLES, ids=str)
def test_any_three_values_together_change_nothing(board: Board, cell: Cell) -> None:
    check(board, cell, TRIPLES)


@pytest.fixture(scope="module")
def answered(board: Board) -> Board:
    """With all pairs done."""
    for cell in PAIRS:
        board.streams(cell, PAIRS)
    return board


def test_two_ranks_draw_the_tokens_of_one(answered: Board) -> None:
    """Sums of two ranks are rounded otherwise, by less than decides any draw of these."""
    for (ranks, question), answer in answered.plain.items():
        (mine,), (theirs,) = answer.choices.values(), answered.plain["1", question].choices.values()
        assert (mine.tokens, mine.text) == (theirs.tokens, theirs.text), f"{question} on {ranks}"
        for one, other in zip(mine.logprobs, theirs.logprobs, strict=True):
            assert math.isclose(one["logprob"], other["logprob"], abs_tol=1e-3)


def test_a_prefix_is_found_by_whoever_computes_the_same_bits(board: Board) -> None:
    """Schedulers of one host share pages. Two ranks round otherwise than one: theirs are not the same."""

    def found_by(model: str) -> int:
        async def asked() -> int:
            async with door_of(board.stack.url) as door:
                body = Question("", "free", "greedy").body(model, "by all")
                return cached(await ask(door, {**body, "max_tokens": 1}))

        return asyncio.run(asked())

    assert found_by("off1") == 0
    until(lambda: found_by("draft1") > 0, 20, "another model with these weights finds it")
    assert found_by("off2") == 0
    until(lambda: found_by("lookup2") > 0, 20, "so it is with two ranks")


def test_adapters_answer_otherwise_and_grammars_are_followed(answered: Board) -> None:
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for (ranks, question), answer in answered.plain.items():
        (choice,) = answer.choices.values()
        texts.setdefault((question.grammar, question.sampling), {})[question.adapter] = choice.text
        match question.grammar:
            case "json":
                jsonschema.validate(json.loads(choice.text), SCHEMA)
            case "regex":
                assert re.fullmatch(REGEX, choice.text), f"{question} on {ranks}: {choice.text!r}"
        assert choice.finish_reason == ("length" if question.grammar == "free" else "stop"), question
    for by_adapter in texts.values():
        assert len(set(by_adapter.values())) == len(by_adapter), f"an adapter changes nothing: {by_adapter}"


def test_drafts_were_made_some_right_and_some_wrong(answered: Board) -> None:
    """Else the cells with speculation would say nothing."""
    for speculation in FACTORS["speculation"]:
        timings = [
            asked.told.timing
            for cell in PAIRS
            if cell.speculation == speculation
            for asked in answered.streams(cell, PAIRS)
        ]
        made, right = (sum(each[name] for each in timings) for name in ("draft_tokens", "accepted_draft_tokens"))
        assert (0 < right < made) if speculation != "off" else made == 0, f"{speculation}: {right} of {made}"
