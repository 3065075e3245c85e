"""The helper modules beside these tests are importable without a package."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stage import Stage


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user may enter, as releases need: pytest's own are shut."""
    path = Path(tempfile.mkdtemp(prefix="headrace-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stage(home: Path) -> Stage:
    return Stage(home)
