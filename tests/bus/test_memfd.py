"""Sealed memory: its size is final, all of it is there, and too much of it is refused in words."""

from __future__ import annotations

import fcntl
import mmap
import os

import pytest

from bus.memfd import MemoryTooSmall, create_memfd


def test_its_size_is_final_and_its_memory_is_there() -> None:
    fd = create_memfd("headrace-test", (4 << 20) + 1, "off")
    try:
        assert os.fstat(fd).st_size == 6 << 20  # whole huge pages
        assert os.fstat(fd).st_blocks * 512 == 6 << 20
        for size in (0, 8 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with mmap.mmap(fd, 6 << 20) as memory:
            memory[-1] = 7
            assert memory[-1] == 7
    finally:
        os.close(fd)


def test_too_much_is_refused_with_what_there_is() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MemoryTooSmall, match=r"does not fit: \d+ MiB are available"):
        create_memfd("headrace-test", 1 << 50, "off")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_huge_pages_are_done_without_unless_they_are_a_must(caplog: pytest.LogCaptureFixture) -> None:
    more_than_any_host_reserves = 1 << 50
    with pytest.raises(MemoryTooSmall, match=r"vm\.nr_hugepages=536870912"):
        create_memfd("headrace-test", more_than_any_host_reserves, "on")
    with pytest.raises(MemoryTooSmall, match="does not fit"):
        create_memfd("headrace-test", more_than_any_host_reserves, "auto")
    assert "no huge pages" in caplog.text
