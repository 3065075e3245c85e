"""Instructions that come with every call are looked at once, as long as nothing is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from bus.config.guards import GuardConfig
from bus.telemetry import Telemetry
from ingress.errors import ApiError
from ingress.guards.look import INLINE, Guard, Look, Whose
from ingress.guards.stage import Clean, Guards


class Watchman:
    """Finds one word, and remembers what was shown to it."""

    def __init__(self, word: str) -> None:
        self.word, self.seen = word, list[str]()

    def look(self, text: str, context: Sequence[str]) -> Look:  # noqa: ARG002
        self.seen.append(text)
        return Look(self.word in text, "word")


async def admit(guards: Guards, system: str, user: str) -> None:
    body = {"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}
    call = guards.of(["m"], None, Whose())
    assert call is not None
    await call.admit(json.dumps(body).encode())


def guarding(*words: str) -> tuple[Guards, list[Watchman]]:
    men = [Watchman(word) for word in words]
    made = [
        Guard(GuardConfig(name=man.word, kind="toxicity", stage="input", action="block"), look=man.look) for man in men
    ]
    return Guards(made, Telemetry()), men


async def test_clean_instructions_are_looked_at_once_and_questions_each_time() -> None:
    guards, (one, other) = guarding("plague", "famine")
    for _ in range(3):
        await admit(guards, "Be brief.", "What is new?")
    for man in (one, other):
        assert man.seen == ["Be brief.", *["What is new?"] * 3]
    await admit(guards, "Be brief!", "What is new?")
    assert one.seen[-2:] == ["Be brief!", "What is new?"]


async def test_what_one_guard_let_pass_another_one_stops_each_time() -> None:
    guards, (one, other) = guarding("plague", "famine")
    for _ in range(2):
        with pytest.raises(ApiError) as stopped:
            await admit(guards, "Speak of famine.", "x")
        assert stopped.value.code == "content_filter"
    assert one.seen.count("Speak of famine.") == 1
    assert other.seen.count("Speak of famine.") == 2


async def test_long_ones_are_not_kept_and_few_are() -> None:
    guards, (man,) = guarding("plague")
    long = "a" * (INLINE + 1)
    for _ in range(2):
        await admit(guards, long, "x")
    assert sum(len(text) > 100 for text in man.seen) > 2
    clean = Clean(most=2)
    for text in "abc":
        clean.add("g", text)
    assert [clean.knows("g", text) for text in "abc"] == [False, True, True]
    assert not clean.knows("h", "b")
