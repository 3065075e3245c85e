"""The loop without asyncio: an event belongs to the descriptor that it was seen on, not to its number."""

from __future__ import annotations

import os

import pytest

from bus.loop import PollLoop


@pytest.mark.parametrize("first", [0, 1])
def test_a_descriptor_that_takes_the_number_of_another_does_not_inherit_its_event(first: int) -> None:
    """As where a process dies: its pidfd and its connection are readable in the same turn; who hears of it first
    closes both and starts the next one, whose pidfd may get either number. Nobody may think that it died too."""
    loop = PollLoop()
    pipes = [os.pipe() for _ in range(2)]
    heard: list[str] = []
    late: list[int] = []

    def on_readable() -> None:
        heard.append("readable")
        for reader, writer in pipes:
            loop.remove_reader(reader)
            os.close(reader)
            os.close(writer)
        fresh = os.pipe()  # empty
        late.extend(fresh)
        for number in (reader for reader, _ in pipes):
            if number not in fresh:
                os.dup2(fresh[0], number)
                late.append(number)
            loop.add_reader(number, lambda: heard.append("an event of another"))

    for reader, writer in pipes[first:] + pipes[:first]:
        os.write(writer, b"x")
        loop.add_reader(reader, on_readable)
    loop.turn(0.0)
    loop.turn(0.0)
    assert heard == ["readable"]
    for number in late:
        os.close(number)
    loop.close()
