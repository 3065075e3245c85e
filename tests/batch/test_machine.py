"""Batches among ingresses that answer, refuse, fail and vanish, and a batch process that dies at any moment.

Course, runner, stages, database and files are the real ones; only time and the ingresses are made. Whatever happened,
every line is told of exactly once in the end, with the answer that its call was given, in the order of the lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from made import Ingresses, MadeHost, Way

from batch.core import state
from batch.core.state import Batch
from batch.core.verdict import Outcome
from batch.course import Course, Limits
from batch.database import Database, StoredFile
from batch.vault import Vault

LIMIT, ALL = 3, 5
CHAT = "/v1/chat/completions"


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hr-batch"))
        self.asyncio = asyncio.new_event_loop()
        self.now_s = 1_000_000
        self.ingresses = Ingresses()
        self.lines: dict[str, list[str]] = {}  # custom ids of each batch
        self.cancelled: set[str] = set()
        self.deaths = 0
        self.start()

    def start(self) -> None:
        """A process begins, and knows what is written."""
        self.host = MadeHost()
        self.database, self.vault = Database(self.folder), Vault(self.folder)
        limits = Limits(10_000, 100, lambda _: LIMIT, ALL, 86_400)
        ways: list[Way] = []

        def connect(**heard: Any) -> Way:
            ways.append(Way(self.ingresses, **heard))
            return ways[0]

        self.course = Course(self.host, self.database, self.vault, limits, connect, lambda: self.now_s)
        (self.way,) = ways
        self.run(self.course.begin)

    def run(self, act: Any) -> None:
        """Do it on the loop, and let stages come to their end."""

        async def acted() -> None:
            act()
            await self.course.settled()

        self.asyncio.run_until_complete(acted())

    @rule(count=st.integers(1, 7), project=st.sampled_from(["a", "b"]))
    def a_batch_is_made(self, count: int, project: str) -> None:
        name = f"{len(self.lines)}"
        ids = [f"{name}.{number}" for number in range(count)]
        rows = [
            json.dumps({"custom_id": id, "method": "POST", "url": CHAT, "body": {"model": "m", "n": id}}) for id in ids
        ]
        file = f"file-{name}"
        size = self.vault.write(file, [row.encode() + b"\n" for row in rows])
        self.database.add_file(StoredFile(file, project, "batch", "x", size, self.now_s, self.now_s + 10**6))
        batch = Batch(
            id=f"batch_{name}", project=project, key=f"key of {project}", endpoint=CHAT, input_file=file,
            created_s=self.now_s, window_s=3600, completion_window="1h",
        )  # fmt: skip
        self.lines[batch.id] = ids
        self.database.add_batch(batch)
        self.run(lambda: self.course.advance(batch))

    @precondition(lambda self: self.way.calls)
    @rule(data=st.data(), status=st.sampled_from([200, 200, 200, 400, 429, 500, 503]))
    def a_call_is_answered(self, data: st.DataObject, status: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.way.calls)))
        once, body, behalf = self.way.calls.pop(number)
        batch = self.database.batch(once.partition("/")[0])
        assert batch is not None
        assert behalf == batch.key
        failed = Outcome(status, json.dumps({"error": {"code": f"failed {once}"}}).encode())
        outcome = self.ingresses.answer(once, body) if status == 200 else self.ingresses.fail(once, failed)
        self.run(lambda: self.way.on_answer(number, outcome))

    @rule(seconds=st.sampled_from([0.001, 0.03, 1.0, 70.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now_s += int(seconds)
        self.run(lambda: self.host.loop.turn(seconds))

    @precondition(lambda self: self.way.up)
    @rule(computed=st.booleans())
    def the_ingresses_vanish(self, computed: bool) -> None:
        """With answers that they have computed and not told, or without."""
        calls = dict(self.way.calls)
        self.way.calls.clear()
        for once, body, _ in calls.values():
            if computed:
                self.ingresses.answer(once, body)
        self.way.up = 0
        self.run(lambda: self.way.on_lost(sorted(calls)))

    @precondition(lambda self: not self.way.up)
    @rule()
    def the_ingresses_are_back(self) -> None:
        self.way.up = 1
        self.run(self.way.on_up)

    @precondition(lambda self: self.lines)
    @rule(data=st.data())
    def a_batch_is_cancelled(self, data: st.DataObject) -> None:
        batch = self.database.batch(data.draw(st.sampled_from(sorted(self.lines))))
        assert batch is not None
        try:
            self.run(lambda: self.course.cancel(batch))
        except state.Impossible:
            return
        self.cancelled.add(batch.id)

    @rule(hours=st.sampled_from([1, 2]))
    def hours_pass(self, hours: int) -> None:
        self.now_s += hours * 3600
        self.run(self.course.expire)

    @rule()
    def the_batch_process_is_killed(self) -> None:
        """What was not written is gone; the kernel lets go of what it held."""
        self.deaths += 1
        for once, body, _ in list(self.way.calls.values())[::2]:
            self.ingresses.answer(once, body)  # the ingresses go on, and have these for whoever asks again
        self.database._connection.close()
        os.close(self.database._lock)
        self.start()

    @invariant()
    def no_more_are_in_flight_than_may_be(self) -> None:
        assert len(self.way.calls) <= min(LIMIT, ALL)  # one model

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self.bring_to_an_end()
            for id, ids in self.lines.items():
                self.look_at(id, ids)
        finally:
            self.database._connection.close()
            os.close(self.database._lock)
            self.asyncio.close()
            rmtree(self.folder)

    def bring_to_an_end(self) -> None:
        self.way.up = 1
        self.run(self.way.on_up)
        for _ in range(3000):
            if not len(self.course):
                return
            for number in sorted(self.way.calls):
                once, body, _ = self.way.calls.pop(number)
                self.run(partial(self.way.on_answer, number, self.ingresses.answer(once, body)))
            self.run(lambda: self.host.loop.turn(1.0))
        raise AssertionError("a batch does not come to its end")

    def look_at(self, id: str, ids: list[str]) -> None:
        batch = self.database.batch(id)
        assert batch is not None
        assert batch.over
        assert batch.status in ("completed", "expired", "cancelled")
        assert (batch.status == "cancelled") == (id in self.cancelled)
        good, bad = self.results(batch.output_file), self.results(batch.error_file)
        told = [each["custom_id"] for each in [*good, *bad]]
        assert sorted(told) == sorted(ids), "every line is told of exactly once"
        for some in (good, bad):
            order = [ids.index(each["custom_id"]) for each in some]
            assert order == sorted(order), "in the order of the lines"
        for each in good:
            body = each["response"]["body"]
            assert body["echo"]["n"] == each["custom_id"], "each with its own answer"
        assert batch.counts.completed == len(good)
        assert batch.counts.total == len(ids)
        assert batch.counts.failed == sum(each["response"] is not None for each in bad)
        if batch.status == "completed":
            assert all(each["error"] is None for each in bad)
        answered = [re.findall(r"/(\d+)", once)[0] for once in self.ingresses.answered if once.startswith(f"{id}/")]
        assert len(answered) == len(set(answered)), "no line is answered twice, whoever asks for it how often"

    def results(self, file: str) -> list[dict[str, Any]]:
        if not file:
            return []
        stored = self.database.file(file)
        assert stored is not None
        content = self.vault.read(file, 0, 10**6)
        assert len(content) == stored.size
        return [json.loads(row) for row in content.splitlines()]


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_one_whose_last_answer_is_written_as_another_expires_comes_to_its_end() -> None:
    machine = Machine()
    machine.begin()
    machine.a_batch_is_made(count=LIMIT, project="a")
    machine.a_batch_is_made(count=1, project="a")
    later = Outcome(429, b"{}")
    for line, outcome in (("batch_0/1", None), ("batch_0/2", later), ("batch_1/1", None)):
        number, (once, body, _) = next(each for each in machine.way.calls.items() if each[1][0] == line)
        del machine.way.calls[number]
        machine.run(partial(machine.way.on_answer, number, outcome or machine.ingresses.answer(once, body)))
    machine.hours_pass(hours=1)
    machine.teardown()
    assert not len(machine.course)
