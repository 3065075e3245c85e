"""Machines for these tests; the helper modules beside them are importable without a package."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from installation import Installation, installed
from machine import why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where no machine can be booted, what needs one is skipped, and says why."""
    here = [item for item in items if item.get_closest_marker("machine") and Path(__file__).parent in item.path.parents]
    if here and (reason := why_not()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def here() -> Iterator[Installation]:
    """headrace installed in a machine and ready, for all tests."""
    with installed() as installation:
        yield installation
