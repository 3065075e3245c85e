"""What a file of the recorder looks like. Numbers and bytes only.

    head 4 KiB │ ring of messages, seven eighths │ ring of events, one eighth

Events (states, log lines, the end) have a ring of their own: a flood of messages does not wash away why it came.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

from bus.blackbox.ring import check

VERSION: Final = 1
HEAD_BYTES: Final = 4096
_MAGIC: Final = b"HRBLACKB"
_HEAD: Final = struct.Struct("<8sIIQQQQQ16s80s40s")

# Kinds of records. Values are stored: they are never given another meaning.
RECEIVED, SENT, STATE, LOG, END, REFUSED = 1, 2, 3, 4, 5, 6
EVENTS: Final = frozenset({STATE, LOG, END})

# Flags of a record.
HIDDEN: Final = 1  # prompts, tokens and secrets were taken out: their bytes say how many there were
CUT: Final = 2  # the frame was longer than what is kept of it

META: Final = struct.Struct("<QBBBBIH")  # time, kind, channel, flags, peer bytes, size of the whole, header bytes


class Head(NamedTuple):
    """Whose file it is. The two clocks were read at the same moment."""

    name: str
    epoch: int
    pid: int
    build: str
    boot: bytes
    key: int
    wall_ns: int
    monotonic_ns: int
    size: int

    def encode(self) -> bytes:
        """For the start of the file."""
        fields = _HEAD.pack(
            _MAGIC, VERSION, self.pid, self.epoch, self.key, self.wall_ns, self.monotonic_ns, self.size, self.boot,
            self.name.encode()[:80], self.build.encode()[:40],
        )  # fmt: skip
        return fields + check(fields).to_bytes(8, "little")

    @property
    def rings(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """From where to where the messages are, and the events."""
        middle = HEAD_BYTES + (self.size - HEAD_BYTES) // 8 * 7 // 8 * 8
        return (HEAD_BYTES, middle), (middle, self.size // 8 * 8)


def decode_head(data: bytes | memoryview) -> Head | None:
    """None where these bytes are not the start of such a file, or of one of another version."""
    if len(data) < _HEAD.size + 8:
        return None
    fields = bytes(data[: _HEAD.size])
    magic, version, pid, epoch, key, wall_ns, monotonic_ns, size, boot, name, build = _HEAD.unpack(fields)
    told = int.from_bytes(data[_HEAD.size : _HEAD.size + 8], "little")
    if magic != _MAGIC or version != VERSION or check(fields) != told:
        return None
    return Head(_text(name), epoch, pid, _text(build), boot, key, wall_ns, monotonic_ns, size)


def boot_id() -> bytes:
    """Of this run of the kernel: clocks of another one mean nothing."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")
