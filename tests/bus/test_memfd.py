"""Sealed memory: its size is final, all of it is there, and too much of it is refused in words."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
from pathlib import Path

import pytest

from bus.memfd import MemoryTooSmall, create_memfd, room_for_memory

GIB = 1 << 30


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
    with pytest.raises(MemoryTooSmall, match=r"do not fit: .+ leaves \d+ MiB"):
        create_memfd("headrace-test", 1 << 50, "off")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_huge_pages_are_done_without_unless_they_are_a_must(caplog: pytest.LogCaptureFixture) -> None:
    more_than_any_host_reserves = 1 << 50
    with pytest.raises(MemoryTooSmall, match=r"vm\.nr_hugepages=536870912"):
        create_memfd("headrace-test", more_than_any_host_reserves, "on")
    with pytest.raises(MemoryTooSmall, match="do not fit"):
        create_memfd("headrace-test", more_than_any_host_reserves, "auto")
    assert "no huge pages" in caplog.text


class Fake:
    """What the kernel says of memory, as files."""

    def __init__(self, root: Path, available: int, groups: str) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write(self.proc / "meminfo", f"MemTotal: 1 kB\nMemAvailable: {available >> 10} kB\n")
        self.write(self.proc / "self" / "cgroup", groups)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, path: str, **files: object) -> None:
        for name, value in files.items():
            self.write(self.cgroups / path / name.replace("__", "."), f"{value}\n")


def test_the_host_is_the_limit_where_no_group_is_tighter(tmp_path: Path) -> None:
    fake = Fake(tmp_path, 8 * GIB, "0::/a\n")
    fake.group("a", memory__max="max", memory__high="max", memory__current=GIB)
    room = room_for_memory(fake.proc, fake.cgroups)
    assert room.bytes == 8 * GIB
    assert "MemAvailable" in room.limit


def test_a_group_above_ours_may_be_the_limit_and_is_named(tmp_path: Path) -> None:
    fake = Fake(tmp_path, 8 * GIB, "0::/slice/service\n")
    fake.group("slice", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat="inactive_file 1048576")
    fake.group("slice/service", memory__max=3 * GIB, memory__current=GIB, memory__stat="anon 5")
    room = room_for_memory(fake.proc, fake.cgroups)
    assert room.bytes == GIB + (1 << 20), "file pages that nobody uses make room"
    assert room.limit == f"control group {fake.cgroups}/slice (memory.max)"
    fake.group("slice/service", memory__high=GIB + 5)
    assert room_for_memory(fake.proc, fake.cgroups) == (5, f"control group {fake.cgroups}/slice/service (memory.high)")


def test_the_first_version_of_control_groups_counts_as_well(tmp_path: Path) -> None:
    fake = Fake(tmp_path, 8 * GIB, "12:cpu,cpuacct:/x\n5:memory:/x\n1:name=systemd:/x\n")
    fake.group("memory/x", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB, memory__stat="total_cache 1")
    room = room_for_memory(fake.proc, fake.cgroups)
    assert (room.bytes, "memory.limit_in_bytes" in room.limit) == (GIB, True)


def test_a_limit_of_the_address_space_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB if which == resource.RLIMIT_AS else -1, -1))
    fake = Fake(tmp_path, 8 * GIB, "0::/\n")
    assert room_for_memory(fake.proc, fake.cgroups) == (GIB, "the limit of the address space (ulimit -v)")
    with pytest.raises(MemoryTooSmall, match="ulimit -v"):
        create_memfd("headrace-test", 2 * GIB, "off")


def test_dev_shm_has_no_say() -> None:
    """A container's 64 MiB of /dev/shm, or its mode, are nothing to an arena: it is not in there."""
    fd = create_memfd("headrace-test", 96 << 20, "off")
    try:
        assert os.fstat(fd).st_dev != os.stat("/dev/shm").st_dev
        assert "headrace-test" not in os.listdir("/dev/shm")
    finally:
        os.close(fd)
