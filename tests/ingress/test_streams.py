"""Streams and replays: nothing lost, nothing twice, whoever lags or comes back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ingress.replay as replay_module
from ingress.replay import EventsGone, ReplayStore
from ingress.streams import Finish, Piece, Stream, TokenText, Usage

END = Finish("stop", Usage(1, 2))
SECOND = 10**9


def stream() -> tuple[Stream, list[str]]:
    aborted: list[str] = []
    return Stream(1, 1, aborted.append), aborted


async def test_pieces_that_waited_come_out_as_one() -> None:
    subject, _ = stream()
    subject.push(Piece("he", (1,), (TokenText(1, b"he", -0.5),)))
    subject.push(Piece("llo", (2, 3)))
    merged = await anext(subject)
    assert merged == Piece("hello", (1, 2, 3), (TokenText(1, b"he", -0.5),))
    subject.push(Piece("!", (4,), (), END))
    assert [piece async for piece in subject] == [Piece("!", (4,), (), END)]


async def test_a_waiting_reader_gets_each_piece_at_once() -> None:
    subject, _ = stream()
    reader = asyncio.create_task(anext(subject))
    await asyncio.sleep(0)
    subject.push(Piece("a", (1,)))
    assert (await reader).text == "a"


async def test_nothing_follows_the_last_piece() -> None:
    subject, aborted = stream()
    subject.push(Piece(finish=END))
    subject.push(Piece("late"))
    subject.abort()
    assert [piece.text async for piece in subject] == [""]
    assert not aborted


async def test_a_cancelled_reader_loses_nothing() -> None:
    subject, aborted = stream()
    reader = asyncio.create_task(anext(subject))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    subject.push(Piece("a", (1,)))
    assert (await anext(subject)).text == "a"
    subject.abort("client")
    assert aborted == ["client"]


async def test_a_listener_hears_what_came_in_a_turn_as_one() -> None:
    subject, _ = stream()
    subject.push(Piece("a", (1,)))
    heard: list[Piece] = []
    subject.listen(heard.append)
    subject.push(Piece("b", (2,)))
    assert not heard, "never in the middle of what the producer does"
    await asyncio.sleep(0)
    assert heard == [Piece("ab", (1, 2))]
    subject.push(Piece("c", (3,)))
    await asyncio.sleep(0)
    subject.push(Piece(finish=END))
    subject.push(Piece("late"))
    await asyncio.sleep(0)
    assert heard[1:] == [Piece("c", (3,)), Piece(finish=END)]


# --- replays -------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=12), st.data())
def test_reading_on_after_any_event_gives_exactly_the_rest(bodies: list[bytes], data: st.DataObject) -> None:
    replay = ReplayStore(60).create("r", "me", lambda: None, 1)
    assert [replay.append(body) for body in bodies] == list(range(1, len(bodies) + 1))
    after = data.draw(st.integers(0, len(bodies)))
    assert list(replay.after(after)) == bodies[after:]
    for wrong in (-1, len(bodies) + 1):
        with pytest.raises(EventsGone):
            replay.after(wrong)


async def test_listeners_follow_live_from_where_they_are() -> None:
    replay = ReplayStore(60).create("r", "me", lambda: None, 1)
    replay.append(b"1")

    async def listen(after: int) -> list[tuple[int, bytes]]:
        heard: list[tuple[int, bytes]] = []
        assert await replay.follow(after, lambda *event: heard.append(event) is None)
        return heard

    early, late = asyncio.create_task(listen(0)), asyncio.create_task(listen(1))
    await asyncio.sleep(0)
    replay.append(b"2")
    await asyncio.sleep(0)
    replay.append(b"3")
    replay.close(2)
    assert await early == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert await late == [(2, b"2"), (3, b"3")]


async def test_a_listener_without_room_goes_on_where_it_stopped() -> None:
    replay = ReplayStore(60).create("r", "me", lambda: None, 1)
    heard: list[tuple[int, bytes]] = []

    async def listen() -> None:
        def hear(number: int, body: bytes) -> bool:
            heard.append((number, body))
            return number % 2 == 1

        while not await replay.follow(len(heard), hear):
            await asyncio.sleep(0)

    listener = asyncio.create_task(listen())
    for number in range(1, 8):
        replay.append(b"%d" % number)
        if number > 4:
            await asyncio.sleep(0)
    replay.close(2)
    await listener
    assert heard == [(number, b"%d" % number) for number in range(1, 8)]


async def test_trouble_of_one_listener_is_its_own() -> None:
    replay = ReplayStore(60).create("r", "me", lambda: None, 1)
    heard: list[int] = []

    def broken(number: int, body: bytes) -> bool:
        raise RuntimeError(f"{number} {body!r}")

    def hear(number: int, body: bytes) -> bool:
        heard.append(number)
        return bool(body)

    listeners = [asyncio.create_task(replay.follow(0, each)) for each in (broken, hear)]
    await asyncio.sleep(0)
    replay.append(b"1")
    replay.append(b"2")
    replay.close(2)
    with pytest.raises(RuntimeError, match="1"):
        await listeners[0]
    assert await listeners[1]
    assert heard == [1, 2]


def test_those_that_grow_are_not_looked_at_for_each_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReplayStore(60, max_replays=16)
    looked: list[int] = []
    shrink = store._shrink
    monkeypatch.setattr(store, "_shrink", lambda: looked.append(len(store)) or shrink())
    for number in range(100):
        store.create(f"live {number}", "", lambda: None, 1)
    assert len(looked) <= 100 // 2
    for number in range(100):
        store.create(f"{number}", "", lambda: None, 1).close(1)
    store.sweep(2)
    assert len(store) == 100, "complete ones go"


def test_generation_goes_on_for_the_grace_time_and_then_is_abandoned() -> None:
    store, abandoned = ReplayStore(60), []
    replay = store.create("r", "me", lambda: abandoned.append("r"), 1)
    replay.attach()
    store.sweep(1000 * SECOND)
    assert store.get("r", "me") is replay  # somebody listens, however long
    replay.detach(1000 * SECOND)
    store.sweep(1059 * SECOND)
    replay.attach()
    replay.detach(1059 * SECOND)
    store.sweep(1118 * SECOND)
    assert not abandoned
    store.sweep(1119 * SECOND)
    assert abandoned == ["r"]
    assert store.get("r", "me") is None


def test_a_complete_one_is_kept_for_the_grace_time_and_not_aborted() -> None:
    store, abandoned = ReplayStore(60), []
    replay = store.create("r", "me", lambda: abandoned.append("r"), 1)
    replay.attach()
    replay.append(b"x")
    replay.close(10 * SECOND)
    replay.detach(11 * SECOND)
    store.sweep(69 * SECOND)
    assert list(replay.after(0)) == [b"x"]
    store.sweep(70 * SECOND)
    assert len(store) == 0
    assert not abandoned


def test_another_owner_finds_nothing() -> None:
    store = ReplayStore(60)
    store.create("r", "me", lambda: None, 1)
    assert store.get("r", "you") is None


def test_the_oldest_complete_ones_make_room() -> None:
    store = ReplayStore(60, max_replays=2, max_bytes=100)
    first = store.create("1", "", lambda: None, 1)
    second = store.create("2", "", lambda: None, 1)
    first.close(1)
    third = store.create("3", "", lambda: None, 1)
    assert [store.get(name, "") for name in "123"] == [None, second, third]
    second.append(bytes(80))
    third.append(bytes(80))
    second.close(2)
    store.sweep(3)
    assert [store.get(name, "") for name in "23"] == [None, third]


def test_one_response_cannot_keep_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_EVENTS_BYTES", 10)
    replay = ReplayStore(60).create("r", "", lambda: None, 1)
    for number in range(1, 13):
        assert replay.append(b"x") == number
    assert replay.bytes <= 10
    assert list(replay.after(replay.last - 1)) == [b"x"]
    with pytest.raises(EventsGone):
        replay.after(0)
