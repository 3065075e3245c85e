"""The header table: written one by one, read all at once, and never believed where a bit is wrong."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kv.headers import HeaderFields, Headers, _crc32
from kv.layout import FREE, HEADER, LEASED, SEALED

FIELDS = st.builds(
    HeaderFields,
    state=st.sampled_from([FREE, LEASED, SEALED]),
    pool=st.integers(0, 64),
    generation=st.integers(1, 2**32 - 1),
    owner=st.integers(0, 2**64 - 1),
    owner_epoch=st.integers(0, 2**63),
    digest=st.binary(min_size=16, max_size=16),
    parent=st.binary(min_size=16, max_size=16),
)


def write(headers: Headers, at: int, fields: HeaderFields) -> None:
    headers.write(at, *fields[:5], fields.digest + fields.parent)


@given(st.lists(FIELDS, max_size=20))
def test_one_at_a_time_and_all_at_once_read_the_same(written: list[HeaderFields]) -> None:
    memory = bytearray(HEADER.itemsize * (len(written) + 5))
    headers = Headers(memory)
    for at, fields in enumerate(written, start=2):
        write(headers, at, fields)
    scan = headers.scan(1, len(written) + 4)
    assert not scan.suspect.any()
    for at in range(len(written) + 4):
        header = headers.read(at + 1)
        assert scan.valid[at] == (header is not None)
        if header is not None:
            columns = (scan.state, scan.pool, scan.generation, scan.owner, scan.owner_epoch)
            read = HeaderFields(*(int(column[at]) for column in columns), b"", b"")
            identity = scan.identity[at].tobytes()
            assert read._replace(digest=identity[:16], parent=identity[16:]) == header == written[at - 1]


@given(FIELDS, st.integers(0, 8 * 56 - 1))
def test_one_wrong_bit_makes_a_header_suspect(fields: HeaderFields, bit: int) -> None:
    memory = bytearray(HEADER.itemsize)
    headers = Headers(memory)
    write(headers, 0, fields)
    byte = bit // 8
    memory[byte if byte < 24 else byte + 40] ^= 1 << bit % 8
    if byte != 1:  # padding
        assert headers.read(0) is None
        assert headers.scan(0, 1).suspect.tolist() == [True]


@given(st.lists(st.binary(min_size=56, max_size=56), max_size=10))
def test_the_sum_of_many_rows_is_zlibs(rows: list[bytes]) -> None:
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), 56)
    assert _crc32(table).tolist() == [zlib.crc32(row) for row in rows]


def test_a_suspect_headers_generation_is_no_less_than_what_its_writer_committed() -> None:
    memory = bytearray(HEADER.itemsize)
    headers = Headers(memory)
    write(headers, 0, HeaderFields(LEASED, 1, 7, 1, 1, bytes(16), bytes(16)))
    np.frombuffer(memory, HEADER)["commit"][0, 3] = 7 << 32 | 16
    memory[4] = 1  # generation 7 reads as 1
    assert headers.scan(0, 1).generation.tolist() == [7]
