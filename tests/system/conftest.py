"""One stack for all tests of a module; the helper module beside these tests, importable without a package."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # first: folders of tests have the names of what they test
sys.path.insert(0, str(Path(__file__).parents[1] / "monitoring"))
sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))
sys.path.insert(0, str(Path(__file__).parent))

from stack import SMOLLM2, Stack, running


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The demo model behind two ingresses."""
    with running(SMOLLM2, ingresses=2) as stack:
        yield stack
