"""Makes the harness importable by its own name, and the stack that it shares with `tests/system`."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "system")]
