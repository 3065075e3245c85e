"""Another release of headrace, for tests of upgrades: with this folder on PYTHONPATH, a process takes itself for what
`NAME.release` in the run directory says, a command for what $HEADRACE_TEST_RELEASE says:

    {"build": "9.9.9", "protocols": [1, 2], "layout": 3}

Python imports a module of this name at start.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def _said() -> str:
    words = sys.orig_argv
    if "cli.main" not in words:
        return ""
    if "run" in words:
        file = Path(os.environ["HEADRACE_RUN"]) / f"{words[words.index('run') + 1]}.release"
        return file.read_text() if file.exists() else ""
    return os.environ.get("HEADRACE_TEST_RELEASE", "")


if _text := _said():
    _release = json.loads(_text)
    import bus.build
    import bus.wire

    bus.build.BUILD = _release["build"]  # type: ignore[misc]
    bus.wire.PROTOCOLS = bus.wire.Protocols(*_release["protocols"])  # type: ignore[misc]
    if "layout" in _release:
        import kv.layout

        kv.layout.VERSION = _release["layout"]  # type: ignore[misc]
