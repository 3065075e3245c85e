"""The writing side of the flight recorder. A process has one; its endpoints, its log and its life write to it.

Where there can be none (switched off, no room, no directory) everything works without: the reason is logged once.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

import msgspec

from bus.blackbox import files, form
from bus.blackbox.form import CUT, END, HIDDEN, LOG, META, REFUSED, STATE, Head
from bus.blackbox.privacy import CONTENT, KEYS
from bus.blackbox.ring import Ring
from bus.build import BUILD
from bus.config import BlackboxConfig, parse_size

log = logging.getLogger(__name__)

FRAME_BYTES: Final = 4096  # of a message that are kept; what is longer is cut
EVENT_BYTES: Final = 8192  # of a log line with its traceback, whose end says most
RESERVE_BYTES: Final = 64 << 20  # of the run directory's file system: streams' journals matter more
PEER_BYTES: Final = 80  # of names, which a peer chooses for itself
HEADER_BYTES: Final = 256
_LEFT_OUT: Final = "\n…\n".encode()

_now = time.monotonic_ns
_meta = META.pack
_encode = msgspec.msgpack.Encoder().encode


class Recorder:
    """Writes to one file, of one incarnation.

    Args:
        path: of the file; without one, nothing is recorded.
        content: record prompts and tokens too.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(
        self, path: Path | None = None, size: int = 0, *, name: str = "", epoch: int = 0, content: bool = False
    ) -> None:
        self.on = path is not None
        self._hide = KEYS if content else CONTENT
        self._lock = threading.Lock()  # log lines come from any thread
        self._fatal: TextIO | None = None
        self._path = path
        if path is None:
            return
        key = int.from_bytes(os.urandom(8), "little")
        head = Head(name, epoch, os.getpid(), BUILD, form.boot_id(), key, time.time_ns(), _now(), size)
        memory = _map(path, size)
        memory[: len(head.encode())] = head.encode()
        (start, middle), (_, end) = head.rings
        self._memory = memory
        self._append = Ring(memory, start, middle, key).append
        self._events = Ring(memory, middle, end, key)

    @classmethod
    def open(cls, run: Path, name: str, epoch: int, config: BlackboxConfig) -> Recorder:
        """This incarnation's, with the files of older ones let go. One that records nothing where there can be none."""
        size = parse_size(config.size)
        if not size:
            return cls()
        try:
            directory = files.directory(run, create=True)
            files.let_go(directory, name, keep=config.incarnations - 1)
            room = os.statvfs(directory)
            if room.f_bavail * room.f_frsize < size + RESERVE_BYTES:
                raise OSError(errno.ENOSPC, f"less than {RESERVE_BYTES >> 20} MiB would be left")
            path = files.recording_path(directory, name, epoch)
            recorder = cls(path, size, name=name, epoch=epoch, content=config.content)
        except OSError as error:
            log.warning("no flight recorder in %s: %s ([blackbox] size)", run, error.strerror)
            return cls()
        recorder._catch_fatal(files.fatal_path(path))
        return recorder

    # --- messages --------------------------------------------------------------------------------------------------

    def message(self, kind: int, channel: int, peer: bytes, head: bytes, frame: bytes, body: object) -> None:
        """A message came or goes. `frame` is `body` as bytes, `kind` is `RECEIVED` or `SENT`."""
        if not self.on:
            return
        size, flags = len(frame), 0
        hide = self._hide.get(type(body))
        if hide is not None:
            kept = hide(body)
            if kept is not body:
                frame, flags = _encode(kept), HIDDEN
        if len(frame) > FRAME_BYTES:
            frame, flags = frame[:FRAME_BYTES], flags | CUT
        if len(peer) > PEER_BYTES or len(head) > HEADER_BYTES:
            peer, head = peer[:PEER_BYTES], head[:HEADER_BYTES]
        # Endpoints are used on one thread, so no lock. A join is one copy.
        self._append(b"".join((_meta(_now(), kind, channel, flags, len(peer), size, len(head)), peer, head, frame)))

    def refused(self, channel: int, peer: bytes, size: int, why: str) -> None:
        """Something came that is no message. What it says is not ours to keep."""
        if self.on:
            peer, text = peer[:PEER_BYTES], why.encode("utf-8", "replace")[:FRAME_BYTES]
            self._append(_meta(_now(), REFUSED, channel, 0, len(peer), size, 0) + peer + text)

    # --- events ----------------------------------------------------------------------------------------------------

    def state(self, text: str) -> None:
        """The process is something else from now on."""
        self._event(STATE, text)

    def line(self, text: str) -> None:
        """It says something in its log."""
        self._event(LOG, text)

    def end(self, code: int) -> None:
        """It ends by itself."""
        self._event(END, f"exit {code}")

    def _event(self, kind: int, text: str) -> None:
        if self.on:
            data = text.encode("utf-8", "replace")
            most = min(EVENT_BYTES, self._events.largest - META.size)
            if len(data) > most:
                data = data[: most // 4] + _LEFT_OUT + data[len(_LEFT_OUT) + most // 4 - most :]
            meta = _meta(_now(), kind, 0, 0, 0, len(data), 0)
            with self._lock:
                if self.on:  # another thread may have closed it
                    self._events.append(meta + data)

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing more is recorded. The file stays; that of fatal signals only where something is in it."""
        if not self.on:
            return
        with self._lock:
            self.on = False
            self._memory.close()
        if self._fatal is not None:
            faulthandler.enable(sys.__stderr__ or 2)
            self._fatal.close()
            if self._path is not None:
                files.drop_empty(files.fatal_path(self._path))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _catch_fatal(self, path: Path) -> None:
        """Stacks of all threads at SIGSEGV, SIGBUS, SIGABRT, SIGFPE and SIGILL go beside the recording: no code of ours
        can run then, so they cannot go into it."""
        try:
            self._fatal = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w")
        except OSError as error:
            log.warning("stacks at fatal signals go to the log: %s", error)
        else:
            faulthandler.enable(self._fatal)


class RecorderHandler(logging.Handler):
    """Log lines for the recorder."""

    def __init__(self, recorder: Recorder, form: logging.Formatter) -> None:
        super().__init__()
        self._recorder = recorder
        self.setFormatter(form)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a log line that cannot be recorded is still written."""
        try:
            self._recorder.line(self.format(record))
        except Exception:
            self.handleError(record)


NOTHING: Final = Recorder()
"""Records nothing: of programs that are no processes of the stack."""


def _map(path: Path, size: int) -> mmap.mmap:
    """A new file, all of it reserved: on a file system that is full, a page that is not there yet would be SIGBUS."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        # All of it mapped at once: a page that is first touched later would cost more than what is written there.
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
