"""Versions and the machine, as plain data. What cannot be found out is left out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

import cli
from bus.build import BUILD
from bus.memfd import room_for_memory
from bus.names import run_directory, state_directory
from bus.wire import PROTOCOLS

_PACKAGES: Final = ("torch", "numpy", "pyzmq", "msgspec", "tokenizers", "uvloop", "safetensors", "gguf", "xxhash")
_LIMITS: Final = ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_MEMLOCK", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_CORE")


def describe() -> dict[str, Any]:
    """Everything."""
    return {
        "headrace": {"build": BUILD, "protocols": str(PROTOCOLS), "kernels": _kernels()},
        "python": {"version": sys.version, "executable": sys.executable},
        "packages": _packages(),
        "os": _system(),
        "cpu": _cpu(),
        "memory": _memory(),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
        "disks": {name: _disk(path) for name, path in (("run", run_directory()), ("state", state_directory()))},
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _kernels() -> dict[str, str]:
    """The compiled libraries, those that came with the code and those made here: the start of their check sums."""
    shipped, made = Path(cli.__file__).parents[1] / "workers" / "kernels" / "lib", state_directory() / "kernels"
    found = [*sorted(shipped.glob("*.so")), *sorted(made.glob("*.so"))]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in found}


def _system() -> dict[str, Any]:
    release = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    return {
        "name": release.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME)),
        "load": os.getloadavg(),
        "user": os.geteuid(),
    }


def _cpu() -> dict[str, Any]:
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    return {
        "model": fields.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)),
        "numa_nodes": nodes,
        "flags": fields.get("flags", fields.get("Features", "")),
    }


def _memory() -> dict[str, Any]:
    room, memory = room_for_memory(), psutil.virtual_memory()
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return {
        "total": memory.total,
        "available": memory.available,
        "room": {"bytes": room.bytes, "limit": room.limit},
        "huge_pages": {name: fields[name].strip() for name in fields if name.startswith("HugePages")},
        "swap": psutil.swap_memory().total,
    }


def _disk(path: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(path)
    return {"path": str(path), "total": usage.total, "free": usage.free}
