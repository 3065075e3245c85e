"""The ring of the flight recorder: whatever was appended, wherever it ended, what is read is what was written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.blackbox.ring import HEAD_BYTES, MAGIC, Ring, records

KEY = 0x1234_5678_9ABC_DEF0
START = 64

payloads = st.lists(st.binary(max_size=200), max_size=80)
sizes = st.integers(80, 600).map(lambda words: words * 8)


def filled(size: int, written: list[bytes]) -> tuple[bytearray, Ring]:
    memory = bytearray(START + size)
    ring = Ring(memory, START, START + size, KEY)
    for payload in written:
        ring.append(payload)
    return memory, ring


def read(memory: bytes | bytearray) -> list[bytes]:
    return [record.payload for record in records(bytes(memory[START:]), KEY)]


@given(sizes, payloads)
def test_the_newest_records_are_there_whole_and_in_order(size: int, written: list[bytes]) -> None:
    memory, ring = filled(size, written)
    found = records(bytes(memory[START:]), KEY)
    expected = [payload[: ring.largest] for payload in written]
    assert [record.payload for record in found] == expected[len(expected) - len(found) :]
    assert [record.number for record in found] == list(range(len(written) - len(found) + 1, len(written) + 1))
    # Nothing is overwritten before there is need: three quarters of the ring hold records, but for what a wrap leaves.
    taken = sum(-(-(HEAD_BYTES + len(record.payload)) // 8) * 8 for record in found)
    assert len(found) == len(written) or taken >= size - 2 * (ring.largest + HEAD_BYTES + 8)


@given(sizes, payloads, st.binary(max_size=200), st.data())
def test_a_writer_that_dies_in_the_middle_of_a_record_leaves_the_others(
    size: int, written: list[bytes], last: bytes, data: st.DataObject
) -> None:
    before, _ = filled(size, written)
    after, _ = filled(size, [*written, last])
    changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    # Any part of the bytes may have been written, in any order: a copy is not atomic.
    done = data.draw(st.sets(st.sampled_from(changed))) if changed else set()
    torn = bytearray(before)
    for at in done:
        torn[at] = after[at]
    found = read(torn)
    every = [payload[: size // 4 - HEAD_BYTES] for payload in [*written, last]]
    assert found in (every[len(every) - len(found) :], every[len(every) - 1 - len(found) : -1])


@given(sizes, payloads, st.data())
def test_any_cut_and_any_damage_is_read_without_an_error(size: int, written: list[bytes], data: st.DataObject) -> None:
    memory, ring = filled(size, written)
    cut = bytearray(memory[: data.draw(st.integers(START, len(memory)))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(START, len(memory)), st.integers(0, 255)), max_size=5)):
        if at < len(cut):
            cut[at] = value
    found = records(bytes(cut[START:]), KEY)
    assert [record.number for record in found] == sorted({record.number for record in found})
    for record in found:
        assert record.payload == written[record.number - 1][: ring.largest]


@given(st.binary(max_size=2000), st.integers(0, 2**64 - 1))
def test_bytes_of_anybody_are_no_records(data: bytes, key: int) -> None:
    assert records(data, key) == []


def test_what_a_peer_sends_is_not_taken_for_a_record() -> None:
    forged = bytearray(400)
    other = Ring(forged, 0, 400, KEY + 1)  # all that a peer can know but the key
    other.append(b"I was never written")
    assert MAGIC.to_bytes(4, "little") in forged
    memory, ring = filled(4000, [])
    for shift in range(8):
        ring.append(bytes(shift) + bytes(forged[:64]))
    assert len(read(memory)) == 8
    assert b"I was never written" not in read(memory)
