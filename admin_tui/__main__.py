"""`python -m admin_tui`: the same as `headrace top`, for development and the end-to-end test."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from admin_tui.app import run
from bus.config import Config


def main() -> int:
    """Parse the options of `headrace top`."""
    parser = argparse.ArgumentParser(prog="python -m admin_tui", description="The operator's screen.")
    parser.add_argument("--replay", type=Path, metavar="FILE.ndjson", help="play a recording")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--once", action="store_true", help="print one snapshot and end")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--plain", action="store_true", help="print lines instead of drawing")
    given = parser.parse_args()
    return run(
        Config(), replay=given.replay, ascii=given.ascii, once=given.once, json=given.json, plain=given.plain
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
