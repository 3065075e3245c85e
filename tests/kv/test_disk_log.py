"""Segments on disk: whatever a kill, a cut or a flipped bit has made of a file, what is read is what was written.

Pages are tiny and so are segments; the files are real.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.config import KvConfig
from kv.disk.index import DiskIndex, Name, Place
from kv.disk.log import Outgoing, SegmentLog
from kv.disk.place import DiskInUse, DiskPlace, DiskUnusable, open_place
from kv.disk.reader import Outcome, Read, Wanted, read_pages
from kv.disk.record import BLOCK, Entry, end_of, pack_tail, parse_header, read_entries, record_size, tail_size

PAGE = BLOCK
SEGMENT = 6 * record_size(PAGE) + tail_size(6)
IDENTITY = b"i" * 16


def content(digest: bytes) -> bytes:
    return (digest * (PAGE // len(digest)))[:PAGE]


def outgoing(digest: bytes, still: Callable[[], bool] = lambda: True, page: bytes | None = None) -> Outgoing:
    return Outgoing(IDENTITY, digest, b"p" * 16, memoryview(page or content(digest)), still)


def names(count: int, seed: int = 0) -> list[bytes]:
    return [random.Random(seed * 1000 + number).randbytes(16) for number in range(count)]


def disk(directory: Path, segments: int = 4) -> DiskPlace:
    # Not direct: pages of plain memory lie where they lie.
    return DiskPlace(directory, -1, segments * SEGMENT, SEGMENT, direct=False)


def recovered(place: DiskPlace) -> tuple[SegmentLog, DiskIndex]:
    log, index = SegmentLog(place), DiskIndex()
    while (found := log.recover()) is not None:
        index.add_segment(*found)
    return log, index


def read_page(place: DiskPlace, at: Place, identity: bytes, digest: bytes, page: memoryview) -> Read:
    (one,) = read_pages(place, at, [Wanted(identity, digest, page)])
    return one


def read(place: DiskPlace, index: DiskIndex, digest: bytes) -> Outcome | None:
    """None where it is not listed; a good page has the right bytes."""
    at = index.find(IDENTITY, digest)
    if at is None:
        return None
    page = bytearray(PAGE)
    outcome = read_page(place, at, IDENTITY, digest, memoryview(page)).outcome
    assert outcome is not Outcome.GOOD or bytes(page) == content(digest)
    return outcome


def test_what_is_written_is_read_again_by_the_next_one(tmp_path: Path) -> None:
    place, wanted = disk(tmp_path), names(9)
    log = SegmentLog(place)
    assert log.recover() is None
    done = log.append([outgoing(digest) for digest in wanted])
    assert [at and at.segment for at in done.places] == [1] * 6 + [2] * 3
    for _ in range(3):  # the open segment is closed by the first
        _, index = recovered(place)
        assert [read(place, index, digest) for digest in wanted] == [Outcome.GOOD] * 9
        assert (tmp_path / "000000000002.pages").stat().st_size == 3 * record_size(PAGE) + tail_size(3)


def test_a_page_that_changes_hands_while_it_is_written_is_never_right(tmp_path: Path) -> None:
    """Taken away after its sum, after the write, and overwritten in between: not listed, and if a kill leaves only its
    record, the sum does not fit."""
    place, (before, during, good) = disk(tmp_path), names(3)
    looks = iter([True, False])
    page = bytearray(content(during))

    def still() -> bool:
        answer = next(looks)
        page[100] ^= 1  # its next owner writes, between the sum and the write
        return answer

    log = SegmentLog(place)
    done = log.append([outgoing(before, lambda: False), outgoing(during, still, page), outgoing(good)])  # type: ignore[arg-type]
    assert [at is not None for at in done.places] == [False, False, True]
    _, index = recovered(place)
    assert read(place, index, before) is None
    assert read(place, index, during) is Outcome.DAMAGED
    assert read(place, index, good) is Outcome.GOOD


def closed_segment(directory: Path, count: int) -> tuple[Path, list[bytes]]:
    directory.mkdir()
    wanted = names(count)
    SegmentLog(disk(directory)).append([outgoing(digest) for digest in wanted])
    recovered(disk(directory))
    return directory / "000000000001.pages", wanted


def test_truncated_at_any_byte_whole_records_are_served_and_nothing_else(tmp_path: Path) -> None:
    path, wanted = closed_segment(tmp_path / "a", 3)
    whole = path.read_bytes()
    assert len(whole) == 3 * record_size(PAGE) + tail_size(3)
    for length in range(len(whole) + 1):
        data = whole[:length]
        entries, closed = read_entries(lambda at, count, data=data: data[at : at + count], length)  # type: ignore[misc]
        assert closed == (length == len(whole))
        assert [entry.digest for entry in entries] == wanted[: length // record_size(PAGE)]
        assert end_of(entries) <= length
    for length in (0, 1, BLOCK, record_size(PAGE), record_size(PAGE) + 5, len(whole) - 1):  # and with the files
        place = disk(tmp_path / str(length))
        place.directory.mkdir()
        place.path(1).write_bytes(whole[:length])
        log, index = recovered(place)
        kept = length // record_size(PAGE)
        assert [read(place, index, digest) for digest in wanted] == [Outcome.GOOD] * kept + [None] * (3 - kept)
        assert place.segments() == [1] * bool(kept)
        more = names(2, seed=1)
        assert all(log.append([outgoing(digest) for digest in more]).places)
        _, index = recovered(place)
        assert [read(place, index, digest) for digest in more] == [Outcome.GOOD] * 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 7)), min_size=1, max_size=6), st.booleans())
def test_flipped_bits_cost_pages_and_never_change_one(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], open_segment: bool
) -> None:
    directory = tmp_path_factory.mktemp("d") / "a"
    path, wanted = closed_segment(directory, 4)
    data = bytearray(path.read_bytes())
    if open_segment:
        data = data[: 4 * record_size(PAGE)] + bytes(BLOCK)
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    _, index = recovered(disk(directory))
    for digest in wanted:
        assert read(disk(directory), index, digest) in (None, Outcome.GOOD, Outcome.DAMAGED)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"x", bytes(BLOCK), random.Random(7).randbytes(3 * BLOCK), b"HRPAGE\x00\x02" + bytes(9000)],
    ids=["nothing", "a byte", "zeros", "noise", "another version"],
)
def test_files_of_somebody_else_or_another_version_are_removed_by_number_only(tmp_path: Path, rubbish: bytes) -> None:
    place = disk(tmp_path)
    place.path(4).write_bytes(rubbish)
    (tmp_path / "notes.pages").write_bytes(rubbish)
    log, index = recovered(place)
    assert index.pages == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.pages"]
    assert [at and at.segment for at in log.append([outgoing(names(1)[0])]).places] == [5]


def test_a_list_that_lies_about_its_length_is_not_read() -> None:
    entries = [Entry(IDENTITY, digest, at * record_size(PAGE), PAGE) for at, digest in enumerate(names(3))]
    tail = pack_tail(entries, end_of(entries))
    for data in (tail, bytes(end_of(entries)) + tail + bytes(BLOCK), bytes(BLOCK) + tail):
        assert read_entries(lambda at, count, data=data: data[at : at + count], len(data)) == ([], False)  # type: ignore[misc]
    assert parse_header(tail) is None


def test_the_oldest_segment_goes_when_the_limit_is_reached(tmp_path: Path) -> None:
    place, wanted = disk(tmp_path, segments=3), names(40)
    log, index, gone = SegmentLog(place), DiskIndex(), list[Name]()
    for digest in wanted:
        done = log.append([outgoing(digest)])
        for segment in done.removed:
            gone += index.drop(segment)
        assert done.places[0] is not None
        index.add(IDENTITY, digest, done.places[0])
        assert log.bytes <= place.limit
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) <= place.limit
    assert [digest for _, digest in gone] == wanted[: len(gone)]
    assert index.pages == len(wanted) - len(gone) >= 12
    assert [read(place, index, digest) for digest in wanted[len(gone) :]] == [Outcome.GOOD] * index.pages
    oldest, newest = wanted[len(gone)], wanted[-1]
    assert index.has(IDENTITY, oldest)
    assert not index.will_stay(IDENTITY, oldest)
    assert index.will_stay(IDENTITY, newest)
    page = bytearray(PAGE)
    assert read_page(place, Place(1, 0), IDENTITY, wanted[0], memoryview(page)).outcome is Outcome.GONE


def test_a_page_of_another_model_or_another_block_is_not_taken(tmp_path: Path) -> None:
    place, (digest, other) = disk(tmp_path), names(2)
    (at,) = SegmentLog(place).append([outgoing(digest)]).places
    assert at is not None
    page = bytearray(PAGE)
    assert read_page(place, at, b"j" * 16, digest, memoryview(page)).outcome is Outcome.DAMAGED
    assert read_page(place, at, IDENTITY, other, memoryview(page)).outcome is Outcome.DAMAGED
    assert read_page(place, at, IDENTITY, digest, memoryview(page)[:2048]).outcome is Outcome.DAMAGED


def test_pages_in_a_row_are_read_at_once_and_judged_each_by_itself(tmp_path: Path) -> None:
    place, wanted = disk(tmp_path), names(5)
    (first, *_) = SegmentLog(place).append([outgoing(digest) for digest in wanted]).places
    assert first is not None
    path = place.path(1)
    data = bytearray(path.read_bytes())
    data[record_size(PAGE) + BLOCK + 7] ^= 1
    path.write_bytes(data[: 4 * record_size(PAGE) + 5000])
    pages = [bytearray(PAGE) for _ in wanted]
    reads = read_pages(
        place, first, [Wanted(IDENTITY, digest, memoryview(p)) for digest, p in zip(wanted, pages, strict=True)]
    )
    good, bad = Outcome.GOOD, Outcome.DAMAGED
    assert [read.outcome for read in reads] == [good, bad, good, good, bad]
    assert [bytes(pages[at]) for at in (0, 2, 3)] == [content(wanted[at]) for at in (0, 2, 3)]


def test_a_disk_that_fills_up_costs_the_oldest_pages_first_and_then_ends_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, wanted = disk(tmp_path, segments=8), names(20)
    log = SegmentLog(place)
    assert all(log.append([outgoing(digest) for digest in wanted]).places)
    assert len(place.segments()) == 4
    full = os.statvfs_result((4096, 4096, 10**6, 0, 0, 10**6, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)  # others fill it
    done = log.append([outgoing(digest) for digest in names(6, seed=2)])
    assert done.error is not None
    assert "MiB are free" in (done.error.strerror or "")
    assert done.removed == [1, 2, 3, 4]
    assert [at is not None for at in done.places] == [True] * 4 + [False] * 2  # four had room in the last segment
    assert place.segments() == []
    monkeypatch.undo()
    assert all(log.append([outgoing(digest) for digest in names(6, seed=3)]).places)


def test_a_write_that_fails_leaves_what_was_written_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, wanted = disk(tmp_path), names(4)
    log = SegmentLog(place)
    assert all(log.append([outgoing(digest) for digest in wanted[:2]]).places)

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", no_space)
    done = log.append([outgoing(digest) for digest in wanted[2:]])
    assert (done.places, done.error and done.error.errno) == ([None, None], 28)
    monkeypatch.undo()
    assert all(log.append([outgoing(wanted[2])]).places)
    _, index = recovered(place)
    assert [read(place, index, digest) for digest in wanted] == [Outcome.GOOD] * 3 + [None]


def test_the_place_is_claimed_tried_out_and_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    assert open_place(KvConfig()) is None
    place = open_place(KvConfig(disk="1GiB"))
    assert place is not None
    assert place.directory == tmp_path / "pages"
    assert (place.limit, place.segment_bytes) == (1 << 30, 64 << 20)
    assert [path.name for path in place.directory.iterdir()] == ["lock"]
    with pytest.raises(DiskInUse, match="disk_path of its own"):
        open_place(KvConfig(disk="1GiB"))
    os.close(place.lock)
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskUnusable, match="make it writable"):
        open_place(KvConfig(disk="1GiB", disk_path=str(tmp_path / "file" / "x")))

    def refuses(path: object, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return original(path, flags, *more, **named)  # type: ignore[arg-type]

    original = os.open
    monkeypatch.setattr(os, "open", refuses)
    buffered = open_place(KvConfig(disk="64MiB"))
    assert buffered is not None
    assert not buffered.direct
    assert buffered.segment_bytes == 16 << 20
    os.close(buffered.lock)
