"""The machine as its files have it: a machine of files, this machine, and a driver that says this and that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.blackbox import crashes
from metrics.host import files
from metrics.host.nvml import Nvml
from metrics.host.places import memfd_bytes, place, private_bytes
from metrics.host.vitals import Vitals
from metrics.host.watch import HostWatch

KIB = 1024


def no_driver() -> Any:
    raise ImportError


def write(root: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Two nodes of two CPUs, one of which has a clock that is known."""
    write(
        tmp_path,
        proc__stat="cpu  9 9 9 9\ncpu0 100 0 100 700 100 0 0 0 0 0\ncpu1 0 0 0 1000 0 0 0 0 0 0\n"
        "cpu2 0 0 0 1000 0 0 0 0\ncpu3 0 0 0 1000\nintr 12345 1 2 3\n",
        proc__meminfo="MemTotal:       1000 kB\nMemAvailable:    600 kB\nBuffers: 10 kB\nCached: 90 kB\nShmem: 5 kB\n"
        "SwapTotal: 100 kB\nSwapFree: 70 kB\nHugepagesize: 2048 kB\nHugePages_Total: 8\nHugePages_Free: 3\n",
        proc__loadavg="1.50 2.25 3.00 2/345 6789\n",
        proc__uptime="123.45 67.8\n",
        proc__pressure__cpu="some avg10=12.50 avg60=1.00 avg300=0.00 total=1\n"
        "full avg10=0.00 avg60=0.50 avg300=0 total=0\n",
        proc__cpuinfo="processor\t: 0\nmodel name\t: Big Iron 9000\n\nprocessor\t: 1\n",
        sys__devices__system__node__node0__cpulist="0-1\n",
        sys__devices__system__node__node0__meminfo="Node 0 MemTotal:   500 kB\nNode 0 MemFree: 200 kB\n",
        sys__devices__system__node__node1__cpulist="2-3\n",
        sys__devices__system__node__node1__meminfo="Node 1 MemTotal:   500 kB\nNode 1 MemFree: 100 kB\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq="2100000\n",
        sys__devices__system__cpu__cpu0__cpufreq__cpuinfo_max_freq="3700000\n",
    )
    return tmp_path


def test_a_machine_of_files(machine: Path) -> None:
    watch = HostWatch(Nvml(no_driver), machine)
    watch.look()
    write(
        machine, proc__stat="cpu0 150 0 100 720 110 0 10 10\ncpu1 0 0 0 1100\ncpu2 100 0 0 1000\ncpu3 0 0 0 1050 50\n"
    )
    watch.look()
    read = watch.read([("kv@host", 4)], 77, 10**9)
    assert [(core.cpu, core.node, core.busy, core.steal) for core in read.cores] == [
        (0, 0, 0.6, 0.1), (1, 0, 0.0, 0.0), (2, 1, 1.0, 0.0), (3, 1, 0.0, 0.0),
    ]  # fmt: skip
    assert [(core.mhz, core.mhz_max) for core in read.cores][:2] == [(2100, 3700), (0, 0)]
    assert [(node.node, node.cpus, node.total_bytes, node.free_bytes) for node in read.nodes] == [
        (0, "0-1", 500 * KIB, 200 * KIB),
        (1, "2-3", 500 * KIB, 100 * KIB),
    ]
    memory = read.memory
    assert (memory.total, memory.available, memory.cached) == (1000 * KIB, 600 * KIB, 100 * KIB)
    assert (memory.swap_used, memory.huge_page_bytes, memory.huge_total, memory.huge_free) == (30 * KIB, 2 << 20, 8, 3)
    assert (read.load, read.up_s, read.processor, memory.arena) == ((1.5, 2.25, 3.0), 123.45, "Big Iron 9000", 77)
    assert [(p.what, p.some_10s, p.full_60s) for p in read.pressure] == [("cpu", 0.125, 0.005)]
    watch.close()


def test_it_is_read_once_however_many_ask(machine: Path) -> None:
    watch = HostWatch(Nvml(no_driver), machine)
    first = watch.read([], 0, 10**9)
    assert watch.read([], 0, 10**9 + 800_000_000) is first
    assert watch.read([], 0, 10**9 + 1_000_000_000) is not first
    watch.close()


def test_a_machine_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    watch = HostWatch(Nvml(no_driver), tmp_path)
    watch.look()
    read = watch.read([("a@b", 1)], 0, 10**9)
    assert (read.cores, read.nodes, read.pressure, read.memory.total) == ((), (), (), 0)
    watch.close()


