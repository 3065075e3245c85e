"""The process in which grammars are tried: whatever it is given, it answers or is done without, within its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.grammars import LIMITS
from ingress.errors import ApiError
from ingress.grammar import trial
from ingress.grammar.frames import SECONDS
from ingress.grammar.tried import new_tokenizer, tried
from ingress.grammar.wanted import Wanted
from ingress.grammar.writing import grammar

TOKENIZER, BOUNDS = new_tokenizer(), llguidance.LLParserLimits(**LIMITS)


def expression(pattern: str) -> str:
    return grammar(Wanted("regex", pattern, "p"), None, {})


def within_trials(tmp_path: Path, act: Callable[[trial.Trials], Awaitable[None]]) -> None:
    async def run() -> None:
        trials = trial.Trials(tmp_path)
        try:
            await act(trials)
        finally:
            trials.close()
            if trials._process is not None:
                await trials._process.wait()

    asyncio.run(run())


letters = st.characters(exclude_categories=["Cs"])
broken = st.text(st.one_of(letters, st.sampled_from(r"()[]{}|*+?.^$\pLPdwsSbé1,-")), max_size=60)


@settings(max_examples=100, deadline=None)
@given(broken)
def test_any_text_is_an_expression_or_is_refused_soon(pattern: str) -> None:
    """Also of letters of every script, which are sets of bytes in a row."""
    began = time.process_time()
    tried(expression(pattern), TOKENIZER, BOUNDS)
    assert time.process_time() - began < SECONDS


HOSTILE = [
    r"^(\p{L}{1,500}){1,500}$",
    "(þ|ý|[^é]{1,300}){1,300}",
    r"(\p{L}|\p{N}|\S)*" * 200,
    "[\u0000-\U0010ffff]{0,99999}",
]


def test_hostile_expressions_end_in_their_bounds_and_the_next_is_read(tmp_path: Path) -> None:
    async def act(trials: trial.Trials) -> None:
        for pattern in HOSTILE:
            with contextlib.suppress(ApiError):
                assert await trials.tried(expression(pattern), "p", "tenant")
            assert await trials.tried(expression("Þý…"), "p", "another")

    began = time.monotonic()
    within_trials(tmp_path, act)
    assert time.monotonic() - began < 10 * trial.PATIENCE_S


def test_a_process_that_is_not_heard_of_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's schema's doing, so the same one may be sent again; and is read then."""

    async def act(trials: trial.Trials) -> None:
        await trials.tried(expression("é"), "p", "tenant")
        assert trials._process is not None
        os.kill(trials._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(trial, "PATIENCE_S", 0.2)
        with pytest.raises(ApiError) as refused:
            await trials.tried(expression("ý"), "p", "tenant")
        assert refused.value.status == 429
        monkeypatch.undo()
        assert await trials.tried(expression("ý"), "p", "tenant")

    within_trials(tmp_path, act)
