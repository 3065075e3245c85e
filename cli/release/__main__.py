"""The first release of a host, made by a bare Python straight from the wheel.

PYTHONPATH=headrace-0.1.0-py3-none-any.whl python3 -m cli.release headrace-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cli.release.commands import KEEP, Asked, install, prune
from cli.release.shelf import ROOT


def main() -> int:
    """Install, as `headrace release install` does, and prune."""
    parser = argparse.ArgumentParser(prog="python3 -m cli.release", description=__doc__)
    parser.add_argument("wheel", type=Path, help="the wheel of headrace, or a directory with it")
    parser.add_argument("--wheels", type=Path, help="a directory with all other wheels; no index is asked then")
    parser.add_argument("--torch", default="", choices=["cpu", "cuda"], help="which build of torch")
    parser.add_argument("--root", type=Path, default=ROOT, help="where releases are")
    given = parser.parse_args()
    code = install(Asked(given.wheel, given.wheels, given.torch, root=given.root), os.environ)
    return code or prune(KEEP, given.root, dry=False)


if __name__ == "__main__":
    sys.exit(main())
