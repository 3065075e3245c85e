"""Restarts where no supervisor is: given to the keeper beside the loop, each answered once, none after the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from admin_tui.actions import Order
from admin_tui.keeping import LOOK_S, MOST_AT_ONCE, Keeping, Outcome, Service
from bus.loop import PollLoop

Answer = tuple[bool, str]


class Slow:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[tuple[str, float, str]] = []

    def restart(self, name: str, deadline_s: float, reason: str) -> Outcome:
        self.asked.append((name, deadline_s, reason))
        assert self.may_answer.wait(30)
        if name == "kv@host":
            raise OSError("no systemctl")
        return Outcome(name != "ingress@0", f"{name}\x1b[31m")

    def services(self) -> tuple[Service, ...]:
        return ()


def turn_until(loop: PollLoop, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        loop.turn(0.05)


@pytest.fixture
def loop() -> PollLoop:
    return PollLoop()


def test_the_screen_goes_on_while_the_keeper_is_asked(loop: PollLoop) -> None:
    keeper, answers = Slow(), list[Answer]()
    keeping = Keeping(loop, keeper)
    for order in (
        Order("restart", "worker@m.0.0", reason="new disk", seconds=7.0),
        Order("kill", "kv@host"),
        Order("restart", "ingress@0"),
    ):
        keeping.give(order, lambda *answer: answers.append(answer))
    loop.turn(0.01)
    assert answers == []
    keeper.may_answer.set()
    turn_until(loop, lambda: len(answers) == 3)
    assert sorted(keeper.asked) == [("ingress@0", 120.0, ""), ("kv@host", 0.0, ""), ("worker@m.0.0", 7.0, "new disk")]
    assert sorted(done for done, _ in answers) == [False, False, True]
    assert any("no systemctl" in text for _, text in answers)
    assert not any("\x1b" in text for _, text in answers)
    keeping.close()


def test_more_than_some_at_once_are_refused_and_after_the_end_nobody_is_told(loop: PollLoop) -> None:
    keeper, answers = Slow(), list[Answer]()
    keeping = Keeping(loop, keeper)
    for n in range(MOST_AT_ONCE + 1):
        keeping.give(Order("restart", f"worker@m.{n}.0"), lambda *answer: answers.append(answer))
    ((done, text),) = answers
    assert not done
    assert "again when they are answered" in text
    keeping.close()
    keeper.may_answer.set()
    loop.turn(0.05)
    assert len(answers) == 1
    assert len(keeper.asked) == MOST_AT_ONCE  # what was ordered is carried out


@pytest.mark.parametrize("verb", ["drain", "undrain", "cancel", "limit", "reload", "acknowledge", "silence"])
def test_everything_else_goes_to_the_stack_s_own_doors(verb: str) -> None:
    assert not Keeping.carries_out(Order(verb, "kv@host"))  # type: ignore[arg-type]


def test_services_are_asked_for_now_and_then_one_question_at_a_time(loop: PollLoop) -> None:
    keeper, may_answer, told = Slow(), threading.Event(), list[tuple[Service, ...]]()
    asked = [0]
    service = Service("kv@host", "headrace-kv.service", "ready", "active (running)", 7, 0, 1.0)

    def services() -> tuple[Service, ...]:
        asked[0] += 1
        assert may_answer.wait(30)
        if asked[0] == 2:
            raise OSError("no systemctl")
        return (service,)

    keeper.services = services  # type: ignore[method-assign]
    keeping = Keeping(loop, keeper, told.append)
    keeping._look()
    keeping._look()
    loop.turn(0.01)
    assert (asked, told) == ([1], [])
    may_answer.set()
    turn_until(loop, lambda: told)
    assert told == [(service,)]
    keeping._look()
    turn_until(loop, lambda: len(told) == 2)
    assert told[1] == ()  # it does not say: what it said is not known to hold
    keeping.close()
    keeping._look()
    assert LOOK_S >= 1
