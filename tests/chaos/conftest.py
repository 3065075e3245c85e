"""Makes the harness importable by its own name, and the stack that it shares with `tests/system`."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
# The project itself first: folders of tests have the names of what they test, and would hide it.
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "system")]
