"""GPUs as NVML has them, through `nvidia-ml-py` where that is installed: the `gpu` extra. Without it there are none.

Every question may be one that a driver or a board does not answer; it is -1 then. A driver that stops answering
altogether is asked again after a minute. Some answers take the driver tens of milliseconds, so a thread asks, and
whoever reads gets what it last said.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from bus.messages.details import Gpu

RETRY_S: Final = 60.0
_KIB: Final = 1024
# nvmlClocksEventReason*; those that merely say that there is nothing to do are no throttling.
_REASONS: Final = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost", 0x20: "thermal", 0x40: "hardware thermal",
    0x80: "power brake",
}  # fmt: skip


class Nvml:
    """The library, loaded when it is first asked.

    Args:
        load: imports it; raises ImportError where it is not there.
    """

    def __init__(self, load: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        self._load = load
        self._library: Any = None
        self._trouble = ""
        self._again_s = 0.0
        self._said: tuple[tuple[Gpu, ...], str] = (), "not asked yet"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self._asking: Future[None] | None = None

    def read(self, names: Mapping[int, str]) -> tuple[tuple[Gpu, ...], str]:
        """What was last said, and why there is nothing; the driver is asked again meanwhile.

        Args:
            names: of processes by pid.
        """
        if self._asking is None or self._asking.done():
            self._asking = self._thread.submit(self._ask, dict(names))
        return self._said

    def wait(self) -> None:
        """Until the driver has said something, for tests and tools."""
        if self._asking is not None:
            self._asking.result()

    def close(self) -> None:
        """Ask no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- on the thread ---------------------------------------------------------------------------------------------

    def _ask(self, names: dict[int, str]) -> None:
        if self._library is None and not self._open():
            self._said = (), self._trouble
            return
        nvml = self._library
        try:
            self._said = tuple(_gpu(nvml, index, names) for index in range(nvml.nvmlDeviceGetCount())), ""
        except nvml.NVMLError as error:
            self._library = None
            self._fail(f"NVML stopped answering: {error}")
            self._said = (), self._trouble

    def _open(self) -> bool:
        if time.monotonic() < self._again_s:
            return False
        try:
            library = self._load()
        except ImportError:
            self._fail("nvidia-ml-py is not installed")
            return False
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            self._fail(f"no NVIDIA driver: {error}")
            return False
        self._library, self._trouble = library, ""
        return True

    def _fail(self, why: str) -> None:
        self._trouble, self._again_s = why, time.monotonic() + RETRY_S


def _gpu(nvml: Any, index: int, names: Mapping[int, str]) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: str, *args: object) -> Any:
        try:
            return getattr(nvml, question)(handle, *args)
        except (nvml.NVMLError, AttributeError):
            return None

    def number(question: str, *args: object, scale: float = 1.0) -> float:
        answer = ask(question, *args)
        return -1.0 if answer is None else float(answer * scale)

    busy, memory, pci = (
        ask("nvmlDeviceGetUtilizationRates"),
        ask("nvmlDeviceGetMemoryInfo"),
        ask("nvmlDeviceGetPciInfo"),
    )
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons") or ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    running = ask("nvmlDeviceGetComputeRunningProcesses") or ()
    return Gpu(
        gpu=index,
        name=_text(ask("nvmlDeviceGetName")),
        pci=_text(pci.busId) if pci is not None else "",
        busy=busy.gpu / 100 if busy is not None else -1.0,
        memory_used=memory.used if memory is not None else -1,
        memory_total=memory.total if memory is not None else -1,
        power_w=number("nvmlDeviceGetPowerUsage", scale=1e-3),
        power_limit_w=number("nvmlDeviceGetEnforcedPowerLimit", scale=1e-3),
        celsius=int(number("nvmlDeviceGetTemperature", 0)),
        mhz=int(number("nvmlDeviceGetClockInfo", 1)),
        mhz_max=int(number("nvmlDeviceGetMaxClockInfo", 1)),
        pcie_rx_bytes_per_s=int(number("nvmlDeviceGetPcieThroughput", 1, scale=_KIB)),
        pcie_tx_bytes_per_s=int(number("nvmlDeviceGetPcieThroughput", 0, scale=_KIB)),
        ecc_errors=int(number("nvmlDeviceGetTotalEccErrors", 1, 0)),
        throttled=tuple(word for bit, word in _REASONS.items() if reasons & bit),
        running=tuple(sorted(names[each.pid] for each in running if each.pid in names)),
    )


def _text(said: object) -> str:
    """The library says bytes or text, depending on its age."""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said or "")
