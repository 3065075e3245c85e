"""A clock that jumps: epochs go up all the same, and nothing else asks the wall clock but for a date to show."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from bus.identity import claim

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "bus",
    "ingress",
    "scheduler",
    "workers",
    "kv",
    "metrics",
    "accounts",
    "batch",
    "admin_tui",
    "cli",
    "headrace_client",
)

# Every use of the wall clock, and why it may be one.
ALLOWED = {
    "admin_tui/archive.py": "from when on logs are shown",
    "admin_tui/feed.py": "usage since midnight, or of the last days",
    "admin_tui/logs/view.py": "the last hour of logs",
    "cli/actions.py": "the last hour of the audit log",
    "cli/logs.py": "the last hour of logs",
    "bus/vocabulary.py": "for how long nobody has held a file: by when it was written",
    "scheduler/adapters.py": "since when an adapter is there, as `/v1/models` tells it",
    "bus/control.py": "when an operator did something, in the audit log",
    "bus/blackbox/recorder.py": "beside CLOCK_MONOTONIC at a recording's start: its moments are shown as dates",
    "bus/identity.py": "a floor for epochs, which count up from the file; and a visitor's name",
    "cli/blackbox/command.py": "what `--since 14:05` means",
    "cli/report/command.py": "the date of a report, and its name",
    "headrace_client/_async.py": "a floor for the client's epochs, which count up",
    "cli/release/making.py": "when a release was made",
    "cli/usage.py": "what `--since 24h` means",
    "accounts/service.py": "budgets begin anew by date, keys expire by date",
    "batch/service.py": "batches and files expire by date",
    "cli/accounts/command.py": "what `--expires 90d` means",
    "cli/accounts/show.py": "whether a key has expired",
    "ingress/mirror.py": "the date of a mirrored call",
    "ingress/routing.py": "prices hold by date; `created` of a route's card",
    "ingress/upstreams/upstreams.py": "`created` of a model's card",
    "ingress/upstreams/wire.py": "`Retry-After` may be a date",
    "ingress/gate/charging.py": "prices hold by date",
    "ingress/gate/gate.py": "keys expire by date, prices hold by date",
    "ingress/accounts.py": "the date of a record of usage",
    "ingress/api/pipeline.py": "`created` of an answer",
    "ingress/journal.py": "ages of directories that dead ingresses left, by which they are cleaned up",
    "ingress/text/template.py": "the date that a chat template asks for",
    "ingress/cache/orders.py": "when the cache was calibrated",
    "ingress/cache/semantic/lookup.py": "when a namespace switched itself off",
    "ingress/cache/store.py": "answers are kept until a date, for all processes of a host",
    "ingress/spool.py": "ages of spools that dead ingresses left",
    "metrics/ledger/database.py": "the name of a damaged ledger that is put aside",
    "metrics/ledger/keeper.py": "hours and days that usage is summed by, and prices hold in",
    "metrics/tracing/exporter.py": "OpenTelemetry wants spans by date",
    "metrics/service.py": "when somebody acknowledged a finding, and until when it is silenced",
    "metrics/host/vitals.py": "how old crash reports are, whose names are dates",
    "metrics/exposition.py": "Prometheus wants the start of a process as a date",
    "workers/weights/store.py": "ages of files, by which they are cleaned up",
}  # fmt: skip


def test_epochs_go_up_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs, now = [], time.time()
    for shift_s in (0, -7 * 3600, -30 * 86400, 0, -5):
        monkeypatch.setattr(time, "time", lambda shift_s=shift_s: now + shift_s)
        mine = claim("kv@host", tmp_path)
        mine.release()
        epochs.append(mine.epoch)
    assert epochs == sorted(set(epochs))


def test_nothing_else_uses_the_wall_clock() -> None:
    """Time that passes is CLOCK_MONOTONIC's: `time.monotonic`, `Loop.now_ns`."""
    asks = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(|\bCLOCK_REALTIME\b")
    users = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if asks.search(path.read_text())
    }
    assert users == set(ALLOWED)
