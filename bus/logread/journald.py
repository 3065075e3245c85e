"""The journal as a source of records, by `journalctl` as a process of its own.

Its pipe is read as far as somebody wants to know and no further: a screen that is not looked at makes journalctl wait,
and nobody else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from bus.logread.records import LogRecord, from_journal

NAMESPACE: Final = "headrace"
BACKLOG_LINES: Final = 5000
POLL_BYTES: Final = 1 << 20
LONGEST_LINE: Final = 256 << 10
_PERMISSION: Final = ("insufficient permissions", "Permission denied", "not seeing messages")


def command(since_s: float, *, follow: bool, namespace: str = NAMESPACE) -> list[str]:
    """The command line; `since_s` is seconds since 1970."""
    asked = [
        "journalctl",
        f"--namespace={namespace}",
        "--output=json",
        "--all",
        f"--lines={BACKLOG_LINES}",
        "--no-pager",
    ]
    asked += [f"--since=@{since_s:.0f}"] if since_s else []
    return [*asked, "--follow"] if follow else asked


class JournalSource:
    """A running journalctl.

    Args:
        asked: its command line, see `command`.

    Attributes:
        problem: why nothing comes, and what to do; empty where it comes.
        suppressed: lines that the journal says it left out.
        ended: journalctl has nothing more to say.
    """

    label = "journal"

    def __init__(self, asked: Sequence[str]) -> None:
        self.problem = ""
        self.suppressed = 0
        self.ended = False
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        if shutil.which(asked[0]) is None:
            self.problem = f"{asked[0]} is not installed: the journal cannot be read here"
            self.ended = True
            return
        self._process = subprocess.Popen(
            list(asked),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)

    def poll(self) -> list[LogRecord]:
        """What it has said since the last time. Never waits."""
        process = self._process
        if process is None or process.stdout is None:
            return []
        data, over = b"", False
        while len(data) < POLL_BYTES:
            try:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                over = True
                break
            data += chunk
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= LONGEST_LINE else b""
        records = [record for line in whole if line and (record := from_journal(line)) is not None]
        self.suppressed += sum(record.suppressed for record in records)
        if over:
            self._end(process, empty=not records)
        return records

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._end(self._process, empty=False)

    def _end(self, process: subprocess.Popen[bytes], *, empty: bool) -> None:
        self.ended, self._process = True, None
        assert process.stdout is not None
        assert process.stderr is not None
        code = process.wait()
        try:
            said = process.stderr.read(4096) or b""
        except OSError:
            said = b""
        process.stdout.close()
        process.stderr.close()
        if code > 0 or (empty and said):
            self.problem = explain(said.decode("utf-8", "replace"), code)


def explain(said: str, code: int) -> str:
    """Why journalctl does not work, and what to do."""
    first = next((line.strip() for line in said.splitlines() if line.strip()), f"journalctl ended with {code}")
    if any(word in said for word in _PERMISSION):
        return f"{first}: join the group systemd-journal (usermod -aG systemd-journal USER), or ask as root"
    if "namespace" in said.lower() or "No such file" in said:
        return f"{first}: the units of headrace do not run under systemd here; headrace up writes log files"
    return f"{first}: the journal cannot be reached; see systemctl status systemd-journald@{NAMESPACE}"