def test_crash_reports_are_told_by_their_names_and_ages(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    vitals = Vitals((), machine)
    assert vitals.read().crashes == ()
    crashes.directory().mkdir()
    mine = crashes.path_of("worker@m.0.0", time.time() - 100)
    for path in (mine, mine.with_name("2026-13-77T01-41-02Z-kv@host.tar.gz"), mine.with_name("core.1234")):
        path.touch()
    (told,) = vitals.read().crashes
    assert (told.process, told.path) == ("worker@m.0.0", str(mine))
    assert 99 < told.age_s < 160
    mine.unlink()
    assert vitals.read().crashes == ()


def test_this_machine() -> None:
    watch = HostWatch(Nvml(no_driver))
    watch.look()
    watch.look()
    read = watch.read([("me@here", os.getpid())], 0, 10**9)
    assert len(read.cores) >= len(os.sched_getaffinity(0))
    assert all(0.0 <= core.busy <= 1.0 for core in read.cores)
    assert [name for core in read.cores for name in core.running] == ["me@here"]
    assert 0 < read.memory.available < read.memory.total
    assert read.places[os.getpid()].cpus == os.sched_getaffinity(0)
    watch.close()


def test_what_is_a_processs_own() -> None:
    script = (
        "import os; own = bytearray(b'x') * (24 << 20); fd = os.memfd_create('arena'); os.write(fd, bytes(1 << 20)); "
        "print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert 24 << 20 < private_bytes(Path("/"), child.pid) < 64 << 20
        assert memfd_bytes(Path("/"), child.pid) == 1 << 20
        assert place(Path("/"), child.pid).cpu >= 0
        child.stdin.close()
    assert place(Path("/"), child.pid) == (-1, frozenset())
    assert private_bytes(Path("/"), child.pid) == memfd_bytes(Path("/"), child.pid) == 0


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_are_written_as_the_kernel_does(numbers: set[int]) -> None:
    written = files.as_list(numbers)
    assert set(files.parse_list(written)) == numbers
    assert written.count(",") + bool(numbers) == sum(1 for n in numbers if n - 1 not in numbers)


class ScriptedDriver:
    """NVML with one GPU, as far as `answers` goes; what is not in there is not supported."""

    class NVMLError(Exception):
        pass

    def __init__(self, **answers: Any) -> None:
        self.answers, self.gone = answers, False

    def nvmlInit(self) -> None:
        if self.gone:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        if self.gone:
            raise self.NVMLError("GPU is lost")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def __getattr__(self, name: str) -> Any:
        def ask(*_: object) -> Any:
            if name not in self.answers:
                raise self.NVMLError("Not Supported")
            return self.answers[name]

        return ask


def read(nvml: Nvml) -> tuple[Any, str]:
    nvml.read({7: "worker@m.0.0"})
    nvml.wait()
    said = nvml.read({})
    nvml.wait()
    return said


def test_a_gpu_says_what_it_can_and_the_rest_is_unknown() -> None:
    driver = ScriptedDriver(
        nvmlDeviceGetName=b"H100", nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=62),
        nvmlDeviceGetMemoryInfo=SimpleNamespace(used=5, total=80), nvmlDeviceGetPowerUsage=410_000,
        nvmlDeviceGetCurrentClocksThrottleReasons=0x4 | 0x1,
        nvmlDeviceGetComputeRunningProcesses=[SimpleNamespace(pid=7), SimpleNamespace(pid=8)],
    )  # fmt: skip
    nvml = Nvml(lambda: driver)
    ((gpu,), trouble) = read(nvml)
    assert (gpu.name, gpu.busy, gpu.memory_used, gpu.memory_total, gpu.power_w) == ("H100", 0.62, 5, 80, 410.0)
    assert (gpu.throttled, gpu.running, trouble) == (("power cap",), ("worker@m.0.0",), "")
    assert (gpu.celsius, gpu.mhz, gpu.ecc_errors, gpu.pci, gpu.pcie_rx_bytes_per_s) == (-1, -1, -1, "", -1)
    nvml.close()


def test_a_driver_that_stops_answering_is_told_and_left_alone_for_a_while() -> None:
    driver = ScriptedDriver()
    nvml = Nvml(lambda: driver)
    assert len(read(nvml)[0]) == 1
    driver.gone = True
    assert read(nvml) == ((), "NVML stopped answering: GPU is lost")
    driver.gone = False
    assert read(nvml)[0] == ()
    nvml.close()


def test_without_the_library_there_are_no_gpus() -> None:
    nvml = Nvml(no_driver)
    assert read(nvml) == ((), "nvidia-ml-py is not installed")
    nvml.close()
