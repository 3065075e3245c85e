"""kv under SIGKILL. `torture` says what is done and checked; `make test-torture` does it for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


@pytest.mark.timeout(3600)
def test_no_wrong_byte_and_no_page_lost(request: pytest.FixtureRequest) -> None:
    loops = request.config.getoption("--torture-loops")
    command = [sys.executable, str(Path(__file__).parent / "torture.py"), "--loops", str(loops)]
    done = subprocess.run([*command, "--audit-every", "20"], capture_output=True, text=True)
    print(done.stdout)  # the figures
    assert done.returncode == 0, done.stdout + done.stderr
